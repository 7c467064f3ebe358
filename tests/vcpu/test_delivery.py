"""Exceptions and interrupts go through the guest's own tables, as the architecture says, and fail as it says."""

import struct

import pytest

from emu import abi, exits
from emu.ram import Ram
from emu.state import Table
from emu.vcpu import delivery
from emu.vcpu.engine import Engine
from tests.assemble import assemble
from tests.vcpu.board import (
    CODE,
    DATA,
    DATA_END,
    IDT,
    LONG0,
    LONG3,
    PM32,
    PM32_PAGED,
    READ_ONLY,
    REAL16,
    SPAN,
    STACK,
    STACK_IST,
    STACK_USER,
    TABLES,
    Board,
    Flavour,
    gate32,
    gate64,
)

HANDLER = 0x130000
RF, IF = abi.RFLAGS_RF, abi.RFLAGS_IF


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Ram(2 * SPAN))


def board(engine: Engine, source: str, flavour: Flavour = LONG0) -> Board:
    return Board(engine, flavour, assemble(source, flavour.code, flavour.bits))


def gate(one: Board, vector: int, access: int = 0x8E, ist: int = 0, offset: int = HANDLER) -> None:
    one.ram.write(IDT + 16 * vector, gate64(offset, access=access, ist=ist))


def frame(one: Board, error: bool) -> dict[str, int]:
    """What a long mode handler finds on its stack."""
    names = (["error"] if error else []) + ["rip", "cs", "rflags", "rsp", "ss"]
    values = struct.unpack(f"<{len(names)}Q", one.ram.read(one.vcpu.general("rsp"), 8 * len(names)))
    return dict(zip(names, values, strict=True))


def fault(one: Board, vector: int) -> exits.Fault:
    exit_ = one.until_exit(exits.Fault)
    assert exit_.vector == vector, exit_
    one.answer(exit_)
    assert one.shutdown is None
    return exit_


def test_a_fault_enters_its_handler_with_error_code_and_rf_on_an_aligned_stack(engine: Engine) -> None:
    one = board(engine, f"mov rsp, {STACK - 5}\nmov eax, 0x1230\nsti\nmov ds, eax")
    gate(one, abi.GP_VECTOR)
    exit_ = fault(one, abi.GP_VECTOR)
    assert one.vcpu.rip == HANDLER
    assert one.vcpu.general("rsp") == STACK - 16 - 48
    found = frame(one, error=True)
    assert found == {
        "error": 0x1230, "rip": exit_.rip, "cs": abi.SELECTOR_CODE64, "rflags": 2 | IF | RF, "rsp": STACK - 5,
        "ss": abi.SELECTOR_DATA,
    }  # fmt: skip


@pytest.mark.parametrize(("access", "kept"), [(0x8E, 0), (0x8F, IF)])
def test_an_interrupt_gate_clears_if_and_a_trap_gate_does_not(engine: Engine, access: int, kept: int) -> None:
    one = board(engine, "sti\nnop\nud2")
    gate(one, abi.UD_VECTOR, access)
    fault(one, abi.UD_VECTOR)
    assert one.vcpu.general("rflags") & (IF | abi.RFLAGS_TF | RF) == kept


@pytest.mark.parametrize(
    ("source", "vector", "rf"),
    [("ud2", 6, RF), ("int3", 3, 0), ("int 0x80", 0x80, 0), ("xor ecx, ecx\ndiv ecx", 0, RF)],
)
def test_only_faults_push_rf(engine: Engine, source: str, vector: int, rf: int) -> None:
    one = board(engine, source)
    gate(one, vector)
    one.answer(one.until_exit(exits.Fault, exits.SoftwareInterrupt))
    assert one.vcpu.rip == HANDLER and frame(one, error=False)["rflags"] & RF == rf


def test_a_trap_returns_behind_its_instruction_and_a_fault_to_it(engine: Engine) -> None:
    one = board(engine, "nop\nint3\nud2")
    gate(one, abi.BP_VECTOR)
    gate(one, abi.UD_VECTOR)
    one.answer(one.until_exit(exits.SoftwareInterrupt))
    assert frame(one, error=False)["rip"] == CODE + 2
    one.ram.write(HANDLER, bytes.fromhex("48cf"))
    fault(one, abi.UD_VECTOR)
    assert frame(one, error=False)["rip"] == CODE + 2


