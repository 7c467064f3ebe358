"""The steal-time device keeps its promises."""

from itertools import combinations_with_replacement

import pytest

from emu import abi
from emu.devices.steal_time import PROFILES, Area, StealTime, decode
from emu.faults import GuestFault, HostError

from .steal_time_promises import AREA, PROMISES, Bench, Promise, registered


@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES)
def test_promise(promise: Promise) -> None:
    promise(StealTime)


def test_decode_reads_every_field_at_its_offset() -> None:
    data = bytes(range(64))
    assert decode(data) == Area(0x0706050403020100, 0x0B0A0908, 0x0F0E0D0C, 0x10)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_decode_refuses_any_other_size(size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        decode(bytes(size))


def test_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(HostError) as error:
        StealTime(lambda gpa, size: True, "kvm-1999")
    assert all(profile in str(error.value) for profile in PROFILES)


def test_another_msr_raises_gp() -> None:
    device = StealTime(lambda gpa, size: True)
    with pytest.raises(GuestFault):
        device.rdmsr(0x4B564D02)
    with pytest.raises(GuestFault):
        device.wrmsr(0x4B564D04, 1)


def _memory_after_each_store(halves: bool) -> tuple[list[Area], list[int]]:
    bench: Bench = registered(StealTime)
    moments, values = [bench.area()], [0]
    for delay in (2**32 - 10, 2**32 + 10, 2**33):
        moments += [bench.area() for _ in bench.begin(delay, halves=halves)]
        values.append(delay)
    return moments, values


@pytest.mark.parametrize("halves", [False, True])
def test_retry_loop_in_32_bit_halves_never_returns_a_value_that_never_was(halves: bool) -> None:
    moments, values = _memory_after_each_store(halves)
    accepted = 0
    for before, low, high, after in combinations_with_replacement(moments, 4):
        if before.version == after.version and before.version % 2 == 0:
            accepted += 1
            assert low.steal % 2**32 | high.steal >> 32 << 32 in values
    assert accepted > len(values)


@pytest.mark.parametrize("halves", [False, True])
def test_reader_that_checks_nothing_can_tear(halves: bool) -> None:
    moments, values = _memory_after_each_store(halves)
    pairs = combinations_with_replacement(moments, 2)
    assert any(low.steal % 2**32 | high.steal >> 32 << 32 not in values for low, high in pairs)


def test_whole_store_cannot_tear_for_a_64_bit_reader_and_halves_can() -> None:
    whole, values = _memory_after_each_store(halves=False)
    torn, _ = _memory_after_each_store(halves=True)
    assert all(moment.steal in values for moment in whole)
    assert any(moment.steal not in values for moment in torn)


def test_two_vcpus_that_share_an_area_both_add_to_it() -> None:
    one, two = registered(StealTime), registered(StealTime)
    two.ram = one.ram
    one.update(453909246)
    two.update(453909246)
    assert one.area(AREA) == Area(907818492, 4, 0, 0)


def test_preemption_is_not_shown_at_an_address_that_no_update_has_been_served_at() -> None:
    device = StealTime(lambda gpa, size: True)
    device.wrmsr(abi.MSR_KVM_STEAL_TIME, 0x1001)
    assert list(device.preempt()) == []
    list(device.update(0, lambda gpa, size: 0))
    device.wrmsr(abi.MSR_KVM_STEAL_TIME, 0x2001)
    assert list(device.preempt()) == []
    list(device.update(0, lambda gpa, size: 0))
    assert [step.gpa for step in device.preempt()] == [0x2010]
