"""Every instruction that must stop the guest does, with its exact RIP and length, wherever, however it is written."""

from typing import Any

import pytest

from emu import abi, exits
from emu.ram import Ram
from emu.vcpu.engine import Engine
from tests.assemble import assemble
from tests.vcpu.board import (
    CODE,
    DATA,
    DATA_END,
    LONG0,
    LONG3,
    PM32,
    PM32_PAGED,
    REAL16,
    SPAN,
    STRANGE_MSR,
    Board,
    Flavour,
)

MODES = (LONG0, PM32, REAL16)
INSTRUCTIONS: dict[str, tuple[str, Any]] = {
    "cpuid": ("0fa2", exits.Cpuid),
    "rdmsr": ("0f32", exits.Rdmsr),
    "wrmsr": ("0f30", exits.Wrmsr),
    "rdtsc": ("0f31", exits.Rdtsc),
    "rdtscp": ("0f01f9", exits.Rdtsc),
    "hlt": ("f4", exits.Hlt),
    "vmcall": ("0f01c1", exits.Hypercall),
    "vmmcall": ("0f01d9", exits.Hypercall),
    "int": ("cd42", exits.SoftwareInterrupt),
    "int3": ("cc", exits.SoftwareInterrupt),
}
PREFIXES = (
    "",
    "66",
    "67",
    "f2",
    "f3",
    "2e",
    "36",
    "3e",
    "26",
    "64",
    "65",
    "6667",
    "f366",
    "f2f3",
    "2e6466f3",
    "66" * 9,
)
REX_PREFIXES = ("40", "48", "4f", "6648", "f348", "4066f348", "6448", "4848", "4048")
PORTS = {
    "in al, imm8": ("e4e9", 0xE9, 1),
    "in eax, imm8": ("e5e9", 0xE9, None),
    "in al, dx": ("ec", 0, 1),
    "in eax, dx": ("ed", 0, None),
    "out imm8, al": ("e6e9", 0xE9, 1),
    "out imm8, eax": ("e7e9", 0xE9, None),
    "out dx, al": ("ee", 0, 1),
    "out dx, eax": ("ef", 0, None),
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Ram(2 * SPAN))


def place(engine: Engine, flavour: Flavour, code: bytes, offset: int = 0) -> Board:
    """A board whose next instruction is the first of `code`, `offset` bytes into the code page."""
    board = Board(engine, flavour, b"\x90" * offset + code + b"\x90" * 16)
    if offset:
        board.vcpu.load(board.vcpu.state()._replace(rip=flavour.code + offset))
    return board


def check(board: Board, rip: int, code: bytes, kind: Any, before: int = 0) -> Any:
    exit_ = board.vcpu.enter(100)
    assert type(exit_) is kind, exit_
    assert (exit_.rip, exit_.length) == (rip, len(code))
    assert board.vcpu.rip == rip and board.vcpu.used == before
    return exit_


def written(flavour: Flavour) -> list[tuple[str, bytes]]:
    prefixes = PREFIXES + (REX_PREFIXES if flavour.bits == 64 else ())
    return [(prefix, bytes.fromhex(prefix)) for prefix in prefixes]


@pytest.mark.parametrize("flavour", MODES, ids=lambda f: f.name)
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_prefixed_form_is_reported_with_its_rip_and_length(engine: Engine, flavour: Flavour, name: str) -> None:
    opcode, kind = INSTRUCTIONS[name]
    for _, prefix in written(flavour):
        code = prefix + bytes.fromhex(opcode)
        check(place(engine, flavour, code), flavour.code, code, kind)


@pytest.mark.parametrize("flavour", MODES, ids=lambda f: f.name)
def test_pause_is_reported_in_all_modes(engine: Engine, flavour: Flavour) -> None:
    for prefix in ("f3", "66f3", "f366", "2ef3", "f3f3"):
        code = bytes.fromhex(prefix + "90")
        check(place(engine, flavour, code), flavour.code, code, exits.Pause)


