"""The promises can fail: each slip that a host has made, or could make, breaks the promise that is there for it."""

from collections.abc import Iterator

import pytest

from emu.devices.steal_time import Load, StealTime, Step
from emu.faults import general_protection

from .steal_time_promises import violations


class NoOddPhase(StealTime):
    def _stores(self, area: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        return (step for step in super()._stores(area, run_delay, load, halves) if step.step != "odd")


class VersionPlusOne(StealTime):
    def _stores(self, area: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        for step in super()._stores(area, run_delay, load, halves):
            yield step._replace(value=step.value - 1) if step.step == "even" else step


class StealBeforeOdd(StealTime):
    def _stores(self, area: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        steps = list(super()._stores(area, run_delay, load, halves))
        return iter(sorted(steps, key=lambda step: step.step == "odd" or 2 * (step.step == "even")))


class UpdateAfterDisable(StealTime):
    @property
    def enabled(self) -> bool:
        return self.area_gpa != 0


class StopsOnlyAtZero(StealTime):
    @property
    def enabled(self) -> bool:
        return self.msr_value != 0


class ReservedMaskWithoutBit5(StealTime):
    reserved_mask = 0x1E


class ReservedMaskWithEnableBit(StealTime):
    reserved_mask = 0x3F


class PageMask(StealTime):
    @property
    def area_gpa(self) -> int:
        return self.msr_value & ~0xFFF


class StealOverwritten(StealTime):
    def _steal(self, gpa: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        return super()._steal(gpa, run_delay, lambda gpa, size: 0, halves)


class StealIn32Bits(StealTime):
    def _steal(self, gpa: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        for step in super()._steal(gpa, run_delay, load, halves):
            yield Step(step.step, step.gpa, 4, step.value % 2**32)


class TotalAddedEachTime(StealTime):
    def _take_delta(self, run_delay: int) -> int:
        self.last_steal = run_delay
        return run_delay


class DeliveredWithTheLastStore(StealTime):
    def _steal(self, gpa: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        before = self.last_steal
        for step in super()._steal(gpa, run_delay, load, halves):
            self.last_steal = before
            yield step
        self.last_steal = run_delay


class NoCarry(StealTime):
    def _steal(self, gpa: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        delta = self._take_delta(run_delay)
        if not halves:
            yield Step("steal", gpa, 8, (load(gpa, 8) + delta) % 2**64)
            return
        yield Step("steal-low", gpa, 4, (load(gpa, 4) + delta) % 2**32)
        yield Step("steal-high", gpa + 4, 4, (load(gpa + 4, 4) + (delta >> 32)) % 2**32)


class FlagsZeroed(StealTime):
    def _stores(self, area: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        for step in super()._stores(area, run_delay, load, halves):
            yield step._replace(size=8) if step.step in ("odd", "even") else step


class PadZeroed(StealTime):
    def _stores(self, area: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        for step in super()._stores(area, run_delay, load, halves):
            yield step._replace(size=4) if step.step == "preempted" else step


class NoJunkFixUp(StealTime):
    def _odd_version(self, found: int) -> int:
        return (found + 1) % 2**32


class VersionIn16Bits(StealTime):
    def _odd_version(self, found: int) -> int:
        return (found + (found & 1) + 1) % 2**16


class ReadingMasksLowBits(StealTime):
    def rdmsr(self, msr: int) -> int:
        return super().rdmsr(msr) & ~0x3F


class GpOutsideRam(StealTime):
    def wrmsr(self, msr: int, value: int) -> None:
        if not self._in_ram(value & ~0x3F):
            raise general_protection()
        super().wrmsr(msr, value)


class RefusalStoresFirst(StealTime):
    def wrmsr(self, msr: int, value: int) -> None:
        self.msr_value = value
        super().wrmsr(msr, value)


class BaselineAtRegistration(StealTime):
    def wrmsr(self, msr: int, value: int) -> None:
        super().wrmsr(msr, value)
        self.last_steal = 0


class BaselineAtReset(StealTime):
    def reset(self) -> None:
        super().reset()
        self.last_steal = 0


class ResetKeepsTheMsr(StealTime):
    def reset(self) -> None:
        self._generation += 1


class NoRequestAtRegistration(StealTime):
    def wrmsr(self, msr: int, value: int) -> None:
        super().wrmsr(msr, value)
        self.requested = False


class PreemptionBumpsVersion(StealTime):
    def preempt(self) -> Iterator[Step]:
        for step in super().preempt():
            yield step
            yield Step("even", self.area_gpa + 8, 4, 4)


class PreemptionShownAgain(StealTime):
    def preempt(self) -> Iterator[Step]:
        self._preempted_shown = False
        return super().preempt()


class PreemptedByteStuck(StealTime):
    def _stores(self, area: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        return (step for step in super()._stores(area, run_delay, load, halves) if step.step != "preempted")


class StoresPreparedAhead(StealTime):
    def _stores(self, area: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        return iter(list(super()._stores(area, run_delay, load, halves)))


class UpdateOutlivesWrmsr(StealTime):
    def wrmsr(self, msr: int, value: int) -> None:
        generation = self._generation
        super().wrmsr(msr, value)
        self._generation = generation


SLIPS = {
    NoOddPhase: "stores_come_in_order_preempted_odd_steal_even",
    VersionPlusOne: "version_steps_over_junk_and_wraps_at_32_bits",
    StealBeforeOdd: "stores_come_in_order_preempted_odd_steal_even",
    UpdateAfterDisable: "clear_bit_0_stops_at_once_and_freezes_the_area",
    StopsOnlyAtZero: "clear_bit_0_stops_at_once_and_freezes_the_area",
    ReservedMaskWithoutBit5: "reserved_bit_raises_gp_and_changes_nothing",
    ReservedMaskWithEnableBit: "every_accepted_value_reads_back_bit_for_bit",
    PageMask: "area_anywhere_in_ram_is_updated",
    StealOverwritten: "steal_is_added_to_what_the_guest_left_there_and_wraps_at_64_bits",
    StealIn32Bits: "steal_is_added_to_what_the_guest_left_there_and_wraps_at_64_bits",
    TotalAddedEachTime: "first_update_brings_all_run_delay_and_later_ones_the_rest",
    DeliveredWithTheLastStore: "update_that_ends_early_neither_loses_time_nor_tells_it_twice",
    NoCarry: "halves_carry_from_the_low_store_into_the_high_one",
    FlagsZeroed: "flags_and_pad_survive",
    PadZeroed: "flags_and_pad_survive",
    NoJunkFixUp: "version_steps_over_junk_and_wraps_at_32_bits",
    VersionIn16Bits: "version_steps_over_junk_and_wraps_at_32_bits",
    ReadingMasksLowBits: "every_accepted_value_reads_back_bit_for_bit",
    GpOutsideRam: "area_outside_ram_is_never_written_and_its_time_comes_later",
    RefusalStoresFirst: "reserved_bit_raises_gp_and_changes_nothing",
    BaselineAtRegistration: "moved_area_starts_from_its_own_content_and_the_old_one_freezes",
    BaselineAtReset: "reset_clears_the_msr_and_keeps_what_was_delivered",
    ResetKeepsTheMsr: "reset_clears_the_msr_and_keeps_what_was_delivered",
    NoRequestAtRegistration: "enabling_requests_an_update_and_disabling_does_not",
    PreemptionBumpsVersion: "preemption_shows_once_and_leaves_the_version_alone",
    PreemptionShownAgain: "preemption_shows_once_and_leaves_the_version_alone",
    PreemptedByteStuck: "preempted_byte_is_cleared_whatever_the_guest_left_there",
    StoresPreparedAhead: "each_store_takes_the_guest_value_of_its_own_moment",
    UpdateOutlivesWrmsr: "wrmsr_or_reset_between_two_stores_ends_the_update",
}


def test_the_device_itself_breaks_no_promise() -> None:
    assert violations(StealTime) == []


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: type[StealTime]) -> None:
    assert SLIPS[slip] in violations(slip)
