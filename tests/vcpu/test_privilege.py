"""I/O permission, SYSCALL and SYSRET, SWAPGS, the CPU's own MSRs, and 32-bit user code."""

import pytest

from emu import abi, exits
from emu.faults import GuestFault
from emu.ram import Ram
from emu.state import Segment
from emu.vcpu.cpu_msrs import CpuMsrs
from emu.vcpu.engine import Engine
from tests.assemble import assemble
from tests.vcpu.board import BITMAP, CODE, DATA, IDT, LONG0, LONG3, PM32, SPAN, STACK, STACK_USER, TSS, Board, gate32

DENIED = 0x70
ENTRY = 0x120000
RAX = 0x1122334455667788


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Ram(2 * SPAN))


# --- ports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["in al, dx", "in ax, dx", "in eax, dx", "out dx, al", "out dx, eax", "in al, 0x70"])
def test_a_port_that_the_bitmap_denies_raises_gp_and_changes_nothing(engine: Engine, source: str) -> None:
    one = Board(engine, LONG3, assemble("nop\n" + source + "\nnop"))
    one.vcpu.set_general("rax", RAX)
    one.vcpu.set_general("rdx", DENIED)
    one.vcpu.enter(1)
    before = one.vcpu.state()
    assert one.vcpu.enter(10) == exits.Fault(CODE + 1, abi.GP_VECTOR, 0, None)
    assert one.vcpu.state() == before and one.vcpu.retired == 1


@pytest.mark.parametrize("source", ["insb", "rep insd", "outsb", "rep outsw"])
def test_a_denied_string_instruction_moves_no_register(engine: Engine, source: str) -> None:
    one = Board(engine, LONG3, assemble("nop\n" + source))
    for name, value in (("rdx", DENIED), ("rcx", 3), ("rdi", DATA + 8), ("rsi", DATA + 16), ("rax", RAX)):
        one.vcpu.set_general(name, value)
    one.vcpu.enter(1)
    before = one.vcpu.state()
    assert one.vcpu.enter(10) == exits.Fault(CODE + 1, abi.GP_VECTOR, 0, None)
    assert one.vcpu.state() == before


@pytest.mark.parametrize(
    ("port", "size", "allowed"), [(0xE9, 1, True), (0xE9, 2, False), (0xE8, 2, False), (0x3F8, 1, True)]
)
def test_every_port_an_access_touches_must_be_allowed(engine: Engine, port: int, size: int, allowed: bool) -> None:
    one = Board(engine, LONG3, assemble({1: "in al, dx", 2: "in ax, dx"}[size]))
    one.vcpu.set_general("rdx", port)
    assert (type(one.vcpu.enter(10)) is exits.PortIn) == allowed


def test_iopl_3_allows_every_port(engine: Engine) -> None:
    one = Board(engine, LONG3, assemble(f"mov edx, {DENIED}\nin al, dx"))
    one.vcpu.load(one.vcpu.state()._replace(rflags=2 | abi.RFLAGS_IOPL))
    assert type(one.vcpu.enter(10)) is exits.PortIn