@pytest.mark.parametrize("flavour", MODES, ids=lambda f: f.name)
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_the_place_in_the_block_does_not_matter(engine: Engine, flavour: Flavour, name: str) -> None:
    opcode, kind = INSTRUCTIONS[name]
    code = bytes.fromhex(opcode)
    for before in (0, 1, 7, 40):
        check(place(engine, flavour, b"\x90" * before + code), flavour.code + before, code, kind, before)
    after_jump = b"\x90\xeb\x02\x90\x90" + code + b"\xeb\x00"
    check(place(engine, flavour, after_jump), flavour.code + 5, code, kind, 2)


@pytest.mark.parametrize("flavour", [*MODES, PM32_PAGED], ids=lambda f: f.name)
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_an_instruction_may_straddle_two_pages(engine: Engine, flavour: Flavour, name: str) -> None:
    opcode, kind = INSTRUCTIONS[name]
    code = bytes.fromhex("2e64" + opcode)
    for inside in range(1, len(code)):
        offset = abi.PAGE_SIZE - inside - 2
        board = place(engine, flavour, b"\x90\x90" + code, offset)
        check(board, flavour.code + offset + 2, code, kind, 2)


@pytest.mark.parametrize("flavour", MODES, ids=lambda f: f.name)
def test_completing_steps_over_exactly_the_instruction(engine: Engine, flavour: Flavour) -> None:
    code = bytes.fromhex("2e660fa29090f390900f3190")
    board = place(engine, flavour, code)
    board.run(9)
    assert [(at, type(exit_), exit_.rip - flavour.code) for at, exit_ in board.log] == [
        (0, exits.Cpuid, 0), (3, exits.Pause, 6), (5, exits.Rdtsc, 9)
    ]  # fmt: skip


@pytest.mark.parametrize("flavour", MODES, ids=lambda f: f.name)
@pytest.mark.parametrize("name", PORTS)
def test_ports_stop_behind_the_instruction(engine: Engine, flavour: Flavour, name: str) -> None:
    opcode, port, size = PORTS[name]
    for prefix in ("", "66", "67", "2e", "f3", "2e66"):
        code = bytes.fromhex(prefix + opcode)
        wide = 4 if (flavour.bits != 16) != ("66" in prefix) else 2
        board = place(engine, flavour, b"\x90\x90" + code)
        board.vcpu.set_general("rax", 0x1122334455667788)
        board.vcpu.set_general("rdx", 0)
        exit_ = board.vcpu.enter(100)
        assert (exit_.rip, exit_.port, exit_.size) == (flavour.code + 2, port, size or wide)
        assert board.vcpu.rip == flavour.code + 2 + len(code) and board.vcpu.used == 2
        if type(exit_) is exits.PortOut:
            assert exit_.value == 0x55667788 & (1 << 8 * exit_.size) - 1
        else:
            assert board.vcpu.general("rax") == (0x1122334455667788 if (size or wide) != 4 else 0x55667788)
            board.vcpu.complete_in(0xA1B2C3D4)
            kept = {1: 0x11223344556677D4, 2: 0x112233445566C3D4, 4: 0xA1B2C3D4}[exit_.size]
            assert board.vcpu.general("rax") == kept


