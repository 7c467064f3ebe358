"""A guest reaches nothing but its own RAM: not the host's window, not another vCPU, not what its CPU does not offer."""

import json
import random
import subprocess
import sys

import pytest

from emu import abi, exits
from emu.ram import Ram
from emu.vcpu.blocks import LONG
from emu.vcpu.engine import WINDOW, Engine
from tests.assemble import assemble
from tests.effort import EFFORT
from tests.vcpu.board import CODE, DATA, LONG0, LONG3, PM32, REAL16, SPAN, TABLES, Board, Flavour

DIRECTORY = TABLES + 0x2000


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Ram(2 * SPAN))


def stop(engine: Engine, source: str, flavour: Flavour = LONG0, budget: int = 50) -> exits.Exit:
    return Board(engine, flavour, assemble(source, flavour.code, flavour.bits)).vcpu.enter(budget)


@pytest.mark.parametrize("level", range(3))
def test_a_page_table_cannot_name_the_host_window(engine: Engine, level: int) -> None:
    one = Board(engine, LONG0, assemble(f"nop\nmov rax, [{DATA}]"))
    entry = (TABLES + 0x3000 + 8 * (DATA >> 12 & 511) + 0x1000, DIRECTORY + 8, TABLES + 0x1000)[level]
    if level == 2:  # all addresses go through this one: the fetch itself faults
        entry = TABLES + 0x1000
    one.ram.store(entry, 8, WINDOW | 0x87 if level == 1 else WINDOW | 7)
    exit_ = one.vcpu.enter(10)
    assert type(exit_) is exits.Fault and exit_.vector == abi.PF_VECTOR and exit_.error & 9 == 9


@pytest.mark.parametrize("value", [WINDOW, 1 << 40, 1 << 52, 1 << 63])
def test_cr3_refuses_bits_beyond_the_physical_addresses(engine: Engine, value: int) -> None:
    exit_ = stop(engine, f"mov rbx, {value | TABLES}\nmov cr3, rbx")
    assert exit_ == exits.Fault(CODE + 10, abi.GP_VECTOR, 0, None)


@pytest.mark.parametrize("bit", [0, 1, 6, 8, 11, 12, 13, 14, 16, 17, 18, 20, 21, 22, 23, 31, 32, 63])
def test_cr4_refuses_what_cpuid_does_not_offer(engine: Engine, bit: int) -> None:
    exit_ = stop(engine, f"mov rax, cr4\nbts rax, {bit}\nmov cr4, rax")
    assert type(exit_) is exits.Fault and (exit_.vector, exit_.error) == (abi.GP_VECTOR, 0)


def test_long_mode_cannot_lose_pae(engine: Engine) -> None:
    exit_ = stop(engine, "mov rax, cr4\nbtr rax, 5\nmov cr4, rax")
    assert type(exit_) is exits.Fault and (exit_.vector, exit_.error) == (abi.GP_VECTOR, 0)


ABSENT = {
    "vmrun": "0f01d8", "vmload": "0f01da", "vmsave": "0f01db", "stgi": "0f01dc", "clgi": "0f01dd", "skinit": "0f01de",
    "invlpga": "0f01df", "monitor": "0f01c8", "mwait": "0f01c9", "xsetbv": "0f01d1", "xgetbv": "0f01d0",
    "rdrand": "0fc7f0", "rdseed": "0fc7f8", "sysenter": "0f34", "sysexit": "0f35", "rsm": "0faa", "icebp": "f1",
}  # fmt: skip


@pytest.mark.parametrize("name", ABSENT)
@pytest.mark.parametrize("flavour", [LONG0, PM32, LONG3], ids=lambda f: f.name)
def test_an_instruction_that_is_not_offered_is_undefined(engine: Engine, name: str, flavour: Flavour) -> None:
    one = Board(engine, flavour, b"\x90\x90" + bytes.fromhex(ABSENT[name]) + b"\x90" * 8)
    exit_ = one.vcpu.enter(10)
    # SYSEXIT without SYSENTER_CS, which the engine always sees as 0, raises #GP.
    lenient = flavour is LONG3 or (flavour is PM32 and name == "sysexit")
    vectors = (abi.UD_VECTOR, abi.GP_VECTOR) if lenient else (abi.UD_VECTOR,)
    assert type(exit_) is exits.Fault and exit_.vector in vectors and exit_.rip == CODE + 2, exit_
    assert one.vcpu.retired == 2


def test_rdpmc_raises_gp(engine: Engine) -> None:
    assert stop(engine, "nop\nrdpmc") == exits.Fault(CODE + 1, abi.GP_VECTOR, 0, None)


def test_efer_svme_is_hidden_and_refused(engine: Engine) -> None:
    one = Board(engine, LONG0, assemble(f"mov ecx, {abi.MSR_EFER}\nrdmsr\nbts eax, 12\nwrmsr\nnop"))
    one.answer(one.until_exit(exits.Rdmsr))
    assert not one.vcpu.general("rax") & abi.EFER_SVME
    one.answer(one.until_exit(exits.Wrmsr))
    assert one.ram.load(one.vcpu.general("rsp") + 8, 8) == CODE + 11  # the frame of a #GP at the WRMSR
    assert not dict(one.vcpu.state().msrs)[abi.MSR_EFER] & abi.EFER_SVME


