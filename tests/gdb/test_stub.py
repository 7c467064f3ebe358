"""The stub, spoken to as gdb speaks, and as no gdb would."""

import random
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import abi
from emu.code.symbols import Symbols
from emu.gdb import target
from emu.gdb.packets import Packets
from emu.gdb.stub import Stub
from emu.guest import load_guest
from emu.history.history import History
from emu.scenario import Config
from emu.view.session import Session
from tests.effort import EFFORT

BUSY = Config(vcpus=2, tasks=("busy",))


class Client:
    """One end of a connection, the other one being a stub for `guest`."""

    def __init__(self, guest: str, config: Config = Config()) -> None:
        self._socket, theirs = socket.socketpair()
        stubs: list[Stub] = []
        self.history = History(
            load_guest(guest), config, heartbeat=lambda: [stub.interrupted() for stub in stubs] and None
        )
        stubs.append(Stub(Session(self.history, {}), Packets(theirs)))
        self._thread = threading.Thread(target=stubs[0].serve, daemon=True)
        self._thread.start()
        self._socket.settimeout(30)
        assert self.ask("QStartNoAckMode") == "OK"

    def ask(self, content: str) -> str:
        self.send(content)
        return self.answer()

    def send(self, content: str) -> None:
        data = content.encode("latin-1")
        self._socket.sendall(b"$" + data + b"#%02x" % (sum(data) & 0xFF))

    def raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> str:
        data = b""
        while True:
            data += self._socket.recv(1)
            if data[-3:-2] == b"#":
                return data.lstrip(b"+-")[1:-3].decode("latin-1")

    def register(self, name: str) -> int:
        number = [one.name for one in target.registers(True)].index(name)
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    def close(self) -> bool:
        self._socket.close()
        self._thread.join(10)
        return not self._thread.is_alive()


@pytest.fixture
def client() -> Iterator[Client]:
    one = Client("clock", BUSY)
    yield one
    assert one.close()


def symbol(name: str) -> int:
    found = Symbols.of(load_guest("clock").source).address(name)
    assert found is not None
    return found


def test_600_random_steps_forward_and_back_are_identical() -> None:
    client, drawn = Client("readers/seqlock"), random.Random(1)
    met: dict[int, str] = {}
    count = 0
    for _ in range(600):
        forward = count == 0 or drawn.random() < 0.55
        client.ask("s" if forward else "bs")
        count = client.history.machine.instructions
        registers = client.ask("g") + client.ask("m102000,40")
        at = client.history.position
        assert met.setdefault(at, registers) == registers
    assert len(met) > 30
    assert client.close()


def test_breakpoint_stops_in_both_directions(client: Client) -> None:
    main = symbol("main")
    assert client.ask(f"Z0,{main:x},1") == "OK"
    assert client.ask("c") == "T05thread:1;swbreak:;"
    assert client.register("rip") == main
    assert client.ask("c") == "T05thread:2;swbreak:;"
    assert client.ask("bc") == "T05thread:1;swbreak:;"
    assert client.ask("bc") == "T05thread:1;replaylog:begin;"
    assert client.ask(f"z0,{main:x},1") == "OK"
    assert "replaylog:end" in client.ask("c")


def test_watchpoint_sees_the_hosts_stores_and_backwards_the_old_value(client: Client) -> None:
    version = symbol("steal_areas") + abi.KVM_STEAL_TIME_VERSION
    assert client.ask(f"Z2,{version:x},4") == "OK"
    seen = []
    for _ in range(3):
        assert client.ask("c") == f"T05thread:{client.history.machine.acting.number + 1};watch:{version:x};"
        seen.append(client.ask(f"m{version:x},4"))
    assert seen == ["02000000", "04000000", "06000000"]
    back = []
    for _ in range(3):
        assert f"watch:{version:x};" in client.ask("bc")
        back.append(client.ask(f"m{version:x},4"))
    assert back == ["04000000", "02000000", "00000000"]
    assert "replaylog:begin" in client.ask("bc")


