"""Poll control and migration control: one bit each, kept exactly."""

from typing import Any

import pytest

from emu.devices.migration_control import MigrationControl
from emu.devices.poll_control import PollControl

from .promises import Promise, Promises, accepts, refuses_reading

POLL, MIGRATION = 0x4B564D05, 0x4B564D08
poll_promises, migration_promises = Promises(), Promises()
BOTH = ((poll_promises, PollControl, POLL), (migration_promises, MigrationControl, MIGRATION))


def _begins_as_1_and_takes_bit_0(device_class: Any, msr: int) -> None:
    device = device_class()
    assert device.rdmsr(msr) == 1
    for value in (0, 1, 0):
        assert accepts(device, msr, value) and device.rdmsr(msr) == value


def _any_other_bit_is_refused_and_changes_nothing(device_class: Any, msr: int) -> None:
    for before in (0, 1):
        device = device_class()
        device.wrmsr(msr, before)
        for bit in range(1, 64):
            assert not accepts(device, msr, 1 << bit) and not accepts(device, msr, 1 << bit | 1), bit


def _another_msr_is_refused(device_class: Any, msr: int) -> None:
    device = device_class()
    assert refuses_reading(device, msr + 1) and not accepts(device, msr - 1, 0)


@poll_promises.add
def poll_begins_as_1_and_takes_bit_0(device_class: Any) -> None:
    _begins_as_1_and_takes_bit_0(device_class, POLL)
    device = device_class()
    assert device.allowed
    device.wrmsr(POLL, 0)
    assert not device.allowed


@poll_promises.add
def poll_refuses_any_other_bit(device_class: Any) -> None:
    _any_other_bit_is_refused_and_changes_nothing(device_class, POLL)


@poll_promises.add
def poll_survives_init(device_class: Any) -> None:
    device = device_class()
    for value in (0, 1):
        device.wrmsr(POLL, value)
        device.reset()
        assert device.rdmsr(POLL) == value


@poll_promises.add
def poll_refuses_another_msr(device_class: Any) -> None:
    _another_msr_is_refused(device_class, POLL)


@migration_promises.add
def migration_begins_ready_and_takes_bit_0(device_class: Any) -> None:
    _begins_as_1_and_takes_bit_0(device_class, MIGRATION)
    device = device_class()
    assert device.ready
    device.wrmsr(MIGRATION, 0)
    assert not device.ready


@migration_promises.add
def migration_refuses_any_other_bit(device_class: Any) -> None:
    _any_other_bit_is_refused_and_changes_nothing(device_class, MIGRATION)


@migration_promises.add
def migration_survives_init(device_class: Any) -> None:
    device = device_class()
    for value in (0, 1):
        device.wrmsr(MIGRATION, value)
        device.reset()
        assert device.rdmsr(MIGRATION) == value


@migration_promises.add
def migration_refuses_another_msr(device_class: Any) -> None:
    _another_msr_is_refused(device_class, MIGRATION)


@pytest.mark.parametrize(("promises", "device_class"), [row[:2] for row in BOTH], ids=["poll", "migration"])
def test_device_breaks_no_promise(promises: Promises, device_class: Any) -> None:
    check: Promise
    for check in promises.values():
        check(device_class)


class PollBeginsAs0(PollControl):
    def __init__(self) -> None:
        self.msr_value = 0


class PollTakes32Bits(PollControl):
    def wrmsr(self, msr: int, value: int) -> None:
        super().wrmsr(msr, value % 2**32)


class PollResets(PollControl):
    def reset(self) -> None:
        self.msr_value = 1


class PollRefusalStoresFirst(PollControl):
    def wrmsr(self, msr: int, value: int) -> None:
        self.msr_value = value & 1
        super().wrmsr(msr, value)


class MigrationBeginsNotReady(MigrationControl):
    def __init__(self) -> None:
        self.msr_value = 0


class MigrationTakesAnything(MigrationControl):
    def wrmsr(self, msr: int, value: int) -> None:
        super().wrmsr(msr, value & 1)


class MigrationResets(MigrationControl):
    def reset(self) -> None:
        self.msr_value = 1


SLIPS: dict[Any, str] = {
    PollBeginsAs0: "poll_begins_as_1_and_takes_bit_0",
    PollTakes32Bits: "poll_refuses_any_other_bit",
    PollResets: "poll_survives_init",
    PollRefusalStoresFirst: "poll_refuses_any_other_bit",
    MigrationBeginsNotReady: "migration_begins_ready_and_takes_bit_0",
    MigrationTakesAnything: "migration_refuses_any_other_bit",
    MigrationResets: "migration_survives_init",
}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: Any) -> None:
    promises = poll_promises if issubclass(slip, PollControl) else migration_promises
    assert SLIPS[slip] in promises.violations(slip)
