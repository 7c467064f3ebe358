"""Writes of CR0: which are refused, what the others leave, and the ways through the processor's modes they open."""

import itertools

import pytest

from emu import abi, exits, state
from emu.boot.image import flat_image
from emu.machine import Machine
from emu.ram import Ram
from emu.scenario import Config
from emu.vcpu.engine import Engine
from tests.assemble import assemble
from tests.vcpu.board import CODE, DATA, DATA_END, LONG0, LONG3, PM32, PM32_PAGED, REAL16, SPAN, Board, Flavour

BASE = abi.CR0_PE | abi.CR0_ET
TOGGLED = (abi.CR0_PE, abi.CR0_NW, abi.CR0_CD, abi.CR0_PG)
KEPT = 0xE005003F
GP = (abi.GP_VECTOR, 0)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Ram(2 * SPAN))


def stand(engine: Engine, flavour: Flavour, source: str, **changed: object) -> Board:
    one = Board(engine, flavour, assemble(source, flavour.code, flavour.bits))
    one.vcpu.load(one.vcpu.state()._replace(**changed))
    return one


def with_msr(msrs: tuple[tuple[int, int], ...], msr: int, value: int) -> tuple[tuple[int, int], ...]:
    return tuple(sorted({**dict(msrs), msr: value}.items()))


@pytest.mark.parametrize("flavour", [LONG0, PM32, PM32_PAGED, REAL16], ids=lambda f: f.name)
@pytest.mark.parametrize("bits", list(itertools.product((0, 1), repeat=4)), ids=lambda bits: "".join(map(str, bits)))
def test_every_mix_of_pe_nw_cd_and_pg_is_judged(engine: Engine, flavour: Flavour, bits: tuple[int, ...]) -> None:
    value = abi.CR0_ET | abi.CR0_WP | sum(bit * one for bit, one in zip(bits, TOGGLED, strict=True))
    one = stand(engine, flavour, "mov cr0, " + ("rax" if flavour.bits == 64 else "eax"))
    one.vcpu.set_general("rax", value)
    before = one.vcpu.state()
    exit_ = one.vcpu.enter(1)
    pe, nw, cd, pg = bits
    if (pg and not pe) or (nw and not cd) or (flavour is LONG0 and not pg):
        assert exit_ == exits.Fault(flavour.code, *GP, None)
        assert one.vcpu.state() == before
    else:
        assert type(exit_) is exits.BudgetSpent
        assert (one.vcpu.state().cr0, one.vcpu.rip) == (value, flavour.code + 3)


@pytest.mark.parametrize("bit", range(64))
def test_each_other_bit_is_kept_ignored_or_refused(engine: Engine, bit: int) -> None:
    now = LONG0, "mov cr0, rax"
    one = stand(engine, *now)
    value = one.vcpu.state().cr0 & ~(1 << bit) if bit in (4, 5, 16) else one.vcpu.state().cr0 | 1 << bit
    one.vcpu.set_general("rax", value)
    exit_ = one.vcpu.enter(1)
    if bit >= 32 or bit == 29:  # NW without CD
        assert exit_ == exits.Fault(CODE, *GP, None)
    else:
        assert (type(exit_), one.vcpu.state().cr0) == (exits.BudgetSpent, value & KEPT | abi.CR0_ET)


def test_upper_half_of_a_register_does_not_count_outside_64_bit_code(engine: Engine) -> None:
    one = stand(engine, PM32, "mov cr0, eax")
    one.vcpu.set_general("rax", 1 << 40 | BASE)
    assert type(one.vcpu.enter(1)) is exits.BudgetSpent and one.vcpu.state().cr0 == BASE