def test_read_watchpoint_stops_before_the_load(client: Client) -> None:
    area = symbol("steal_areas")
    client.ask(f"Z3,{area:x},8")
    assert f"rwatch:{area:x};" in client.ask("c")


def test_threads_are_vcpus(client: Client) -> None:
    assert client.ask("qfThreadInfo") == "m1,2" and client.ask("qsThreadInfo") == "l"
    assert client.ask("T2") == "OK" and client.ask("T3") == "E01"
    assert bytes.fromhex(client.ask("qThreadExtraInfo,2")).startswith(b"vcpu1 ")
    assert client.ask("Hg2") == "OK" and client.register("rdi") == 1
    assert client.ask("Hg1") == "OK" and client.register("rdi") == 0


def test_writes_are_edits(client: Client) -> None:
    number = [one.name for one in target.registers(True)].index("r15")
    assert client.ask(f"P{number:x}=7700000000000000") == "OK"
    assert client.register("r15") == 0x77
    assert client.ask("M3000,2:00ff") == "OK" and client.ask("m3000,2") == "00ff"
    msr = [one.name for one in target.registers(True)].index("kvm_steal_time")
    assert client.ask(f"P{msr:x}=0110140000000000") == "OK" and client.register("kvm_steal_time") == 0x141001
    assert client.ask(f"P{msr:x}=3f00000000000000").startswith("E.emu: ")
    assert len(client.history.edits) == 3


def test_monitor_takes_the_words_of_a_session(client: Client) -> None:
    def monitor(words: str) -> str:
        return bytes.fromhex(client.ask(f"qRcmd,{words.encode().hex()}")).decode()

    assert "no steal-time area" in monitor("steal")
    assert "vcpu0" in monitor("schedule") and "task0" in monitor("schedule")
    assert "position" in monitor("where")
    assert "did you mean" in monitor("stpe")
    assert "step [N]" in monitor("help")


def test_description_and_map_come_in_parts(client: Client) -> None:
    text, offset = "", 0
    while True:
        part = client.ask(f"qXfer:features:read:target.xml:{offset:x},100")
        text, offset = text + part[1:], offset + len(part) - 1
        if part[0] == "l":
            break
    assert text == target.description(True)
    assert 'length="0x1000000"' in client.ask("qXfer:memory-map:read::0,1000")


def test_ctrl_c_stops_a_guest_that_runs_on() -> None:
    client = Client("hog", Config(insn_limit=4_000_000_000, time_limit_ps=10**15))
    client.send("c")
    client.raw(b"\x03")
    assert client.answer() == "T02thread:1;"
    position = client.history.position
    assert client.ask("s") == "T05thread:1;" and client.history.position > position
    assert client.close()


MALFORMED = (
    *("", "g0", "m", "mzz,1", "m0", "m0,zz", "M0,4:00", "Mzz", "p", "pff", "P0", "P0=zz", "Z9,0,0", "Z0", "Hgzz"),
    *("Tzz", "vCont;x", "qXfer:features:read:other.xml:0,10", "qRcmd,zz", "qThreadExtraInfo,99", "bq", "X0,0:"),
    *("G", "G00", "\xff\xfe", "m" + "f" * 300),
)


@pytest.mark.parametrize("packet", MALFORMED)
def test_malformed_packet_gets_an_answer_and_the_stub_goes_on(client: Client, packet: str) -> None:
    client.ask(packet)
    assert client.ask("qC") == "QC1"


def test_noise_wrong_checksums_and_a_killed_client_end_nothing(client: Client) -> None:
    client.raw(b"noise +++ --- $qC#00 $$$ #" + b"x" * 5000 + b"#00")
    assert client.ask("qC") == "QC1"


@settings(max_examples=25 * EFFORT, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12))
def test_no_bytes_end_the_stub(chunks: list[bytes]) -> None:
    client = Client("hello")
    for chunk in chunks:
        client.raw(chunk.replace(b"$D", b"").replace(b"$k", b"").replace(b"$vKill", b""))
    client.raw(b"#00")
    client.send("qC")
    answers = [client.answer()]
    while "QC" not in answers[-1]:
        answers.append(client.answer())
    assert client.close()
