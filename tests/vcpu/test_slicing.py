"""However a run is cut into entries, the guest cannot tell: the short form of `make prove-slicing`."""

import pytest

from emu import exits
from emu.ram import Ram
from emu.vcpu.engine import Engine
from tests.assemble import assemble
from tests.effort import EFFORT
from tests.vcpu import slicing
from tests.vcpu.board import CODE, LONG0, SPAN, Board

PROGRAMS, GROUP = 60 * EFFORT, 15


@pytest.mark.parametrize("first", range(0, PROGRAMS, GROUP))
def test_any_slicing_gives_the_same_states_exits_and_memory(first: int) -> None:
    for one in slicing.programs(first, GROUP):
        found, _, _ = slicing.compare(one, slicings=1)
        assert found == [], f"program {one.seed} ({one.flavour.name})"


def test_the_random_programs_reach_every_kind_of_exit() -> None:
    seen: set[object] = set()
    for one in slicing.programs(0, 60):
        log = slicing.Run(one, companion=False).unsliced().log
        seen |= {type(exit_) for _, exit_ in log}
        seen |= {exit_.vector for _, exit_ in log if type(exit_) in (exits.Fault, exits.SoftwareInterrupt)}
    kinds = {exits.Cpuid, exits.Rdmsr, exits.Wrmsr, exits.Rdtsc, exits.PortIn, exits.PortOut, exits.Hlt, exits.Pause}
    assert seen >= kinds | {exits.Hypercall, exits.TprRead, exits.TprWrite, exits.SoftwareInterrupt}
    assert seen >= {0, 1, 3, 6, 13, 14, 0x80}


def test_a_difference_is_found_when_there_is_one() -> None:
    one, other = slicing.programs(0, 6)[::5]
    assert one.flavour == other.flavour == LONG0
    apart = slicing.differences(slicing.Run(one, False).unsliced(), slicing.Run(other, False).unsliced(), "planted")
    assert any("RAM" in line for line in apart) and any("end" in line for line in apart)


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 100])
def test_a_store_into_its_own_block_is_one_unit(cut: int) -> None:
    source = "mov ecx, 5\nL: inc byte ptr [rip+T+1]\nnop\nT: mov al, 7\ndec ecx\njnz L\nhlt"
    board = Board(Engine(Ram(SPAN)), LONG0, assemble(source))
    while not board.log:
        board.answer(board.vcpu.enter(cut))
    assert board.log == [(26, exits.Hlt(CODE + len(assemble(source)) - 1, 1))]
    assert board.vcpu.general("rax") == 12
