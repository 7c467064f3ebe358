"""However a run is cut into entries, the guest cannot tell: the short form of `make prove-slicing`."""

import pytest

from emu import exits
from tests.vcpu import slicing
from tests.vcpu.board import LONG0

PROGRAMS, GROUP = 150, 15


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