@pytest.mark.parametrize("pae", [False, True])
@pytest.mark.parametrize("long_code", [False, True])
@pytest.mark.parametrize("lme", [False, True])
def test_long_mode_is_entered_with_pae_from_a_code_segment_that_is_not_long(
    engine: Engine, lme: bool, long_code: bool, pae: bool
) -> None:
    one = stand(engine, PM32, "mov cr0, eax")
    now = one.vcpu.state()
    segments = list(now.segments)
    if long_code:
        segments[1] = segments[1]._replace(attributes=0xA9B)
    efer = abi.EFER_LME * lme
    one.vcpu.load(
        now._replace(
            segments=tuple(segments), cr4=abi.CR4_PAE * pae, cr3=DATA, msrs=with_msr(now.msrs, abi.MSR_EFER, efer)
        )
    )
    one.vcpu.set_general("rax", BASE | abi.CR0_PG)
    exit_ = one.vcpu.enter(1)
    if lme and (not pae or long_code):
        assert exit_ == exits.Fault(CODE, *GP, None) and not one.vcpu.state().cr0 & abi.CR0_PG
    else:
        after = dict(one.vcpu.state().msrs)[abi.MSR_EFER]
        assert after == efer | abi.EFER_LMA * lme and one.vcpu.paging().cr0 & abi.CR0_PG


@pytest.mark.parametrize("source", ["mov cr0, rax", "clts", "lmsw ax", f"lmsw [{DATA}]", "mov rax, cr0"])
def test_user_code_may_not(engine: Engine, source: str) -> None:
    assert stand(engine, LONG3, source).vcpu.enter(1) == exits.Fault(CODE, *GP, None)


@pytest.mark.parametrize("flavour", [LONG0, PM32, PM32_PAGED, REAL16], ids=lambda f: f.name)
def test_clts_clears_ts_alone(engine: Engine, flavour: Flavour) -> None:
    before = Board(engine, flavour, b"\x90").vcpu.state().cr0
    one = stand(engine, flavour, "clts\nfnop", cr0=before | abi.CR0_TS | abi.CR0_MP)
    assert (type(one.vcpu.enter(2)), one.vcpu.retired) == (exits.BudgetSpent, 2)
    assert one.vcpu.state().cr0 == before | abi.CR0_MP


def test_ts_set_by_the_guest_raises_nm_until_clts(engine: Engine) -> None:
    one = stand(engine, LONG0, "mov rax, cr0\nor al, 8\nmov cr0, rax\nfnop")
    assert one.vcpu.enter(10) == exits.Fault(CODE + 8, 7, None, None)


@pytest.mark.parametrize("flavour", [LONG0, PM32, REAL16], ids=lambda f: f.name)
@pytest.mark.parametrize("memory", [False, True], ids=["register", "memory"])
@pytest.mark.parametrize("value", [0, 0xFFFF, 0xFFF0, 2, 9])
def test_lmsw_changes_four_bits_and_cannot_clear_pe(engine: Engine, flavour: Flavour, memory: bool, value: int) -> None:
    at = flavour.data[0]
    one = stand(engine, flavour, f"lmsw word ptr ds:[{at}]\nnop" if memory else "lmsw ax\nnop")
    one.ram.store(at, 2, value)
    one.vcpu.set_general("rax", 0xABCD_0000 | value)
    before = one.vcpu.state()
    assert (type(one.vcpu.enter(1)), one.vcpu.used) == (exits.BudgetSpent, 1)
    after = one.vcpu.state()
    assert after.cr0 == before.cr0 & ~0xE | value & 0xF
    assert after._replace(cr0=before.cr0, rip=before.rip) == before
    one.answer(one.vcpu.enter(1))
    assert one.vcpu.rip == after.rip + 1


def test_lmsw_from_a_missing_page_faults_and_changes_nothing(engine: Engine) -> None:
    one = stand(engine, LONG0, f"nop\nlmsw word ptr [{DATA_END}]")
    one.vcpu.enter(1)
    before = one.vcpu.state()
    assert one.vcpu.enter(5) == exits.Fault(CODE + 1, abi.PF_VECTOR, 0, DATA_END)
    assert one.vcpu.state() == before
    one = stand(engine, LONG0, "clts\nlmsw ax\nmov cr0, rax")  # still intercepted
    assert one.vcpu.enter(5) == exits.Fault(one.vcpu.rip, *GP, None) and one.vcpu.rip > CODE + 2