@pytest.mark.parametrize("flavour", [LONG0, PM32, REAL16], ids=lambda f: f.name)
@pytest.mark.parametrize(("op", "size"), [("insb", 1), ("insw", 2), ("insd", 4)])
@pytest.mark.parametrize("down", [False, True])
def test_rep_ins_stores_each_answer_and_counts_down(
    engine: Engine, flavour: Flavour, op: str, size: int, down: bool
) -> None:
    place_, step = flavour.data[0] + 64, -size if down else size
    source = f"mov edi, {place_}\nmov ecx, 3\nmov edx, 0x3f8\n{'std' if down else 'cld'}\nrep {op}\nhlt"
    board = Board(engine, flavour, assemble(source, flavour.code, flavour.bits))
    answers = [0x11223344, 0x55667788, 0x99AABBCC]
    for count, answer in enumerate(answers):
        exit_ = board.vcpu.enter(100)
        assert (type(exit_), exit_.port, exit_.size, exit_.string) == (exits.PortIn, 0x3F8, size, True)
        assert board.vcpu.used == (4 if count == 0 else 0)
        board.vcpu.complete_in(answer)
        assert board.vcpu.general("rcx") == 2 - count
        assert board.vcpu.general("rdi") == place_ + step * (count + 1)
        at = place_ + step * count
        assert board.ram.load(at, size) == answer & (1 << 8 * size) - 1
    assert type(board.vcpu.enter(100)) is exits.Hlt


@pytest.mark.parametrize("flavour", [LONG0, PM32, REAL16], ids=lambda f: f.name)
def test_rep_outs_reports_each_element(engine: Engine, flavour: Flavour) -> None:
    place_ = flavour.data[0] + 64
    source = f"mov esi, {place_}\nmov ecx, 3\nmov edx, 0xe9\ncld\nrep outsb\nhlt"
    board = Board(engine, flavour, assemble(source, flavour.code, flavour.bits))
    board.ram.write(place_, b"abc")
    board.until_exit(exits.Hlt)
    assert [(exit_.port, exit_.value) for _, exit_ in board.log] == [(0xE9, ord(c)) for c in "abc"]


def test_control_register_8_is_the_task_priority(engine: Engine) -> None:
    board = Board(engine, LONG0, assemble("mov eax, 7\nmov cr8, rax\nmov r9, cr8\nnop"))
    assert board.vcpu.enter(100) == exits.TprWrite(CODE + 5, 4, 7)
    board.vcpu.complete(exits.TprWrite(CODE + 5, 4, 7))
    read = board.vcpu.enter(100)
    assert read == exits.TprRead(CODE + 9, 4, 9)
    board.vcpu.complete_register(read, 5)
    assert board.vcpu.general("r9") == 5 and board.vcpu.rip == CODE + 13


@pytest.mark.parametrize("name", ["rdmsr", "wrmsr", "hlt"])
def test_privileged_instructions_raise_gp_at_cpl_3(engine: Engine, name: str) -> None:
    for _, prefix in written(LONG3):
        board = place(engine, LONG3, b"\x90" + prefix + bytes.fromhex(INSTRUCTIONS[name][0]))
        assert board.vcpu.enter(100) == exits.Fault(CODE + 1, abi.GP_VECTOR, 0, None)


@pytest.mark.parametrize("name", ["cpuid", "rdtsc", "rdtscp", "vmmcall", "vmcall", "int", "int3"])
def test_other_intercepts_hold_at_cpl_3_reached_by_iret(engine: Engine, name: str) -> None:
    opcode, kind = INSTRUCTIONS[name]
    code = bytes.fromhex("6648" + opcode)
    user = CODE + 0x200
    selectors = abi.SELECTOR_USER_DATA, abi.SELECTOR_USER_CODE64
    source = f"push {selectors[0]}\npush {DATA + 0x800}\npush 2\npush {selectors[1]}\npush {user}\niretq"
    board = Board(engine, LONG0, assemble(source).ljust(0x200, b"\x90") + b"\x90" + code)
    check(board, user + 1, code, kind, 7)
    assert board.vcpu.state().segments[1].selector == abi.SELECTOR_USER_CODE64