@pytest.mark.parametrize("limit", [0x67, 0x20, BITMAP + 0xE9 // 8])
def test_ports_beyond_the_tss_limit_are_denied(engine: Engine, limit: int) -> None:
    one = Board(engine, LONG3, assemble("mov edx, 0xe9\nin al, dx"))
    now = one.vcpu.state()
    segments = (*now.segments[:7], Segment(abi.SELECTOR_TSS, 0x8B, limit, TSS))
    one.vcpu.load(now._replace(segments=segments))
    exit_ = one.vcpu.enter(10)
    assert type(exit_) is exits.Fault and exit_.vector == abi.GP_VECTOR


# --- SYSCALL ---------------------------------------------------------------------------------------------------------


def with_system_calls(engine: Engine, source: str, handler: str = "sysretq") -> Board:
    one = Board(engine, LONG3, assemble(source))
    one.msrs.wrmsr(abi.MSR_STAR, abi.SELECTOR_USER_CODE32 << 48 | abi.SELECTOR_CODE64 << 32)
    one.msrs.wrmsr(abi.MSR_LSTAR, ENTRY)
    one.msrs.wrmsr(abi.MSR_SYSCALL_MASK, abi.RFLAGS_DF | abi.RFLAGS_IF)
    one.ram.write(ENTRY, assemble(handler, ENTRY))
    return one


def test_syscall_and_sysret_go_to_the_kernel_and_back(engine: Engine) -> None:
    one = with_system_calls(engine, "std\nstc\nsyscall\nnop\nL: jmp L")
    one.vcpu.load(one.vcpu.state()._replace(rflags=2 | abi.RFLAGS_IF))
    one.vcpu.enter(2)
    user = one.vcpu.state()
    one.vcpu.enter(1)
    kernel = one.vcpu.state()
    assert (one.vcpu.retired, kernel.rip, kernel.general[1], kernel.general[11]) == (3, ENTRY, CODE + 4, user.rflags)
    assert kernel.rflags == user.rflags & ~(abi.RFLAGS_DF | abi.RFLAGS_IF)
    assert [s.selector for s in kernel.segments[1:3]] == [abi.SELECTOR_CODE64, abi.SELECTOR_DATA]
    assert engine.hidden().cpl == 0 and kernel.general[4] == user.general[4]
    one.vcpu.enter(1)
    back = one.vcpu.state()
    assert back.segments[1:3] == user.segments[1:3] and (back.rip, back.rflags) == (CODE + 4, user.rflags)
    assert engine.hidden().cpl == 3
    one.vcpu.enter(3)
    assert one.vcpu.retired == 7 and one.vcpu.rip == CODE + 5


def test_selector_of_the_kernel_stack_wraps_as_a_selector_does(engine: Engine) -> None:
    one = with_system_calls(engine, "syscall")
    one.msrs.wrmsr(abi.MSR_STAR, 2**64 - 1)
    one.vcpu.enter(1)
    assert [segment.selector for segment in one.vcpu.state().segments[1:3]] == [0xFFFC, 4]


def test_syscall_without_sce_is_undefined(engine: Engine) -> None:
    one = with_system_calls(engine, "nop\nsyscall")
    one.msrs.wrmsr(abi.MSR_EFER, one.msrs.rdmsr(abi.MSR_EFER) & ~abi.EFER_SCE)
    assert one.vcpu.enter(10) == exits.Fault(CODE + 1, abi.UD_VECTOR, None, None)
    assert one.vcpu.retired == 1


def test_a_stepped_syscall_still_happens_and_traps_in_the_kernel_unless_masked(engine: Engine) -> None:
    step = "pushfq\nor dword ptr [rsp], 0x100\npopfq\nsyscall\nnop"
    one = with_system_calls(engine, step, "nop\nnop")
    exit_ = one.until_exit(exits.Fault)
    assert exit_ == exits.Fault(ENTRY, abi.DB_VECTOR, None, None)
    one = with_system_calls(engine, step, "nop\nL: jmp L")
    one.msrs.wrmsr(abi.MSR_SYSCALL_MASK, abi.RFLAGS_TF)
    one.vcpu.enter(6)
    assert not one.log and one.vcpu.rip == ENTRY + 1


def test_swapgs_exchanges_the_base_with_kernel_gs_base(engine: Engine) -> None:
    one = Board(engine, LONG0, assemble("swapgs\nmov rax, gs:[0]\nswapgs\nhlt"))
    one.ram.store(DATA + 64, 8, 0xABCDEF)
    one.msrs.wrmsr(abi.MSR_KERNEL_GS_BASE, DATA + 64)
    one.msrs.wrmsr(abi.MSR_GS_BASE, 0x5000)
    one.vcpu.enter(1)
    assert (one.msrs.rdmsr(abi.MSR_GS_BASE), one.msrs.rdmsr(abi.MSR_KERNEL_GS_BASE)) == (DATA + 64, 0x5000)
    one.until_exit(exits.Hlt)
    assert one.vcpu.general("rax") == 0xABCDEF
    assert (one.msrs.rdmsr(abi.MSR_GS_BASE), one.msrs.rdmsr(abi.MSR_KERNEL_GS_BASE)) == (0x5000, DATA + 64)


# --- MSRs ------------------------------------------------------------------------------------------------------------

ADDRESSES = (
    abi.MSR_LSTAR, abi.MSR_CSTAR, abi.MSR_FS_BASE, abi.MSR_GS_BASE, abi.MSR_KERNEL_GS_BASE, abi.MSR_IA32_SYSENTER_ESP,
    abi.MSR_IA32_SYSENTER_EIP,
)  # fmt: skip


@pytest.mark.parametrize("msr", ADDRESSES)
def test_a_base_must_be_canonical(engine: Engine, msr: int) -> None:
    one = Board(engine, LONG0, b"\x90")
    for good in (0, (1 << 47) - 1, (1 << 64) - (1 << 47), (1 << 64) - 1):
        one.msrs.wrmsr(msr, good)
        assert one.msrs.rdmsr(msr) == good
    for bad in (1 << 47, 1 << 63, (1 << 64) - (1 << 47) - 1):
        with pytest.raises(GuestFault) as refused:
            one.msrs.wrmsr(msr, bad)
        assert (refused.value.vector, refused.value.error) == (abi.GP_VECTOR, 0)
        assert one.msrs.rdmsr(msr) == (1 << 64) - 1


def test_efer_keeps_lma_and_refuses_to_leave_long_mode_while_paging(engine: Engine) -> None:
    msrs = Board(engine, LONG0, b"\x90").msrs
    now = msrs.rdmsr(abi.MSR_EFER)
    assert now & abi.EFER_LMA and now & abi.EFER_LME
    with pytest.raises(GuestFault):
        msrs.wrmsr(abi.MSR_EFER, now & ~abi.EFER_LME)
    msrs.wrmsr(abi.MSR_EFER, now & ~abi.EFER_LMA & ~abi.EFER_SCE)
    assert msrs.rdmsr(abi.MSR_EFER) == now & ~abi.EFER_SCE
    for reserved in (1, 9, 12, 13, 14, 15, 32, 63):
        with pytest.raises(GuestFault):
            msrs.wrmsr(abi.MSR_EFER, now | 1 << reserved)


def test_efer_lme_may_change_while_paging_is_off(engine: Engine) -> None:
    msrs = Board(engine, PM32, b"\x90").msrs
    msrs.wrmsr(abi.MSR_EFER, abi.EFER_LME | abi.EFER_LMA)
    assert msrs.rdmsr(abi.MSR_EFER) == abi.EFER_LME


def test_pat_takes_only_memory_types_that_exist(engine: Engine) -> None:
    msrs = Board(engine, LONG0, b"\x90").msrs
    msrs.wrmsr(abi.MSR_IA32_CR_PAT, 0x0001040506070000)
    for bad in (2, 3, 8, 0x80):
        for entry in range(8):
            with pytest.raises(GuestFault):
                msrs.wrmsr(abi.MSR_IA32_CR_PAT, bad << 8 * entry)
    assert msrs.rdmsr(abi.MSR_IA32_CR_PAT) == 0x0001040506070000


@pytest.mark.parametrize("msr", CpuMsrs.msrs)
def test_every_msr_reads_back_what_was_written(engine: Engine, msr: int) -> None:
    one = Board(engine, LONG0, b"\x90")
    value = {abi.MSR_EFER: one.msrs.rdmsr(abi.MSR_EFER), abi.MSR_IA32_CR_PAT: 0x0606060606060606}.get(msr, 0x12345678)
    one.msrs.wrmsr(msr, value)
    other = Board(engine, LONG0, b"\x90", 1, SPAN)
    other.vcpu.enter(1)
    assert one.msrs.rdmsr(msr) == value
    one.vcpu.load(one.vcpu.state())
    assert one.msrs.rdmsr(msr) == value


# --- 32-bit user code ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [0x8B, 0x89])
def test_32_bit_user_code_is_left_through_ss0_esp0(engine: Engine, busy: int) -> None:
    user = CODE + 0x100
    source = (
        f"push {abi.SELECTOR_USER_DATA}\npush {STACK_USER}\npush 2\npush {abi.SELECTOR_USER_CODE32}\npush {user}\niretd"
    )
    one = Board(engine, PM32, assemble(source, CODE, 32).ljust(0x100, b"\x90") + bytes.fromhex("90cd80"))
    now = one.vcpu.state()
    one.vcpu.load(now._replace(segments=(*now.segments[:7], now.segments[7]._replace(attributes=busy))))
    one.ram.write(IDT + 8 * 0x80, gate32(0x130000, access=0xEE))
    one.answer(one.until_exit(exits.SoftwareInterrupt))
    assert one.vcpu.rip == 0x130000 and one.vcpu.general("rsp") == STACK - 20
    pushed = [one.ram.load(STACK - 20 + 4 * n, 4) for n in range(5)]
    assert pushed == [user + 3, abi.SELECTOR_USER_CODE32, 2, STACK_USER, abi.SELECTOR_USER_DATA]
