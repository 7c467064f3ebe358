"""What this CPU does not do, each seen. Where one fails, the list in tutorials/engine.md has become shorter."""

import math
import struct

import pytest

from emu import abi, exits
from emu.ram import Ram
from emu.state import SEGMENTS
from emu.vcpu.engine import Engine
from tests.assemble import assemble
from tests.vcpu.board import CODE, DATA, IDT, LONG0, LONG3, PM32, REAL16, SPAN, Board, gate64

DENIED = 0x70  # a port that the board's I/O bitmap forbids
NOT_CANONICAL = 1 << 63
ALIGNMENT_CHECK = 1 << 18  # AM in CR0, AC in RFLAGS


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Ram(2 * SPAN))


def test_an_unmasked_sse_exception_is_not_raised(engine):
    source = f"mov dword ptr [{DATA}], 0x1d80\nldmxcsr [{DATA}]\nxorps xmm0, xmm0\ndivss xmm0, xmm0\nhlt"
    assert type(Board(engine, LONG0, assemble(source)).vcpu.enter(10)) is exits.Hlt


@pytest.mark.parametrize(("last", "stop"), [("fadd st(0), st(1)", exits.Hlt), ("fwait", exits.Fault)])
def test_an_unmasked_x87_exception_is_raised_at_fwait_alone(engine, last, stop):
    source = f"fninit\nmov word ptr [{DATA}], 0x37b\nfldcw [{DATA}]\nfld1\nfldz\nfdivp\nfld1\n{last}\nhlt"
    assert type(Board(engine, LONG0, assemble(source)).vcpu.enter(20)) is stop


def test_a_word_at_the_end_of_a_real_mode_segment_may_cross_it(engine):
    code = assemble("mov bx, 0xffff\nmov ax, [bx]\nhlt", REAL16.code, 16)
    assert type(Board(engine, REAL16, code).vcpu.enter(10)) is exits.Hlt


def test_a_segment_limit_in_protected_mode_is_not_enforced(engine):
    one = Board(engine, PM32, assemble(f"mov eax, [{DATA}]\nhlt", CODE, 32))
    now = one.vcpu.state()
    segments = list(now.segments)
    segments[SEGMENTS.index("ds")] = segments[SEGMENTS.index("ds")]._replace(limit=abi.PAGE_SIZE - 1)
    one.vcpu.load(now._replace(segments=tuple(segments)))
    assert type(one.vcpu.enter(10)) is exits.Hlt


@pytest.mark.parametrize("source", ["insb", "rep insd"])
def test_a_denied_ins_zeroes_its_destination(engine, source):
    one = Board(engine, LONG3, assemble(source))
    for name, value in (("rdx", DENIED), ("rcx", 3), ("rdi", DATA)):
        one.vcpu.set_general(name, value)
    one.ram.store(DATA, 8, 2**64 - 1)
    assert one.vcpu.enter(10) == exits.Fault(CODE, abi.GP_VECTOR, 0, None)
    assert one.ram.load(DATA, 1) == 0


def test_alignment_is_not_checked(engine):
    one = Board(engine, LONG3, assemble(f"mov eax, [{DATA + 1}]\nnop\nint3"))
    now = one.vcpu.state()
    one.vcpu.load(now._replace(rflags=now.rflags | ALIGNMENT_CHECK, cr0=now.cr0 | ALIGNMENT_CHECK))
    assert type(one.vcpu.enter(10)) is exits.SoftwareInterrupt


def test_an_interrupts_frame_at_an_address_that_is_not_canonical_raises_gp_and_not_ss(engine):
    one = Board(engine, LONG0, assemble(f"mov rsp, {NOT_CANONICAL}\nint3"))
    one.ram.write(IDT + 16 * abi.GP_VECTOR, gate64(0x130000, ist=1))
    one.ram.write(IDT + 16 * abi.SS_VECTOR, gate64(0x140000, ist=1))
    one.answer(one.until_exit(exits.SoftwareInterrupt))
    assert one.vcpu.rip == 0x130000


@pytest.mark.parametrize("source", ["jmp rax", "call rax", "push rax\nret"])
@pytest.mark.parametrize("cut", [1, 2, 10])
def test_a_branch_to_an_address_that_is_not_canonical_faults_behind_the_branch(engine, source, cut):
    one = Board(engine, LONG0, assemble(f"mov rax, {NOT_CANONICAL}\n{source}"))
    while type(exit_ := one.vcpu.enter(cut)) is exits.BudgetSpent:
        pass
    assert exit_ == exits.Fault(NOT_CANONICAL, abi.GP_VECTOR, 0, None)
    assert one.vcpu.retired == 2 + source.count("\n")  # the branch is one of them, however the run is cut


def test_a_breakpoint_in_a_debug_register_does_not_fire(engine):
    source = f"mov rax, {DATA}\nmov dr0, rax\nmov rax, 0x30001\nmov dr7, rax\nmov dword ptr [{DATA}], 1\nhlt"
    assert type(Board(engine, LONG0, assemble(source)).until_exit(exits.Hlt, exits.Fault)) is exits.Hlt


def test_avx_is_executed_as_sse(engine):
    source = f"mov dword ptr [{DATA}], 0x40400000\nmovss xmm1, [{DATA}]\n.byte 0xc5, 0xf2, 0x58, 0xc1\nhlt"  # vaddss
    assert type(Board(engine, LONG0, assemble(source)).vcpu.enter(10)) is exits.Hlt


def test_movaps_to_an_odd_address_is_not_refused(engine):
    assert type(Board(engine, LONG0, assemble(f"movaps [{DATA + 1}], xmm0\nhlt")).vcpu.enter(10)) is exits.Hlt


def test_fsin_is_the_hosts_own(engine):
    board = Board(engine, LONG0, assemble(f"fld1\nfsin\nfstp qword ptr [{DATA}]\nhlt"))
    board.vcpu.enter(10)
    found = struct.unpack("<d", board.vcpu.read_linear(DATA, 8))[0]
    assert found == math.sin(1.0)