@pytest.mark.parametrize("flavour", MODES, ids=lambda f: f.name)
@pytest.mark.parametrize("name", ["wrmsr", "cpuid", "rdtsc", "int", "rdmsr"])
def test_an_instruction_written_at_run_time_is_intercepted(engine: Engine, flavour: Flavour, name: str) -> None:
    opcode, kind = INSTRUCTIONS[name]
    word = int.from_bytes(bytes.fromhex(opcode), "little")
    # The loop runs over the old bytes once, then writes the new ones, in the block that holds them.
    source = (
        "mov ecx, 2\nL: dec ecx\njz store\nnop\njmp L\n"
        f"store: mov word ptr ds:[{flavour.code + 0x40}], {word}"
        f"\n.org 0x3e, 0x90\nmov bl, 1\nnop\nnop\nnop"
    )
    board = Board(engine, flavour, assemble(source, flavour.code, flavour.bits))
    exit_ = board.vcpu.enter(200)
    assert (type(exit_), exit_.rip) == (kind, flavour.code + 0x40)


@pytest.mark.parametrize("flavour", MODES, ids=lambda f: f.name)
def test_an_instruction_of_more_than_15_bytes_raises_gp(engine: Engine, flavour: Flavour) -> None:
    for prefix in ("66", "2e", "f3"):
        board = place(engine, flavour, b"\x90" + bytes.fromhex(prefix) * 14 + bytes.fromhex("0fa2"))
        assert board.vcpu.enter(10) == exits.Fault(flavour.code + 1, abi.GP_VECTOR, 0, None)
        board = place(engine, flavour, b"\x90" + bytes.fromhex(prefix) * 13 + bytes.fromhex("0fa2"))
        assert type(board.vcpu.enter(10)) is exits.Cpuid


