"""Paravirtual EOI keeps its promises, each of which can fail; and together with an APIC no interrupt is ended twice."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.lapic import Lapic
from emu.devices.pv_eoi import PvEoi
from emu.devices.steal_time import Load, Step
from emu.devices.tsc import Tsc
from tests.effort import EFFORT

from .promises import AREA, RAM, Memory, Promise, Promises, accepts, refuses_reading

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100 * EFFORT, database=None)
MSR = 0x4B564D04
promises = Promises()


class Bench(Memory):
    def __init__(self, device_class: Any = PvEoi, value: int = AREA | 1) -> None:
        super().__init__()
        self.device = device_class(self.holds)
        assert accepts(self.device, MSR, value)

    def enter(self, requested: bool = False) -> list[Step]:
        return self.perform(self.device.enter(requested))

    def leave(self) -> bool:
        ended, steps = self.device.leave(self.load)
        self.perform(steps)
        return bool(ended)


@promises.add
def accepted_value_reads_back_and_refused_one_changes_nothing(device_class: Any) -> None:
    bench = Bench(device_class)
    for value in (AREA | 1, AREA + 4 | 1, AREA, 0, 1, RAM - 4 | 1, RAM, 2**64 - 4):
        assert accepts(bench.device, MSR, value) and bench.device.rdmsr(MSR) == value, hex(value)
    for value in (AREA | 2, AREA | 3, 2, RAM | 1, 2**64 - 3, 1 << 40 | 1):
        assert not accepts(bench.device, MSR, value), hex(value)


@promises.add
def bit_is_set_for_the_interrupt_just_taken_and_not_otherwise(device_class: Any) -> None:
    bench = Bench(device_class)
    assert bench.enter() == [] and not bench.device.pending
    bench.device.injected()
    assert bench.enter() == [Step("pv-eoi-set", AREA, 1, 1)] and bench.device.pending


@promises.add
def bit_is_not_set_while_another_interrupt_waits(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.device.injected()
    assert bench.enter(requested=True) == [] and not bench.leave()


@promises.add
def bit_is_not_set_where_the_guest_does_not_want_it(device_class: Any) -> None:
    for value in (0, AREA):
        bench = Bench(device_class, value)
        bench.device.injected()
        assert bench.enter() == [] and not bench.leave() and bench.untouched(), hex(value)


@promises.add
def cleared_bit_is_one_eoi(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.device.injected()
    bench.enter()
    bench.store(AREA, 1, 0)
    assert bench.leave() and not bench.leave()


@promises.add
def bit_that_is_still_set_is_taken_back_and_is_no_eoi(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.device.injected()
    bench.enter()
    assert not bench.leave()
    assert bench.untouched() and not bench.device.pending
    assert bench.enter() == [Step("pv-eoi-set", AREA, 1, 1)], "it is offered again"


@promises.add
def other_bits_of_the_byte_do_not_count(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.device.injected()
    bench.enter()
    bench.store(AREA, 1, 0xFE)
    assert bench.leave()


@promises.add
def interrupt_under_another_one_ends_by_apic(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.device.injected()
    bench.device.injected()
    bench.device.eoi()
    assert bench.enter() == []


@promises.add
def reset_and_wrmsr_forget_what_is_pending(device_class: Any) -> None:
    for value in (None, 0, AREA + 4 | 1):
        bench = Bench(device_class)
        bench.device.injected()
        bench.enter()
        bench.store(AREA, 1, 0)
        if value is None:
            bench.device.reset()
            assert bench.device.rdmsr(MSR) == 0 and bench.enter() == []
        else:
            assert accepts(bench.device, MSR, value)
        assert not bench.leave(), value


@promises.add
def another_msr_is_refused(device_class: Any) -> None:
    bench = Bench(device_class)
    assert refuses_reading(bench.device, 0x4B564D03) and not accepts(bench.device, 0x4B564D05, 0)


@pytest.mark.parametrize("promise", promises.values(), ids=promises)
def test_promise(promise: Promise) -> None:
    promise(PvEoi)


class RefusalStoresFirst(PvEoi):
    def wrmsr(self, msr: int, value: int) -> None:
        self.msr_value = value
        super().wrmsr(msr, value)


class ChecksRamAlsoWhenDisabled(PvEoi):
    def wrmsr(self, msr: int, value: int) -> None:
        super().wrmsr(msr, value | 1)
        super().wrmsr(msr, value)


class AlignmentUnchecked(PvEoi):
    def wrmsr(self, msr: int, value: int) -> None:
        super().wrmsr(msr, value & ~2)
        self.msr_value = value


class SetsWhileOthersWait(PvEoi):
    def enter(self, requested: bool) -> Iterator[Step]:
        return super().enter(False)


class SetsForEveryEntry(PvEoi):
    def eoi(self) -> None:
        pass


class ForgetsToTakeBack(PvEoi):
    def leave(self, load: Load) -> tuple[bool, tuple[Step, ...]]:
        return super().leave(load)[0], ()


class EndsWhatIsStillSet(PvEoi):
    def leave(self, load: Load) -> tuple[bool, tuple[Step, ...]]:
        pending = self.pending
        return pending, super().leave(load)[1]


class LooksAtTheWholeByte(PvEoi):
    def leave(self, load: Load) -> tuple[bool, tuple[Step, ...]]:
        return super().leave(lambda gpa, size: int(load(gpa, size) != 0))


class EndsTwice(PvEoi):
    def leave(self, load: Load) -> tuple[bool, tuple[Step, ...]]:
        pending = self.pending
        answer = super().leave(load)
        self.pending = pending
        return answer


class ResetKeepsTheMsr(PvEoi):
    def reset(self) -> None:
        value = getattr(self, "msr_value", 0)
        super().reset()
        self.msr_value = value


SLIPS: dict[Any, str] = {
    RefusalStoresFirst: "accepted_value_reads_back_and_refused_one_changes_nothing",
    ChecksRamAlsoWhenDisabled: "accepted_value_reads_back_and_refused_one_changes_nothing",
    AlignmentUnchecked: "accepted_value_reads_back_and_refused_one_changes_nothing",
    SetsWhileOthersWait: "bit_is_not_set_while_another_interrupt_waits",
    SetsForEveryEntry: "interrupt_under_another_one_ends_by_apic",
    ForgetsToTakeBack: "bit_that_is_still_set_is_taken_back_and_is_no_eoi",
    EndsWhatIsStillSet: "bit_that_is_still_set_is_taken_back_and_is_no_eoi",
    LooksAtTheWholeByte: "other_bits_of_the_byte_do_not_count",
    EndsTwice: "cleared_bit_is_one_eoi",
    ResetKeepsTheMsr: "reset_and_wrmsr_forget_what_is_pending",
}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: Any) -> None:
    assert SLIPS[slip] in promises.violations(slip)


class Guest:
    """A vCPU that takes interrupts, nested, and ends each once: by the bit where it is set, else by its APIC.

    The machine's part is played as the device asks for it; every turn is an exit and an entry.
    """

    def __init__(self, wanted: bool) -> None:
        self.bench = Bench(value=AREA | wanted)
        self.apic = Lapic(lambda: 0, Tsc(lambda: 0, 1_000_000))
        self.apic.wrmsr(0x1B, 0xFEE00C00)
        self.apic.wrmsr(0x80F, 0x1FF)
        self.serving: list[int] = []  # the guest's own stack of handlers
        self.by_bit = 0

    def turn(self, arriving: int | None, ends: bool) -> None:
        if self.bench.leave():
            self._ended()
        if arriving is not None:
            self.apic.accept(arriving)
        if self.apic.pending() is not None:
            self.serving.append(self.apic.acknowledge())
            self.bench.device.injected()
        self.bench.enter(self.apic.irr != 0)
        if ends and self.serving:
            self.serving.pop()
            if self.bench.load(AREA, 1) & 1:
                self.bench.store(AREA, 1, 0)
                self.by_bit += 1
            else:
                assert not self.bench.leave()
                self._ended()
        assert not self.bench.leave() or not self._ended()

    def _ended(self) -> bool:
        self.apic.eoi()
        self.bench.device.eoi()
        return False


@EXAMPLES
@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(16, 255)), st.booleans()), max_size=60), st.booleans())
def test_apic_and_guest_agree_on_what_is_in_service(turns: list[tuple[int | None, bool]], wanted: bool) -> None:
    guest = Guest(wanted)
    for arriving, ends in turns:
        guest.turn(arriving, ends)
        assert guest.apic.isr == sum(1 << vector for vector in guest.serving)
    assert wanted or guest.by_bit == 0


def test_bit_saves_the_apic_write_where_nothing_else_waits() -> None:
    guest = Guest(True)
    for vector in (0x40, 0x50, 0x60):
        guest.turn(vector, True)
    assert guest.by_bit == 3
