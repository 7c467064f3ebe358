"""Steal time with PV TLB flush: what another vCPU asks in the preempted byte is neither lost nor invented."""

from typing import Any

import pytest

from emu.devices.steal_time import StealTime, Step

from .promises import AREA, Memory, Promise, Promises

BYTE = AREA + 16
promises = Promises()


class Bench(Memory):
    def __init__(self, device_class: Any, profile: str = "kvm", *, tlb_flush: bool = True) -> None:
        super().__init__()
        self.device = device_class(self.holds, profile, tlb_flush=tlb_flush)
        self.device.wrmsr(0x4B564D03, AREA | 1)

    def update(self) -> list[Step]:
        return self.perform(self.device.update(5, self.load))


@promises.add
def flush_is_asked_for_exactly_where_bit_1_was_set(device_class: Any) -> None:
    for byte in (0, 1, 2, 3, 0xFF, 0xFD):
        bench = Bench(device_class)
        bench.store(BYTE, 1, byte)
        bench.update()
        assert bench.device.take_flush() == (byte in (2, 3, 0xFF)), byte
        assert bench.load(BYTE, 1) == 0, byte


@promises.add
def flush_is_reported_once(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.store(BYTE, 1, 3)
    bench.update()
    assert bench.device.take_flush() and not bench.device.take_flush()
    bench.update()
    assert not bench.device.take_flush()


@promises.add
def flush_that_was_not_taken_is_kept_over_the_next_update(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.store(BYTE, 1, 3)
    bench.update()
    bench.update()
    assert bench.device.take_flush()


@promises.add
def byte_is_read_at_the_moment_of_its_store(device_class: Any) -> None:
    bench = Bench(device_class)
    steps = bench.device.update(5, bench.load)
    bench.store(BYTE, 1, 3)
    bench.perform([next(steps)])
    assert bench.device.take_flush()
    bench.store(BYTE, 1, 2)
    bench.perform(steps)
    assert not bench.device.take_flush() and bench.load(BYTE, 1) == 2, "it stays for the next update"


@promises.add
def feature_is_declared_where_it_is_offered(device_class: Any) -> None:
    assert Bench(device_class).device.features == (5, 9)
    assert Bench(device_class, tlb_flush=False).device.features == (5,)
    assert Bench(device_class, "kvm-2011").device.features == (5,), "there is no byte to ask in"


@promises.add
def without_the_feature_the_byte_is_not_even_read(device_class: Any) -> None:
    bench = Bench(device_class, tlb_flush=False)
    bench.store(BYTE, 1, 3)
    assert bench.update()[0] == Step("preempted", BYTE, 1, 0)
    assert not bench.device.take_flush()
    reads: list[int] = []
    list(bench.device.update(6, lambda gpa, size: reads.append(gpa) or 0))
    assert BYTE not in reads


@pytest.mark.parametrize("promise", promises.values(), ids=promises)
def test_promise(promise: Promise) -> None:
    promise(StealTime)


class FlushesForAnyBit(StealTime):
    def update(self, run_delay_ns: int, load: Any, **named: Any) -> Any:
        return super().update(run_delay_ns, lambda gpa, n: load(gpa, n) * 2 % 256 if n == 1 else load(gpa, n), **named)


class FlushForgottenByUpdate(StealTime):
    def update(self, run_delay_ns: int, load: Any, **named: Any) -> Any:
        self._flush = False
        return super().update(run_delay_ns, load, **named)


class FlushReportedAgain(StealTime):
    def take_flush(self) -> bool:
        return self._flush


class FlushWithoutFeature(StealTime):
    def __init__(self, ram_holds: Any, profile: str = "kvm", *, tlb_flush: bool = False) -> None:
        super().__init__(ram_holds, profile, tlb_flush=tlb_flush)
        self._exchanges = True


class ByteReadTooEarly(StealTime):
    def update(self, run_delay_ns: int, load: Any, **named: Any) -> Any:
        byte = load(BYTE, 1)
        return super().update(run_delay_ns, lambda gpa, n: byte if gpa == BYTE else load(gpa, n), **named)


SLIPS: dict[Any, str] = {
    FlushesForAnyBit: "flush_is_asked_for_exactly_where_bit_1_was_set",
    FlushForgottenByUpdate: "flush_that_was_not_taken_is_kept_over_the_next_update",
    FlushReportedAgain: "flush_is_reported_once",
    FlushWithoutFeature: "without_the_feature_the_byte_is_not_even_read",
    ByteReadTooEarly: "byte_is_read_at_the_moment_of_its_store",
}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: Any) -> None:
    assert SLIPS[slip] in promises.violations(slip)
