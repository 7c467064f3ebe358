"""The promises can fail: each slip that a host has made, or could make, breaks the promise that is there for it."""

from collections.abc import Iterator

import pytest

from emu.devices.steal_time import Load, StealTime, Step
from emu.faults import general_protection

from .steal_time_promises import violations


class Altered(StealTime):
    """Hands out what `alter` makes of each store; None leaves the store out."""

    def alter(self, step: Step) -> Step | None:
        return step

    def step(self, load: Load) -> Step | None:
        while (step := super().step(load)) is not None:
            if (altered := self.alter(step)) is not None:
                return altered
        return None


class Prepared(StealTime):
    """Computes all stores of an update when the first is asked for; `arranged` says in which order they come."""

    left: tuple[Step, ...] = ()

    def arranged(self, steps: list[Step]) -> list[Step]:
        return steps

    def begin(self, run_delay_ns: int, *, halves: bool = False) -> None:
        super().begin(run_delay_ns, halves=halves)
        self.left = ()

    def step(self, load: Load) -> Step | None:
        if not self.left:
            self.left = tuple(self.arranged(list(iter(lambda: super(Prepared, self).step(load), None))))
        if not self.left:
            return None
        step, *left = self.left
        self.left = tuple(left)
        return step


class NoOddPhase(Altered):
    def alter(self, step: Step) -> Step | None:
        return None if step.step == "odd" else step


class VersionPlusOne(Altered):
    def alter(self, step: Step) -> Step | None:
        return step._replace(value=step.value - 1) if step.step == "even" else step


class StealBeforeOdd(Prepared):
    def arranged(self, steps: list[Step]) -> list[Step]:
        return sorted(steps, key=lambda step: step.step == "odd" or 2 * (step.step == "even"))


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
    def step(self, load: Load) -> Step | None:
        adds = self.under_way is not None and self.under_way.next.startswith("steal")
        return super().step((lambda gpa, size: 0) if adds else load)


class StealIn32Bits(Altered):
    def alter(self, step: Step) -> Step | None:
        return step._replace(size=4, value=step.value % 2**32) if step.step.startswith("steal") else step


class TotalAddedEachTime(StealTime):
    def _take_delta(self, run_delay: int) -> int:
        self.last_steal = run_delay
        return run_delay


class DeliveredWithTheLastStore(StealTime):
    def step(self, load: Load) -> Step | None:
        update, before = self.under_way, self.last_steal
        step = super().step(load)
        self.last_steal = update.run_delay if update is not None and update.next == "even" else before
        return step


class NoCarry(StealTime):
    def step(self, load: Load) -> Step | None:
        update, before = self.under_way, self.last_steal
        step = super().step(load)
        if update is not None and update.next == "steal-low" and self.under_way is not None:
            self.under_way = self.under_way._replace(high=(update.run_delay - before) % 2**64 >> 32)
        return step


class FlagsZeroed(Altered):
    def alter(self, step: Step) -> Step | None:
        return step._replace(size=8) if step.step in ("odd", "even") else step


class PadZeroed(Altered):
    def alter(self, step: Step) -> Step | None:
        return step._replace(size=4) if step.step == "preempted" else step


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
        self.under_way = None


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


class PreemptedByteStuck(Altered):
    def alter(self, step: Step) -> Step | None:
        return None if step.step == "preempted" else step


class StoresPreparedAhead(Prepared):
    pass


class UpdateOutlivesWrmsr(StealTime):
    def wrmsr(self, msr: int, value: int) -> None:
        under_way = self.under_way
        super().wrmsr(msr, value)
        self.under_way = under_way


class UpdateOutlivesTheNextOne(StealTime):
    """Each iterator goes on with the update that it began."""

    def update(self, run_delay_ns: int, load: Load, *, halves: bool = False) -> Iterator[Step]:
        self.begin(run_delay_ns, halves=halves)
        mine = self.under_way
        while mine is not None:
            self.under_way = mine
            step = self.step(load)
            mine = self.under_way
            assert step is not None
            yield step


class VersionReadAgain(StealTime):
    """Forgets what it stored: the version is taken from memory again for the last store."""

    def step(self, load: Load) -> Step | None:
        if self.under_way is not None and self.under_way.next == "even":
            self.under_way = self.under_way._replace(version=load(self.under_way.gpa + 8, 4))
        return super().step(load)


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
    UpdateOutlivesTheNextOne: "update_that_ends_early_neither_loses_time_nor_tells_it_twice",
    VersionReadAgain: "each_store_takes_the_guest_value_of_its_own_moment",
}


def test_the_device_itself_breaks_no_promise() -> None:
    assert violations(StealTime) == []


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: type[StealTime]) -> None:
    assert SLIPS[slip] in violations(slip)