def test_ist_chooses_the_stack(engine: Engine) -> None:
    one = board(engine, "mov rax, 0x1230\nmov ds, eax")
    gate(one, abi.GP_VECTOR, ist=1)
    fault(one, abi.GP_VECTOR)
    assert one.vcpu.general("rsp") == STACK_IST - 48
    assert frame(one, error=True)["rsp"] == STACK_USER


PAGE_FAULTS = (
    (LONG0, f"mov eax, [{DATA_END}]", 0, DATA_END),
    (LONG0, f"mov [{DATA_END}], eax", 2, DATA_END),
    (LONG0, f"mov [{READ_ONLY}], eax", 3, READ_ONLY),
    (LONG0, f"mov eax, {DATA}\njmp rax", 0x11, DATA),
    (LONG0, f"mov eax, {DATA_END + 7}\njmp rax", 0x10, DATA_END + 7),
    (LONG0, f"mov eax, [{DATA_END - 2}]", 0, DATA_END),
    (LONG3, f"mov eax, [{DATA_END}]", 4, DATA_END),
    (LONG3, f"mov [{DATA_END}], eax", 6, DATA_END),
    (LONG3, f"mov [{READ_ONLY}], eax", 7, READ_ONLY),
    (LONG3, f"mov eax, {DATA}\njmp rax", 0x15, DATA),
    (PM32_PAGED, f"mov eax, ds:[{DATA_END}]", 0, DATA_END),
    (PM32_PAGED, f"mov ds:[{READ_ONLY}], eax", 3, READ_ONLY),
)


@pytest.mark.parametrize(("flavour", "source", "error", "address"), PAGE_FAULTS)
def test_a_page_fault_tells_its_cause_and_its_address(
    engine: Engine, flavour: Flavour, source: str, error: int, address: int
) -> None:
    one = board(engine, source, flavour)
    exit_ = fault(one, abi.PF_VECTOR)
    assert (exit_.error, exit_.address) == (error, address)
    assert one.vcpu.state().cr2 == address


@pytest.mark.parametrize("bit", [40, 45, 51])
def test_a_reserved_bit_in_a_page_table_is_told(engine: Engine, bit: int) -> None:
    one = board(engine, f"mov eax, [{DATA}]")
    entry = TABLES + 0x3000 + 8 * (DATA >> 12)
    one.ram.store(entry, 8, one.ram.load(entry, 8) | 1 << bit)
    assert fault(one, abi.PF_VECTOR)[2:] == (9, DATA)


def test_user_code_is_left_through_rsp0_and_returned_to_by_iretq(engine: Engine) -> None:
    one = board(engine, "mov ecx, 5\nud2\nnop", LONG3)
    gate(one, abi.UD_VECTOR)
    one.ram.write(HANDLER, bytes.fromhex("48830424024 8cf".replace(" ", "")))  # add qword [rsp], 2; iretq
    before = one.vcpu.state()
    exit_ = fault(one, abi.UD_VECTOR)
    inside = one.vcpu.state()
    assert inside.general[4] == STACK - 40
    assert inside.segments[1].selector == abi.SELECTOR_CODE64 and inside.segments[2].selector == 0
    assert frame(one, error=False) == {
        "rip": exit_.rip, "cs": abi.SELECTOR_USER_CODE64, "rflags": 2 | RF, "rsp": STACK_USER,
        "ss": abi.SELECTOR_USER_DATA,
    }  # fmt: skip
    one.vcpu.enter(2)
    after = one.vcpu.state()
    assert after.rip == exit_.rip + 2 and after.segments[1:3] == before.segments[1:3]
    assert after.general[4] == STACK_USER


