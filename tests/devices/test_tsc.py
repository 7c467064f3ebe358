"""The TSC counts virtual time, and goes on from what a guest writes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.tsc import Tsc
from emu.faults import GuestFault
from tests.effort import EFFORT

TSC = 0x10
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100 * EFFORT, database=None)


class Clock:
    def __init__(self) -> None:
        self.ps = 0

    def __call__(self) -> int:
        return self.ps


def test_counts_ticks_of_virtual_time() -> None:
    now = Clock()
    tsc = Tsc(now, 1_000_000)
    now.ps = 2_500_999
    assert tsc.value() == tsc.rdmsr(TSC) == 2500


def test_written_value_is_where_it_goes_on() -> None:
    now = Clock()
    tsc = Tsc(now, 3_000_000)
    now.ps = 7_001
    tsc.wrmsr(TSC, 100)
    assert tsc.rdmsr(TSC) == 100
    now.ps += 10_000
    assert tsc.rdmsr(TSC) == 130


def test_wraps_at_64_bits() -> None:
    now = Clock()
    tsc = Tsc(now, 1_000_000)
    tsc.wrmsr(TSC, 2**64 - 1)
    now.ps = 2_000
    assert tsc.rdmsr(TSC) == 1


def test_other_msr_raises_gp() -> None:
    tsc = Tsc(Clock(), 1)
    with pytest.raises(GuestFault):
        tsc.rdmsr(0x11)
    with pytest.raises(GuestFault):
        tsc.wrmsr(0x11, 0)


def test_counter_that_does_not_tick_is_refused() -> None:
    with pytest.raises(ValueError, match="does not tick"):
        Tsc(Clock(), 0)


@EXAMPLES
@given(st.integers(0, 10**15), st.integers(1, 10**7), st.integers(0, 2**64 - 1), st.integers(-1000, 10**9))
def test_due_is_the_first_picosecond_that_reads_so_much(start_ps: int, khz: int, value: int, ahead: int) -> None:
    now = Clock()
    now.ps = start_ps
    tsc = Tsc(now, khz)
    tsc.wrmsr(TSC, value)
    ticks = min(max(value + ahead, 0), 2**64 - 1)
    due = tsc.due_ps(ticks)
    assert due >= start_ps
    now.ps = due
    assert tsc.value() >= ticks
    if due > start_ps:
        now.ps = due - 1
        assert tsc.value() < ticks
