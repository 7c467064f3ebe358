"""The stub: each packet of gdb's is answered from a history, of which it is one more viewer.

What gdb changes becomes an edit, so a session can be recorded. A step is one unit of guest work of the vCPU whose turn
it is; what the host does in between belongs to it. Watchpoints see the host's stores as well as the guest's.

Source: the GDB manual, appendix "GDB Remote Serial Protocol".
"""

import binascii
import contextlib
import re
from collections.abc import Callable

from emu.faults import HostError
from emu.gdb import target
from emu.gdb.packets import INTERRUPT, Gone, Packets
from emu.history.conditions import AnyOf, At, Before, Changes, Noticed, Touches
from emu.history.edits import SetMemory, SetMsr, SetRegister
from emu.history.history import History
from emu.package import Package
from emu.state import GENERAL
from emu.view.session import Session

_TRAP = "05"
_INTERRUPTED = "02"
_MOST_MEMORY = 0x2000
_PAGE = 4096


Watched = tuple[int, int, int]  # kind, address, size


class Stop(Exception):
    """Ctrl-C in gdb while the guest was running."""


class Stub:
    """Serves one client on `packets`; `session` is the run and the words that `monitor` understands."""

    def __init__(self, session: Session, packets: Packets) -> None:
        self._session = session
        self._history: History = session.history
        self._packets = packets
        self._wide = target.is_wide(session.machine)
        self._registers = target.registers(self._wide)
        self._thread = 1  # for registers and memory
        self._breakpoints: set[int] = set()
        self._watches: dict[Watched, Noticed] = {}
        self._over = False
        self._answers: list[tuple[re.Pattern[str], Callable[..., str]]] = [
            (re.compile(pattern), answer) for pattern, answer in self._table()
        ]

    def serve(self) -> None:
        """Answer packets until the client leaves; whatever it sends, an answer is all that comes of it."""
        with contextlib.suppress(Gone):
            while not self._over:
                packet = self._packets.receive()
                self._packets.send(self._answer(packet))

    def interrupted(self) -> None:
        """Raise Stop where Ctrl-C was pressed; the history's heartbeat."""
        if self._packets.interrupted():
            raise Stop

    def _answer(self, packet: bytes) -> str:
        if packet == INTERRUPT:
            return self._stopped(_INTERRUPTED)
        text = packet.decode("latin-1")
        for pattern, answer in self._answers:
            found = pattern.fullmatch(text)
            if found is not None:
                try:
                    return answer(*found.groups())
                except HostError as error:
                    return "E.emu: " + error.sentence
                except (ValueError, IndexError, KeyError, OverflowError, binascii.Error):
                    return "E01"
        return ""  # "not supported"

    def _table(self) -> list[tuple[str, Callable[..., str]]]:
        h = "([0-9a-fA-F]+)"
        return [
            (r"qSupported.*", lambda: self._supported()),
            (r"QStartNoAckMode", self._no_acks),
            (r"\?", lambda: self._stopped(_TRAP)),
            (r"!", lambda: "OK"),
            (r"H[gc](-?[0-9a-fA-F]+)", self._select),
            (r"qC", lambda: f"QC{self._acting():x}"),
            (r"qfThreadInfo", lambda: "m" + ",".join(f"{one + 1:x}" for one in self._vcpus())),
            (r"qsThreadInfo", lambda: "l"),
            (rf"qThreadExtraInfo,{h}", self._thread_info),
            (rf"T{h}", lambda thread: "OK" if 1 <= int(thread, 16) <= len(self._vcpus()) else "E01"),
            (r"qAttached.*", lambda: "1"),
            (r"qSymbol.*", lambda: "OK"),
            (r"vMustReplyEmpty", lambda: ""),
            (r"vCont\?", lambda: "vCont;c;s;C;S"),
            (r"vCont;([csCS]).*", lambda action: self._continue() if action in "cC" else self._step()),
            (r"g", self._read_registers),
            (rf"G{h}", self._write_registers),
            (rf"p{h}", self._read_register),
            (rf"P{h}={h}", self._write_register),
            (rf"m{h},{h}", self._read_memory),
            (rf"M{h},{h}:([0-9a-fA-F]*)", self._write_memory),
            (r"c.*", self._continue),
            (r"s.*", self._step),
            (r"bs", self._step_back),
            (r"bc", self._continue_back),
            (rf"([Zz])([0-4]),{h},{h}.*", self._point),
            (r"qXfer:features:read:target\.xml:" + f"{h},{h}", self._features),
            (r"qXfer:memory-map:read::" + f"{h},{h}", self._memory_map),
            (rf"qRcmd,{h}", self._monitor),
            (r"D.*", self._leave),
            (r"k|vKill.*", self._leave),
        ]

    # --- what there is -----------------------------------------------------------------------------------------------

    def _supported(self) -> str:
        return (
            "PacketSize=4000;QStartNoAckMode+;ReverseStep+;ReverseContinue+;swbreak+;hwbreak+;vContSupported+;"
            "qXfer:features:read+;qXfer:memory-map:read+"
        )

    def _no_acks(self) -> str:
        self._packets.acknowledges = False
        return "OK"

    def _vcpus(self) -> range:
        return range(self._session.machine.config.vcpus)

    def _acting(self) -> int:
        acting = self._session.machine.acting
        return 1 if acting is None else acting.number + 1

    def _select(self, thread: str) -> str:
        number = int(thread, 16)
        if number > len(self._vcpus()):
            return "E01"
        self._thread = number if number > 0 else self._acting()
        return "OK"

    def _thread_info(self, thread: str) -> str:
        entity = self._session.machine.packages[int(thread, 16) - 1].entity
        words = {"running": "on a pCPU", "waiting": "waits for a pCPU", "blocked": "sleeps"}
        return f"vcpu{int(thread, 16) - 1} {words[entity.run_state]}".encode().hex()

    def _package(self) -> Package:
        return self._session.machine.packages[self._thread - 1]

    # --- registers and memory ----------------------------------------------------------------------------------------

    def _read_registers(self) -> str:
        rows = zip(self._registers, target.values(self._package(), self._wide), strict=True)
        return "".join("xx" * (one.bits // 8) if value is None else value.hex() for one, value in rows)

    def _read_register(self, number: str) -> str:
        one = self._registers[int(number, 16)]
        value = target.values(self._package(), self._wide)[int(number, 16)]
        return "xx" * (one.bits // 8) if value is None else value.hex()

    def _write_registers(self, data: str) -> str:
        at = 0
        for number, one in enumerate(self._registers):
            part = data[at : at + one.bits // 4]
            at += one.bits // 4
            if len(part) == one.bits // 4 and part != self._read_register(f"{number:x}"):
                self._write_register(f"{number:x}", part)
        return "OK"

    def _write_register(self, number: str, data: str) -> str:
        one = self._registers[int(number, 16)]
        value = int.from_bytes(bytes.fromhex(data), "little")
        vcpu = self._thread - 1
        name = {"eip": "rip", "eflags": "rflags"}.get(one.name, one.name)
        if not self._wide and "r" + name[1:] in GENERAL:
            name = "r" + name[1:]
        if name in target.MSRS:
            self._history.edit(SetMsr(vcpu, target.MSRS[name], value))
        elif name in (*GENERAL, "rip", "rflags"):
            self._history.edit(SetRegister(vcpu, name, value))
        else:
            return "E01"
        return "OK"

    def _read_memory(self, address: str, size: str) -> str:
        data = self._package().vcpu.read_linear(int(address, 16), min(int(size, 16), _MOST_MEMORY))
        return data.hex() if data or not int(size, 16) else "E01"

    def _write_memory(self, address: str, size: str, data: str) -> str:
        at, left = int(address, 16), bytes.fromhex(data)
        if len(left) != int(size, 16):
            return "E01"
        while left:
            gpa = self._package().vcpu.translate(at)
            if gpa is None:
                return "E01"
            part = left[: _PAGE - at % _PAGE]
            self._history.edit(SetMemory(gpa, part))
            at, left = at + len(part), left[len(part) :]
        return "OK"

    # --- moving ------------------------------------------------------------------------------------------------------

    def _step(self, *_: str) -> str:
        machine = self._session.machine
        insns = machine.instructions
        while not self._history.ended and machine.instructions == insns:
            self._history.step()
        return self._stopped(_TRAP)

    def _step_back(self) -> str:
        machine = self._session.machine
        insns = machine.instructions
        while self._history.position and machine.instructions == insns:
            self._history.back()
        return self._stopped(_TRAP, begin=not self._history.position)

    def _continue(self, *_: str) -> str:
        return self._travel(forward=True)

    def _continue_back(self) -> str:
        return self._travel(forward=False)

    def _travel(self, *, forward: bool) -> str:
        history = self._history
        points: list[Noticed] = [At(tuple(self._breakpoints))] if self._breakpoints else []
        # Backwards, gdb expects to stand where the value is still the old one.
        points += [one if forward or isinstance(one, Touches) else Before(one) for one in self._watches.values()]
        before = {key: self._watched(key) for key in self._watches}
        try:
            if not points:
                if forward:
                    history.end()
                else:
                    history.go(0)
                return self._stopped(_TRAP, begin=not forward)
            found = history.run_to(AnyOf(tuple(points))) if forward else history.back_to(AnyOf(tuple(points)))
        except Stop:
            return self._stopped(_INTERRUPTED)
        if not found:
            if not forward:
                history.go(0)
            return self._stopped(_TRAP, begin=not forward)
        return self._stopped(_TRAP, watched=before)

    def _watched(self, key: Watched) -> bytes:
        return self._package().vcpu.read_linear(key[1], key[2])

    def _stopped(
        self, signal: str, *, begin: bool = False, watched: dict[tuple[int, int, int], bytes] | None = None
    ) -> str:
        """Why the guest stands still: the end of the history, a breakpoint, a watchpoint, or nothing special."""
        self._thread = self._acting()
        thread = f"thread:{self._thread:x};"
        if begin:
            return f"T{_TRAP}{thread}replaylog:begin;"
        if self._history.ended:
            return f"T{_TRAP}{thread}replaylog:end;"
        pc = self._package().vcpu.pc()
        if watched is not None:
            if pc in self._breakpoints:
                return f"T{signal}{thread}swbreak:;"
            names = {2: "watch", 3: "rwatch", 4: "awatch"}
            changed = [key for key in watched if watched[key] != self._watched(key)]
            for kind, address, _ in changed or list(watched):
                return f"T{signal}{thread}{names[kind]}:{address:x};"
        return f"T{signal}{thread}"

    def _point(self, sets: str, kind: str, address: str, size: str) -> str:
        at, length = int(address, 16), max(int(size, 16), 1)
        if kind in "01":
            (self._breakpoints.add if sets == "Z" else self._breakpoints.discard)(at)
            return "OK"
        key = int(kind), at, length
        if sets == "z":
            self._watches.pop(key, None)
            return "OK"
        if kind == "2":
            self._watches[key] = Changes(at, length)
        elif kind == "3":
            self._watches[key] = Touches(((at, length),))
        else:
            self._watches[key] = AnyOf((Changes(at, length), Touches(((at, length),))))
        return "OK"

    # --- the rest ----------------------------------------------------------------------------------------------------

    def _features(self, offset: str, length: str) -> str:
        return _part(target.description(self._wide), offset, length)

    def _memory_map(self, offset: str, length: str) -> str:
        return _part(target.memory_map(self._session.machine), offset, length)

    def _monitor(self, text: str) -> str:
        words = bytes.fromhex(text).decode("utf-8", "replace")
        shown = {"steal": "area", "schedule": "host", "explain": "step"}.get(words.strip(), words)
        try:
            lines = self._session.say(shown) if shown.strip() else self._session.say("help")
        except HostError as error:
            lines = [error.sentence]
        self._session.over = False
        return ("\n".join(lines) + "\n").encode("utf-8").hex()

    def _leave(self, *_: str) -> str:
        self._over = True
        return "OK"


def _part(text: str, offset: str, length: str) -> str:
    first, most = int(offset, 16), int(length, 16)
    return ("l" if first + most >= len(text) else "m") + text[first : first + most]