def test_int_n_from_user_code_needs_the_gates_permission(engine: Engine) -> None:
    one = board(engine, "nop\nint 0x21", LONG3)
    one.answer(one.until_exit(exits.SoftwareInterrupt))
    assert frame(one, error=True)["error"] == 0x21 << 3 | 2
    assert frame(one, error=True)["rip"] == CODE + 1
    one = board(engine, "nop\nint 0x80", LONG3)
    one.answer(one.until_exit(exits.SoftwareInterrupt))
    assert frame(one, error=False)["rip"] == CODE + 3


def test_a_vector_beyond_the_idt_raises_gp_with_its_number(engine: Engine) -> None:
    one = board(engine, "nop\nint 0x80")
    one.vcpu.load(one.vcpu.state()._replace(idtr=Table(16 * 0x40 - 1, IDT)))
    one.answer(one.until_exit(exits.SoftwareInterrupt))
    assert frame(one, error=True)["error"] == 0x80 << 3 | 2
    assert frame(one, error=True)["rip"] == CODE + 1


@pytest.mark.parametrize(("source", "vector", "external"), [("ud2", 6, 1), ("int 0x80", 0x80, 0)])
def test_a_gate_that_is_not_present_raises_np(engine: Engine, source: str, vector: int, external: int) -> None:
    one = board(engine, source)
    gate(one, vector, access=0x0E)
    one.answer(one.until_exit(exits.Fault, exits.SoftwareInterrupt))
    assert frame(one, error=True)["error"] == vector << 3 | 2 | external
    assert frame(one, error=True)["rip"] == CODE


