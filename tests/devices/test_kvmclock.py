"""kvmclock keeps its promises, each of which can fail; and its arithmetic keeps its bound."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import clock
from emu.devices import pvclock
from emu.devices.kvmclock import SystemTime, WallClock
from emu.devices.pvclock import MasterClock, TimeInfo
from emu.devices.steal_time import Load, Step
from emu.devices.tsc import Tsc
from tests.effort import EFFORT

from .kvmclock_promises import TIME_NEW, Bench, time_promises, wall_promises
from .promises import AREA, Promise

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100 * EFFORT, database=None)
KHZ = st.one_of(st.sampled_from([1_000_000, 2_999_999, 2_595_125, 3_000_000, 999_999, 1, 7]), st.integers(1, 10**8))


@pytest.mark.parametrize("promise", wall_promises.values(), ids=wall_promises)
def test_wall_clock_promise(promise: Promise) -> None:
    promise(WallClock)


@pytest.mark.parametrize("promise", time_promises.values(), ids=time_promises)
def test_system_time_promise(promise: Promise) -> None:
    promise(SystemTime)


class WallVersionStaysOdd(WallClock):
    def _stores(self, gpa: int, load: Load) -> Iterator[Step]:
        return (step for step in super()._stores(gpa, load) if step.step != "even")


class WallMasksAddress(WallClock):
    def write(self, value: int) -> None:
        super().write(value & ~3)


class WallAllOrNothing(WallClock):
    def update(self, load: Load) -> Iterator[Step]:
        return super().update(load) if self._ram_holds(self.value, 12) else iter(())


class WallUpdateOutlivesWrmsr(WallClock):
    def write(self, value: int) -> None:
        generation = self._generation
        super().write(value)
        self._generation = generation


class WallInMilliseconds(WallClock):
    def _stores(self, gpa: int, load: Load) -> Iterator[Step]:
        for step in super()._stores(gpa, load):
            yield step._replace(value=step.value // 1000) if step.step == "nsec" else step


class TimeWithoutOddPhase(SystemTime):
    def _stores(self, gpa: int, load: Load, timestamp: int, ns: int) -> Iterator[Step]:
        return (step for step in super()._stores(gpa, load, timestamp, ns) if step.step != "odd")


class TimeMasksAlignment(SystemTime):
    @property
    def area_gpa(self) -> int:
        return self.value & ~3


class TimeCrossesPages(SystemTime):
    def update(self, load: Load) -> Iterator[Step]:
        gpa, self._requested, self._told = self.area_gpa, False, self._current()
        inside = self.enabled and self._ram_holds(gpa, 32)
        return self._stores(gpa, load, 0, 0) if inside else iter(())


class TimeKeepsOldPlaceAlways(SystemTime):
    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        self._keeps_old_place = True


class TimeKeepsOldPlaceOverDisable(SystemTime):
    def write(self, value: int, *, legacy: bool = False) -> None:
        place = self._place
        super().write(value, legacy=legacy)
        if self._keeps_old_place and self._place is None:
            self._place = place

    @property
    def requested(self) -> bool:
        return self._requested


class TimeIgnoresTscOffset(SystemTime):
    def _stores(self, gpa: int, load: Load, timestamp: int, ns: int) -> Iterator[Step]:
        return super()._stores(gpa, load, self._master.origin_tick, ns)


class TimeFlagsOfAnyVcpu(SystemTime):
    def write(self, value: int, *, legacy: bool = False) -> None:
        super().write(value, legacy=legacy)
        self._master.declare(not legacy)


class TimeForgetsStopped(SystemTime):
    def _stores(self, gpa: int, load: Load, timestamp: int, ns: int) -> Iterator[Step]:
        return super()._stores(gpa, lambda gpa, size: 0 if size == 1 else load(gpa, size), timestamp, ns)


class TimeAfterDisable(SystemTime):
    @property
    def enabled(self) -> bool:
        return self.value != 0


class TimeSurvivesReset(SystemTime):
    def reset(self) -> None:
        self.request()


SLIPS: dict[Any, str] = {
    WallVersionStaysOdd: "time_of_boot_is_stored_at_once_between_odd_and_even",
    WallMasksAddress: "address_needs_no_alignment_and_has_no_enable_bit",
    WallAllOrNothing: "what_lies_outside_ram_is_not_stored_and_what_lies_inside_is",
    WallUpdateOutlivesWrmsr: "wrmsr_between_two_stores_ends_the_update",
    WallInMilliseconds: "time_of_boot_is_stored_at_once_between_odd_and_even",
    TimeWithoutOddPhase: "registration_stores_all_fields_between_odd_and_even",
    TimeMasksAlignment: "only_bit_0_is_not_address",
    TimeKeepsOldPlaceAlways: "place_that_would_cross_a_page_ends_the_registration_but_under_kvm_bugs",
    TimeKeepsOldPlaceOverDisable: "place_that_would_cross_a_page_ends_the_registration_but_under_kvm_bugs",
    TimeCrossesPages: "structure_that_crosses_a_page_or_leaves_ram_is_never_written",
    TimeIgnoresTscOffset: "changed_tsc_or_clock_asks_for_an_update_and_time_goes_on",
    TimeFlagsOfAnyVcpu: "vcpu_0_alone_decides_for_all_whether_clocks_are_stable",
    TimeForgetsStopped: "guest_stopped_survives_and_no_other_flag_does",
    TimeAfterDisable: "clear_bit_0_ends_the_updates",
    TimeSurvivesReset: "reset_forgets_the_registration_and_leaves_the_wall_clock",
}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: Any) -> None:
    promises = wall_promises if issubclass(slip, WallClock) else time_promises
    assert SLIPS[slip] in promises.violations(slip)


# --- arithmetic ------------------------------------------------------------------------------------------------------


@EXAMPLES
@given(KHZ)
def test_scale_is_the_largest_32_bit_one_that_is_not_too_fast(khz: int) -> None:
    mul, shift = pvclock.scale(khz)
    assert 0 < mul < 2**32 and 0 <= shift < 128
    assert (mul << shift) * khz <= 10**6 << 32 < (mul + 1 << shift) * khz
    assert shift == 0 or mul >= 2**31, "no bit of precision is given away"


def test_one_gigahertz_is_exact_and_never_due() -> None:
    assert pvclock.scale(1_000_000) == (1 << 31, 1)
    assert MasterClock(1_000_000).due_ps is None


@pytest.mark.parametrize("khz", [0, -1])
def test_clock_that_does_not_tick_is_refused(khz: int) -> None:
    with pytest.raises(ValueError, match="tick"):
        pvclock.scale(khz)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_decode_refuses_any_other_size(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        pvclock.decode(bytes(size))


def test_guests_formula_shifts_both_ways_and_wraps() -> None:
    assert TimeInfo(2, 10, 5, 1 << 31, -1, 0).ns(50) == 5 + (40 >> 1) // 2
    assert TimeInfo(2, 10, 5, 1 << 31, 1, 0).ns(50) == 5 + 40
    assert TimeInfo(2, 2**64 - 10, 5, 1 << 31, 1, 0).ns(10) == 5 + 20


def test_clock_does_not_start_in_its_own_past() -> None:
    master = MasterClock(3_000_000)
    master.rebase(10**9)
    with pytest.raises(ValueError, match="cannot start"):
        master.rebase(10**9 - 10**6)


def test_clock_is_set_anew_when_due_and_not_before() -> None:
    master = MasterClock(2_999_999)
    due = master.due_ps
    assert due is not None and due > 10**11, "seldom: more than a tenth of a second apart"
    assert not master.keep(due - 1) and master.generation == 0
    assert master.keep(due) and master.generation == 1
    assert master.due_ps is not None and master.due_ps > due


ADVANCE = st.one_of(st.integers(0, 5000), st.integers(0, 10**13), st.sampled_from([1, 333, 10**12, 3600 * 10**12]))


@EXAMPLES
@given(KHZ, st.lists(st.tuples(ADVANCE, st.integers(0, 2), st.booleans()), min_size=1, max_size=40))
def test_clocks_of_all_vcpus_are_within_1_ns_and_never_go_back(khz: int, turns: list[tuple[int, int, bool]]) -> None:
    bench = Bench(vcpus=3, khz=khz)
    for vcpu in range(3):
        bench.tscs[vcpu].offset = 2**64 - 1000 if vcpu == 2 else vcpu
        bench.write(TIME_NEW, AREA + 64 * vcpu | 1, vcpu)
    last = 0
    for advance, vcpu, rebase in turns:
        bench.ps += advance
        bench.master.keep(bench.ps)
        if rebase:
            bench.master.rebase(bench.ps)
        bench.serve()
        reading = bench.info(AREA + 64 * vcpu).ns(bench.tscs[vcpu].value())
        tick_ns = clock.tsc(bench.ps, khz) * 10**6 // khz
        assert abs(reading - tick_ns) <= 1, (reading, tick_ns)
        assert reading >= last
        last = reading


def test_without_being_set_anew_the_bound_would_be_broken() -> None:
    bench = Bench(khz=2_999_999)
    bench.write(TIME_NEW, AREA | 1)
    bench.ps = 3600 * 10**12
    assert abs(bench.info().ns(bench.tscs[0].value()) - 3600 * 10**9) > 100


def _errors(master_class: type[MasterClock]) -> set[int]:
    """Reading minus truth in whole nanoseconds, some time after each of many new starts, until the next is due."""
    khz = 2_999_999
    bench = Bench(khz=khz)
    bench.master = bench.times[0]._master = master_class(khz)
    bench.write(TIME_NEW, AREA | 1)
    errors = set()
    for turn in range(2000):
        bench.ps += 777
        bench.master.rebase(bench.ps)
        bench.serve()
        due = bench.master.due_ps
        assert due is not None
        bench.ps += turn * 104_729_000_000 % (due - bench.ps)
        tick_ns = clock.tsc(bench.ps, khz) * 10**6 // khz
        errors.add(bench.info().ns(bench.tscs[0].value()) - tick_ns)
    return errors


def test_rounding_the_start_down_would_break_the_bound() -> None:
    class RoundsDown(MasterClock):
        def rebase(self, now_ps: int) -> None:
            super().rebase(now_ps)
            self.origin_ns = self.origin_tick * 10**6 // self.khz

    assert _errors(MasterClock) <= {-1, 0, 1}
    assert min(_errors(RoundsDown)) == -2


def test_tsc_is_read_in_the_vcpus_own_terms() -> None:
    tsc = Tsc(lambda: 0, 1_000_000)
    tsc.offset = 123
    bench = Bench()
    device = SystemTime(bench.holds, bench.master, tsc)
    device.write(AREA | 1)
    bench.perform(device.update(bench.load))
    assert bench.info().tsc_timestamp == 123