FAULTS: dict[str, tuple[tuple[Flavour, ...], str, int, int | None, int | None]] = {
    "divide": (MODES, "xor ecx, ecx\nX: div ecx", 0, None, None),
    "undefined": (MODES, "nop\nX: ud2", 6, None, None),
    "lock cpuid": (MODES, "nop\nX: .byte 0xf0, 0x0f, 0xa2", 6, None, None),
    "no FPU (EM)": (MODES, "SETCR0 4\nX: fld1", 7, None, None),
    "no FPU (TS)": (MODES, "SETCR0 8\nX: fld1", 7, None, None),
    "SSE with EM": (MODES, "SETCR0 4\nX: pxor xmm0, xmm0", 6, None, None),
    "bound": ((PM32, REAL16), "mov eax, 7\nX: bound eax, ds:[DATA]", 5, None, None),
    "selector": ((LONG0, PM32), "mov eax, 0x1230\nX: mov ds, ax", 13, 0x1230, None),
    "not present": (
        (LONG0, PM32),
        "mov dword ptr ds:[0x1074], 0x00cf1300\nmov eax, 0x70\nX: mov ds, ax",
        11,
        0x70,
        None,
    ),
    "stack not present": (
        (LONG0, PM32),
        "mov dword ptr ds:[0x1074], 0x00cf1300\nmov eax, 0x70\nX: mov ss, ax",
        12,
        0x70,
        None,
    ),
    "page": ((LONG0, PM32_PAGED), "nop\nX: mov eax, ds:[HOLE]", 14, 0, DATA_END),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_exception_is_reported_at_its_instruction(engine: Engine, name: str) -> None:
    flavours, source, vector, error, address = FAULTS[name]
    for flavour in flavours:
        wide = "rax" if flavour.bits == 64 else "eax"
        text = source.replace("DATA", str(flavour.data[0])).replace("HOLE", str(DATA_END))
        for bit in ("4", "8"):
            text = text.replace(f"SETCR0 {bit}", f"mov {wide}, cr0\nor al, {bit}\nmov cr0, {wide}")
        code = assemble(text, flavour.code, flavour.bits)
        at = flavour.code + len(assemble(text[: text.index("X:")], flavour.code, flavour.bits))
        exit_ = Board(engine, flavour, code).vcpu.enter(100)
        assert exit_ == exits.Fault(at, vector, error, address), flavour.name


@pytest.mark.parametrize("flavour", [PM32, REAL16], ids=lambda f: f.name)
def test_into_traps_only_on_overflow(engine: Engine, flavour: Flavour) -> None:
    source = "xor eax, eax\ninto\nmov al, 0x7f\ninc al\nX: into\nnop"
    code = assemble(source, flavour.code, flavour.bits)
    at = flavour.code + len(assemble(source[: source.index("X:")], flavour.code, flavour.bits))
    assert Board(engine, flavour, code).vcpu.enter(100) == exits.SoftwareInterrupt(at, 1, abi.OF_VECTOR)


def test_an_unmasked_x87_exception_is_vector_16_at_fwait(engine: Engine) -> None:
    source = f"fninit\nmov word ptr [{DATA}], 0x37b\nfldcw [{DATA}]\nfld1\nfldz\nfdivp\nnop\nX: fwait\nnop"
    at = CODE + len(assemble(source[: source.index("X:")]))
    exit_ = Board(engine, LONG0, assemble(source)).vcpu.enter(20)
    assert (exit_.rip, exit_.vector) == (at, 16)


def test_the_engine_raises_no_sse_exceptions_which_is_a_known_limit(engine: Engine) -> None:
    source = f"mov dword ptr [{DATA}], 0x1d80\nldmxcsr [{DATA}]\nxorps xmm0, xmm0\ndivss xmm0, xmm0\nhlt"
    assert type(Board(engine, LONG0, assemble(source)).vcpu.enter(10)) is exits.Hlt


def test_the_arithmetic_flags_an_exit_shows_are_those_of_the_instruction_before(engine: Engine) -> None:
    for before, flags in (
        ("add eax, ecx", 0x805),
        ("sub eax, ecx", 0x91),
        ("imul eax, eax", 0x801),
        ("neg eax", 0x885),
    ):
        for stop in ("cpuid", "mov ebx, [0x208000]", "xor ebx, ebx", "int3", "pause"):
            source = f"mov eax, 0x80000000\nmov ecx, -1\nstc\n{before}\n{stop}\njc done\nud2\ndone: hlt"
            if stop.startswith("xor"):
                continue
            board = Board(engine, LONG0, assemble(source))
            board.vcpu.enter(20)
            mask = 0x801 if before.startswith("imul") else abi.RFLAGS_ARITHMETIC
            assert board.vcpu.general("rflags") & mask == flags & mask, (before, stop)


def test_the_unknown_msr_number_is_what_the_exit_names(engine: Engine) -> None:
    board = Board(engine, LONG0, assemble(f"mov ecx, {STRANGE_MSR}\nmov eax, 5\nmov edx, 6\nwrmsr"))
    exit_ = board.vcpu.enter(10)
    assert (exit_.msr, exit_.value) == (STRANGE_MSR, 6 << 32 | 5)


@pytest.mark.parametrize("flavour", [LONG0, PM32], ids=lambda f: f.name)
@pytest.mark.parametrize("opcode", ["06", "22c0", "22c8", "23c0", "30", "31", "32", "33", "a2", "34", "01d9", "01d8"])
def test_vex_coded_form_of_what_exits_is_undefined(engine: Engine, flavour: Flavour, opcode: str) -> None:
    for prefix in ("c5f8", "c4e178"):
        board = place(engine, flavour, b"\x90" + bytes.fromhex(prefix + opcode))
        assert board.vcpu.enter(5) == exits.Fault(flavour.code + 1, abi.UD_VECTOR, None, None)
        assert board.vcpu.retired == 1


@pytest.mark.parametrize("code", ["0f05", "480f05", "66480f05", "2e0f05", "0f34", "660f34", "2e660f34"])
def test_undefined_syscall_and_sysenter_are_told_with_their_own_rip(engine: Engine, code: str) -> None:
    board = place(engine, LONG0, b"\x90" + bytes.fromhex(code))
    board.msrs.wrmsr(abi.MSR_EFER, board.msrs.rdmsr(abi.MSR_EFER) & ~abi.EFER_SCE)
    assert board.vcpu.enter(5) == exits.Fault(CODE + 1, abi.UD_VECTOR, None, None)
    assert board.vcpu.retired == 1