SECOND = {
    "#DE, then #NP: #DF": ("xor ecx, ecx\ndiv ecx", (0,), 8, 0),
    "#GP, then #NP: #DF": ("mov eax, 0x1230\nmov ds, eax", (13,), 8, 0),
    "#UD, then #NP: #NP": ("ud2", (6,), 11, 6 << 3 | 3),
    "#PF, then #NP: #DF": (f"mov eax, [{DATA_END}]", (14,), 8, 0),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_fault_while_delivering_follows_the_contributory_table(engine: Engine, name: str) -> None:
    source, broken, vector, error = SECOND[name]
    one = board(engine, source)
    for bad in broken:
        gate(one, bad, access=0x0E)
    gate(one, vector, offset=HANDLER + vector * 16)
    one.answer(one.until_exit(exits.Fault))
    assert one.vcpu.rip == HANDLER + vector * 16
    assert frame(one, error=True)["error"] == error


def test_a_page_fault_while_delivering_a_gp_is_delivered_itself(engine: Engine) -> None:
    one = board(engine, f"mov rsp, {DATA_END + 0x40}\nmov eax, 0x1230\nmov ds, eax")
    gate(one, abi.PF_VECTOR, ist=1)
    exit_ = one.until_exit(exits.Fault)
    one.answer(exit_)
    assert one.vcpu.general("rsp") == STACK_IST - 48
    assert frame(one, error=True)["rip"] == exit_.rip
    assert frame(one, error=True)["error"] == 2
    assert DATA_END <= one.vcpu.state().cr2 < DATA_END + 0x40


def test_a_page_fault_while_delivering_a_page_fault_is_a_double_fault(engine: Engine) -> None:
    one = board(engine, f"mov rsp, {DATA_END + 0x40}\nmov eax, [{DATA_END}]")
    gate(one, abi.DF_VECTOR, ist=1)
    exit_ = one.until_exit(exits.Fault)
    one.answer(exit_)
    assert one.vcpu.rip == HANDLER and frame(one, error=True)["error"] == 0
    assert frame(one, error=True)["rip"] == exit_.rip


@pytest.mark.parametrize("flavour", [LONG0, LONG3, PM32, REAL16], ids=lambda f: f.name)
def test_a_triple_fault_names_the_first_fault_and_leaves_the_state_before_it(engine: Engine, flavour: Flavour) -> None:
    one = board(engine, "nop\nmov eax, 0x1234\nnop\nud2", flavour)
    one.vcpu.load(one.vcpu.state()._replace(idtr=Table(0, 0)))
    exit_ = one.until_exit(exits.Fault)
    before = one.vcpu.state()
    one.answer(exit_)
    assert one.shutdown == exits.Shutdown(exit_.rip, abi.UD_VECTOR, None, None)
    assert one.vcpu.state() == before


def test_a_triple_fault_by_page_faults_keeps_the_first_address(engine: Engine) -> None:
    one = board(engine, f"mov rsp, {DATA_END + 0x40}\nmov eax, [{DATA_END + 0x800}]")
    exit_ = one.until_exit(exits.Fault)
    one.answer(exit_)
    assert one.shutdown == exits.Shutdown(exit_.rip, abi.PF_VECTOR, 0, DATA_END + 0x800)


@pytest.mark.parametrize(("access", "size"), [(0x8E, 4), (0x86, 2)])
def test_protected_mode_gates_push_frames_of_their_own_width(engine: Engine, access: int, size: int) -> None:
    one = board(engine, "mov eax, 0x1230\nmov ds, eax", PM32)
    handler = 0x7100 if size == 2 else HANDLER
    one.ram.write(IDT + 8 * abi.GP_VECTOR, gate32(handler, access=access))
    fault(one, abi.GP_VECTOR)
    assert one.vcpu.rip == handler and one.vcpu.general("rsp") == STACK_USER - 4 * size
    pushed = struct.unpack("<4" + {2: "H", 4: "I"}[size], one.ram.read(STACK_USER - 4 * size, 4 * size))
    keep = (1 << 8 * size) - 1
    assert pushed == (0x1230, CODE + 5 & keep, abi.SELECTOR_CODE32, (2 | RF) & keep)


def test_real_mode_pushes_no_error_code(engine: Engine) -> None:
    one = board(engine, "nop\nnop", REAL16)
    one.vcpu.enter(1)
    rsp = one.vcpu.general("rsp")
    assert delivery.deliver_fault(one.vcpu, abi.GP_VECTOR, 0, None) is None
    assert one.vcpu.general("rsp") == rsp - 6
    assert struct.unpack("<3H", one.ram.read(rsp - 6, 6)) == (REAL16.code + 1, 0, 2)


def test_an_external_interrupt_returns_to_the_next_instruction(engine: Engine) -> None:
    one = board(engine, "sti\nnop\nL: jmp L")
    gate(one, 0x40)
    one.vcpu.enter(5)
    assert one.vcpu.interruptible()
    assert delivery.deliver_interrupt(one.vcpu, 0x40) is None
    assert frame(one, error=False)["rip"] == CODE + 2 and frame(one, error=False)["rflags"] & RF == 0


# --- single-stepping -------------------------------------------------------------------------------------------------

STEP = "pushfq\nor dword ptr [rsp], 0x100\npopfq\n"


@pytest.mark.parametrize(
    "stepped",
    ["nop", "cpuid", "pause", "rdtsc", "in al, 0xe9", "out 0xe9, al", "mov rax, dr7", "mov rax, cr3\nmov cr3, rax"],
)
def test_tf_traps_after_native_and_emulated_instructions(engine: Engine, stepped: str) -> None:
    one = board(engine, STEP + stepped + "\nnop\nnop")
    gate(one, abi.DB_VECTOR)
    start = CODE + len(assemble(STEP))
    rip = start + len(assemble(stepped.split("\n")[0]))
    exit_ = one.until_exit(exits.Fault)
    assert exit_ == exits.Fault(rip, abi.DB_VECTOR, None, None)
    assert one.vcpu.state().debug[4] & 1 << 14
    one.answer(exit_)
    found = frame(one, error=False)
    assert found["rip"] == rip and found["rflags"] & (abi.RFLAGS_TF | RF) == abi.RFLAGS_TF
    assert not one.vcpu.general("rflags") & abi.RFLAGS_TF


def test_every_stepped_instruction_traps_once(engine: Engine) -> None:
    one = board(engine, STEP + "nop\ncpuid\ninc eax\nout 0xe9, al\npushfq\nand dword ptr [rsp], ~0x100\npopfq\nhlt")
    one.until_exit(exits.Hlt)
    traps = [exit_.rip for _, exit_ in one.log if type(exit_) is exits.Fault]
    assert len(traps) == len(set(traps)) == 7
    assert [exit_.port for _, exit_ in one.log if type(exit_) is exits.PortOut] == [0xE9]


def test_a_pending_trap_survives_save_and_load_and_goes_before_an_interrupt(engine: Engine) -> None:
    one = board(engine, "sti\nnop\n" + STEP + "cpuid\nnop")
    one.answer(one.until_exit(exits.Cpuid))
    assert not one.vcpu.interruptible()
    one.vcpu.load(one.vcpu.state())
    assert one.vcpu.enter(10).vector == abi.DB_VECTOR
    assert one.vcpu.interruptible()


# --- interrupt shadow and window -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "covered"), [("sti", 1), ("mov eax, ss\nmov ss, eax\nnop\nsti", 4), ("cli\nsti", 2)]
)
def test_the_shadow_covers_exactly_one_boundary(engine: Engine, source: str, covered: int) -> None:
    one = board(engine, source + "\ncpuid\nnop\nnop")
    ready = []
    for _ in range(covered + 3):
        one.answer(one.vcpu.enter(1))
        ready.append(one.vcpu.interruptible())
    assert ready == [False] * covered + [True] * 3