def test_outside_ram_reads_give_ones_and_writes_vanish(engine: Engine) -> None:
    for where in (2 * SPAN, 1 << 32, (1 << 40) - 0x200000):
        one = Board(
            engine, LONG0, assemble(f"mov rax, [{DATA}]\nmov qword ptr [{DATA + 8}], 5\nmov rbx, [{DATA + 8}]\nhlt")
        )
        one.ram.store(DIRECTORY + 8, 8, where | 0x87)
        assert type(one.vcpu.enter(10)) is exits.Hlt
        assert one.vcpu.general("rax") == one.vcpu.general("rbx") == (1 << 64) - 1


def test_outside_ram_nothing_can_be_executed(engine: Engine) -> None:
    one = Board(engine, LONG0, assemble(f"mov eax, {DATA}\njmp rax"))
    one.ram.store(DIRECTORY + 8, 8, 2 * SPAN | 0x87)
    assert one.vcpu.enter(10) == exits.Fault(DATA, abi.UD_VECTOR, None, None)
    assert one.vcpu.retired == 2
    assert one.vcpu.enter(10) == exits.Fault(DATA, abi.UD_VECTOR, None, None)


def test_page_tables_may_point_outside_ram(engine: Engine) -> None:
    one = Board(engine, LONG0, assemble(f"nop\nmov rax, [{DATA}]"))
    one.ram.store(DIRECTORY + 8, 8, 2 * SPAN | 7)  # a page table of ones: every entry has reserved bits
    exit_ = one.vcpu.enter(10)
    assert type(exit_) is exits.Fault and exit_.vector == abi.PF_VECTOR and exit_.address == DATA
    one = Board(engine, LONG0, assemble(f"mov rax, {1 << 39}\nmov cr3, rax\nnop"))
    exit_ = one.vcpu.enter(10)
    assert type(exit_) is exits.Fault and exit_.vector in (abi.PF_VECTOR, abi.UD_VECTOR)


def test_debug_registers_belong_to_one_vcpu_and_do_nothing_to_others(engine: Engine) -> None:
    arm = f"mov eax, {CODE + 0x40}\nmov dr0, rax\nmov eax, 0x403\nmov dr7, rax\nmov rbx, dr0\nmov rcx, dr7\nhlt"
    one = Board(engine, LONG0, assemble(arm))
    one.until_exit(exits.Hlt)
    assert (one.vcpu.general("rbx"), one.vcpu.general("rcx")) == (CODE + 0x40, 0x403)
    other = Board(engine, LONG0, b"\x90" * 0x80 + assemble("mov rbx, dr0\nmov rcx, dr7\nhlt"), 1, SPAN)
    assert type(other.vcpu.enter(0x90)) is exits.Hlt
    assert (other.vcpu.general("rbx"), other.vcpu.general("rcx")) == (0, 0x400)
    assert one.vcpu.state().debug[0] == CODE + 0x40


def test_interleaved_vcpus_share_nothing_but_ram(engine: Engine) -> None:
    count = f"L: inc rax\nmovd xmm0, eax\nfninit\nmov [{DATA}], rax\njmp L"
    boards = [Board(engine, LONG0, assemble(count), 0, 0), Board(engine, LONG0, assemble(count), 1, SPAN)]
    for turn in range(40):
        boards[turn % 2].vcpu.enter(5 + 5 * (turn % 2))
    for number, one in enumerate(boards):
        assert one.vcpu.general("rax") == 20 * (number + 1) == one.vcpu.state().xmm[0]
        assert one.ram.load(SPAN * number + DATA, 8) == 20 * (number + 1)


# --- hostile bytes ---------------------------------------------------------------------------------------------------

FLAVOURS = {flavour.name: flavour for flavour in (LONG0, LONG3, PM32, REAL16)}
# Bytes that begin something interesting, mixed in so that random code gets further than its first #UD.
_TELLING = bytes.fromhex(
    "0f01 0f22 0f20 0f30 0f32 0fa2 cc cd f4 e4 e6 ec ee 6c 6e f3 f2 66 67 9d 9c cf c8 8e 0fae 0fc7 ea 9a fb"
)


def hostile(name: str, first: int, count: int) -> list[int]:
    """Run `count` strings of random bytes; the numbers of those that went wrong."""
    flavour, bad = FLAVOURS[name], []
    engine = Engine(Ram(2 * SPAN))
    for number in range(first, first + count):
        rng = random.Random(f"hostile {name} {number}")
        code = bytes(rng.choice(_TELLING) if rng.random() < 0.4 else rng.randrange(256) for _ in range(256))
        one = Board(engine, flavour, code)
        if engine.blocks is not None:
            engine.blocks.long = rng.choice((0, LONG))
        one.vcpu.load(one.vcpu.state()._replace(general=tuple(
            rng.choice((rng.getrandbits(64), rng.getrandbits(22), rng.getrandbits(32))) if n != 4 else g
            for n, g in enumerate(one.vcpu.state().general)
        )))  # fmt: skip
        try:
            while one.vcpu.retired < 400 and one.shutdown is None and len(one.log) < 300:
                one.answer(one.vcpu.enter(rng.randrange(1, 100), window=rng.random() < 0.2))
            one.vcpu.state()
        except Exception as error:
            bad.append(number)
            print(f"{name} {number}: {type(error).__name__}: {error}", file=sys.stderr)
            engine = Engine(Ram(2 * SPAN))
    return bad


@pytest.mark.parametrize("name", FLAVOURS)
def test_random_bytes_never_reach_the_host(name: str) -> None:
    # In a process of its own: a crash of the engine would end this one without a word.
    imports, count = "import json; from tests.vcpu.test_isolation import hostile", 40 * EFFORT
    code = f"{imports}; print(json.dumps(hostile({name!r}, 0, {count})))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout) == [], run.stderr[-2000:]