@pytest.mark.parametrize("source", ["lmsw ax", "clts", "mov cr0, rbx"])
def test_a_trap_is_owed_after_a_stepped_write(engine: Engine, source: str) -> None:
    one = stand(engine, LONG0, source + "\nnop", rflags=abi.RFLAGS_TF | 2)
    one.vcpu.set_general("rbx", one.vcpu.state().cr0)
    assert type(one.vcpu.enter(1)) is exits.BudgetSpent and one.vcpu.state().trap
    assert one.vcpu.enter(1) == exits.Fault(one.vcpu.rip, abi.DB_VECTOR, None, None)


@pytest.mark.parametrize(("source", "mask"), [("smsw eax", 0xFFFFFFFF), ("smsw ax", 0xFFFF), ("smsw rax", 2**64 - 1)])
def test_smsw_reads_cr0_at_any_privilege(engine: Engine, source: str, mask: int) -> None:
    for flavour in (LONG0, LONG3):
        one = stand(engine, flavour, source)
        one.vcpu.enter(1)
        assert one.vcpu.general("rax") == one.vcpu.state().cr0 & mask


# --- a guest's own way from real mode to long mode and back -----------------------------------------------------------

AT = abi.REAL_MODE_GPA
WAY = f"""
    cli
    mov dword ptr ds:[0x1000], 0x2003
    mov dword ptr ds:[0x2000], 0x3003
    mov dword ptr ds:[0x3000], 0x83
    lgdt ds:[gdtr]
    mov al, 'R'
    out {abi.PORT_CONSOLE:#x}, al
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0xea
    .word protected, 0x08
gdt: .quad 0, {0xCF9B000000FFFF}, {0xCF93000000FFFF}, {0xAF9B000000FFFF}, {0x009B000000FFFF}, {0x0093000000FFFF}
gdtr: .word gdtr - gdt - 1
    .long gdt
    .code32
protected:
    mov ax, 0x10
    mov ds, ax
    mov ss, ax
    mov esp, 0x7000
    mov al, 'P'
    out {abi.PORT_CONSOLE:#x}, al
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, 0x1000
    mov cr3, eax
    mov ecx, {abi.MSR_EFER:#x}
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    rdmsr
    test ah, 4
    jz wrong
    .byte 0xea
    .long wide
    .word 0x18
    .code64
wide:
    mov rbx, 0x1122334455667788
    mov al, 'L'
    out {abi.PORT_CONSOLE:#x}, al
    push 0x08
    push offset compatible
    .byte 0x48
    retf
    .code32
compatible:
    mov al, 'C'
    out {abi.PORT_CONSOLE:#x}, al
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, {abi.MSR_EFER:#x}
    rdmsr
    test ah, 4
    jnz wrong
    .byte 0xea
    .long narrow
    .word 0x20
    .code16
narrow:
    mov ax, 0x28
    mov ds, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    .byte 0xea
    .word real, 0
real:
    xor ax, ax
    mov ds, ax
    mov al, 'r'
    out {abi.PORT_CONSOLE:#x}, al
    xor al, al
    out {abi.PORT_EXIT:#x}, al
    .code32
wrong:
    mov al, 1
    out {abi.PORT_EXIT:#x}, al
"""


def test_guest_goes_from_real_mode_to_long_mode_and_back_by_itself() -> None:
    image = flat_image(assemble(WAY, AT, 16), "way", "real")
    result = Machine(image, Config(insn_limit=1000)).run()
    assert (result.reason, result.exit_code, result.console) == ("exit", 0, b"RPLCr")


def test_paging_switched_off_in_compatibility_mode_ends_long_mode(engine: Engine) -> None:
    one = stand(engine, LONG0, "nop")
    now = one.vcpu.state()
    segments = list(now.segments)
    segments[1] = state.flat_segment(abi.SELECTOR_CODE32, state.CODE32)
    one.ram.write(CODE, assemble("mov cr0, eax\nmov ecx, 5", CODE, 32))
    one.vcpu.load(now._replace(segments=tuple(segments)))
    one.vcpu.set_general("rax", BASE)
    assert type(one.vcpu.enter(2)) is exits.BudgetSpent
    after = one.vcpu.state()
    assert not dict(after.msrs)[abi.MSR_EFER] & abi.EFER_LMA and not after.cr0 & abi.CR0_PG
    assert (after.rip, after.general[1]) == (CODE + 8, 5)