def test_mov_ss_shadows_even_with_if_set_long_before(engine: Engine) -> None:
    one = board(engine, "sti\nnop\nmov eax, ss\nmov ss, eax\nnop\nnop")
    one.vcpu.enter(3)
    assert one.vcpu.interruptible()
    one.vcpu.enter(1)
    assert one.vcpu.interrupts_enabled() and not one.vcpu.interruptible()
    one.vcpu.enter(1)
    assert one.vcpu.interruptible()


WINDOWS = {
    "sti": ("nop\nsti\nnop\nX: nop\nnop", 3),
    "sti, emulated": ("nop\nsti\ncpuid\nX: nop\nnop", 3),
    "sti, completed by the vCPU": ("mov rax, cr3\nsti\nmov cr3, rax\nX: nop\nnop", 3),
    "popf": ("pushfq\nor dword ptr [rsp], 0x200\npopfq\nX: nop\nnop", 3),
    "iret": (
        f"push {abi.SELECTOR_DATA}\npush {STACK}\npush 0x202\npush {abi.SELECTOR_CODE64}\n"
        "lea rax, [rip+X]\npush rax\niretq\n"
        "X: nop\nnop",
        7,
    ),
    # Of two instructions in a row that cast a shadow, only the first is sure to.
    "sti, mov ss": ("mov eax, ss\nsti\nmov ss, eax\nX: nop\nnop", 3),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_the_window_opens_at_the_first_boundary_where_an_interrupt_may_come(
    engine: Engine, name: str, cut: int
) -> None:
    source, retired = WINDOWS[name]
    one = board(engine, source)
    at = CODE + len(assemble(source)) - 2
    while True:
        exit_ = one.vcpu.enter(cut, window=True)
        if type(exit_) is exits.InterruptWindow:
            break
        one.answer(exit_)
    assert (exit_.rip, one.vcpu.retired) == (at, retired)
    assert one.vcpu.interruptible()


@pytest.mark.parametrize("flavour", [LONG0, PM32, REAL16], ids=lambda f: f.name)
def test_a_window_that_is_withdrawn_leaves_no_trace(engine: Engine, flavour: Flavour) -> None:
    source = "nop\n" * 20 + "sti\nnop\nnop\nnop\nL: jmp L"
    one, other = board(engine, source, flavour), Board(engine, LONG0, assemble("sti\nL: jmp L"), 1, SPAN)
    assert type(one.vcpu.enter(5, window=True)) is exits.BudgetSpent
    assert type(other.vcpu.enter(9)) is exits.BudgetSpent  # parks the first
    assert type(one.vcpu.enter(5)) is exits.BudgetSpent  # no longer wanted
    assert type(one.vcpu.enter(5, window=True)) is exits.BudgetSpent
    state = one.vcpu.state()
    assert type(one.vcpu.enter(50)) is exits.BudgetSpent
    assert type(other.vcpu.enter(9)) is exits.BudgetSpent
    plain = board(engine, source, flavour)
    plain.vcpu.enter(15)
    assert plain.vcpu.state() == state
