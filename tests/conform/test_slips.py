"""A slip in any device is found by random sequences, and shrunk to what shows it."""

import functools
from collections.abc import Callable

import pytest

from emu import abi
from emu.conform import campaign
from emu.conform.text import parse_sequence
from emu.conform.verdict import Bench
from emu.devices.async_pf import AsyncPf
from emu.devices.kvmclock import KvmClock, SystemTime, WallClock
from emu.devices.migration_control import MigrationControl
from emu.devices.poll_control import PollControl
from emu.devices.pv_eoi import PvEoi
from emu.devices.steal_time import StealTime
from emu.faults import GuestFault

Plant = Callable[[pytest.MonkeyPatch], None]


def patched(owner: type, name: str, value: object) -> Plant:
    return lambda patch: patch.setattr(owner, name, value)


def refuses_less(owner: type, msr: int, attribute: str) -> Plant:
    """What the device refuses for this register is taken all the same."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = owner.wrmsr

        def wrong(self, number, value):
            try:
                right(self, number, value)
            except GuestFault:
                if number != msr:
                    raise
                setattr(self, attribute, value)

        patch.setattr(owner, "wrmsr", wrong)

    return plant


def answers(owner: type, msr: int, wrong: Callable[[int], int]) -> Plant:
    """RDMSR of this register is answered by `wrong` of the right value."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = owner.rdmsr
        patch.setattr(owner, "rdmsr", lambda self, n: wrong(right(self, n)) if n == msr else right(self, n))

    return plant


def keeps_over_init(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PvEoi, "reset", lambda self: None if hasattr(self, "msr_value") else _powered_up(self))


def _powered_up(device: PvEoi) -> None:
    device.msr_value, device.pending, device._newest_in_service = 0, False, False


def _without_padding(self, stores, *arguments):
    return (step for step in stores(self, *arguments) if step.step != "pad")


SLIPS: dict[str, Plant] = {
    "STEAL_TIME reserves one bit less": patched(StealTime, "reserved_mask", 0x1E),
    "STEAL_TIME does not step over junk": patched(StealTime, "_odd_version", lambda self, found: (found + 1) % 2**32),
    "STEAL_TIME forgets what INIT found": patched(StealTime, "reset", lambda self: None),
    "STEAL_TIME delivers all time again": patched(StealTime, "_take_delta", lambda self, run_delay: run_delay),
    "WALL_CLOCK loses its lowest bit": answers(KvmClock, abi.MSR_KVM_WALL_CLOCK, lambda value: value & ~1),
    "WALL_CLOCK_NEW is never stored": patched(WallClock, "update", lambda self, load: iter(())),
    "SYSTEM_TIME answers its address": answers(KvmClock, abi.MSR_KVM_SYSTEM_TIME, lambda value: value & ~1),
    "SYSTEM_TIME_NEW survives INIT": patched(SystemTime, "reset", lambda self: None),
    "SYSTEM_TIME_NEW does without an odd version": lambda patch: patch.setattr(
        "emu.devices.kvmclock._odd", lambda found: (found + 1) % (1 << 32)
    ),
    "SYSTEM_TIME leaves its padding as it was": lambda patch: patch.setattr(
        SystemTime, "_stores", functools.partialmethod(_without_padding, SystemTime._stores)
    ),
    "WALL_CLOCK is forgotten by INIT": patched(KvmClock, "reset", lambda self: (self.time.reset(), self.wall.write(0))),
    "ASYNC_PF_EN reserves one bit less": patched(
        AsyncPf, "reserved_mask", property(lambda self: abi.KVM_ASYNC_PF_RESERVED_MASK & ~0x20)
    ),
    "ASYNC_PF_EN remembers what it refused": refuses_less(AsyncPf, abi.MSR_KVM_ASYNC_PF_EN, "msr_value"),
    "ASYNC_PF_INT takes any vector": refuses_less(AsyncPf, abi.MSR_KVM_ASYNC_PF_INT, "int_value"),
    "ASYNC_PF_ACK can be read": answers(AsyncPf, abi.MSR_KVM_ASYNC_PF_ACK, lambda value: value | 1),
    "PV_EOI_EN takes any alignment": refuses_less(PvEoi, abi.MSR_KVM_PV_EOI_EN, "msr_value"),
    "PV_EOI_EN survives INIT": keeps_over_init,
    "POLL_CONTROL takes any bit": refuses_less(PollControl, abi.MSR_KVM_POLL_CONTROL, "msr_value"),
    "POLL_CONTROL is powered up by INIT": patched(PollControl, "reset", PollControl.__init__),
    "MIGRATION_CONTROL takes any bit": refuses_less(MigrationControl, abi.MSR_KVM_MIGRATION_CONTROL, "msr_value"),
    "MIGRATION_CONTROL is ready again after INIT": patched(
        MigrationControl, "reset", lambda self: setattr(self, "msr_value", 1)
    ),
}


def test_a_slip_is_planted_for_every_register():
    names = {name.removeprefix("MSR_KVM_") for name in vars(abi) if name.startswith("MSR_KVM_")}
    assert {slip.split()[0] for slip in SLIPS} == names


@pytest.mark.parametrize("slip", SLIPS)
def test_slip_is_found_within_20000_sequences_and_shrunk(slip: str, monkeypatch: pytest.MonkeyPatch):
    SLIPS[slip](monkeypatch)
    report = campaign.run(1, 20_000, kvm=False)
    assert report.findings
    for one in report.findings[:1]:
        shortest = parse_sequence(one.shortest)
        assert one.judge == "emulator" and len(shortest) <= 4
        assert Bench(kvm=False).judge(shortest).disagreements
        for at in range(len(shortest)):
            if len(shortest) > 1:
                assert not Bench(kvm=False).judge(shortest[:at] + shortest[at + 1 :]).disagreements


def test_report_is_the_same_however_the_work_is_shared_out():
    alone = campaign.run(4, 3000, kvm=False)
    assert campaign.run(4, 3000, kvm=False, jobs=2) == alone == campaign.run(4, 3000, kvm=False)


def test_report_of_a_slip_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch):
    SLIPS["POLL_CONTROL takes any bit"](monkeypatch)
    first = campaign.run(4, 3000, kvm=False)
    assert first.findings and first == campaign.run(4, 3000, kvm=False)
