"""Every device says what it is and becomes it again, in the middle of anything; a field that is left out is noticed."""

from typing import Any

import pytest
from hypothesis import given, settings

from emu import abi
from emu.devices.async_pf import INJECT, AsyncPf
from emu.devices.console import Console
from emu.devices.exit_port import ExitPort
from emu.devices.ipi import Ipi
from emu.devices.kvmclock import KvmClock, SystemTime, WallClock
from emu.devices.lapic import Lapic
from emu.devices.marks import Marks
from emu.devices.migration_control import MigrationControl
from emu.devices.poll_control import PollControl
from emu.devices.pv_eoi import PvEoi
from emu.devices.pvclock import MasterClock
from emu.devices.steal_time import StealTime, Step
from emu.devices.tsc import Tsc
from emu.faults import GuestFault
from tests.effort import EFFORT
from tests.round_trip import (
    NOT_STATE,
    OPERATIONS,
    Rig,
    attributes,
    check,
    is_caught,
    leave_out,
    picture,
    stateful_within,
)

from .promises import Memory

STEADY = settings(derandomize=True, deadline=None, database=None, max_examples=40 * EFFORT)
AREAS = (0, 64, 4096, 1 << 40)


class Device(Rig):
    """A little RAM, a clock, and an MSR device."""

    def __init__(self) -> None:
        self.memory = Memory(8192)
        self.now = 0

    def world(self) -> Any:
        return bytes(self.memory.ram), self.now

    def restore(self, world: Any) -> None:
        self.memory.ram[:], self.now = world

    def later(self, number: int) -> None:
        self.now += number % 10**7

    def guest_stores(self, number: int) -> None:
        self.memory.store(AREAS[number % 3] + number // 4 % 32, 1, number // 128 % 256)

    def perform(self, steps: Any) -> list[Step]:
        return self.memory.perform(steps)

    def write(self, device: Any, msr: int, value: int) -> object:
        try:
            return device.wrmsr(msr, value)
        except GuestFault as fault:
            return fault.vector

    def read(self, device: Any, msr: int) -> object:
        try:
            return device.rdmsr(msr)
        except GuestFault as fault:
            return fault.vector


def area(number: int) -> int:
    """A value for an MSR that names an area and is often enabled."""
    return AREAS[number % 4] | (number // 4 % 4 > 0) | (2 if number % 97 == 0 else 0)


class Stealing(Device):
    profile = "kvm"

    def __init__(self) -> None:
        super().__init__()
        self.steal = StealTime(self.memory.holds, self.profile, tlb_flush=True)
        self.parts = (self.steal,)

    def begin(self, number: int) -> None:
        self.steal.begin(number, halves=number % 2 == 1)

    def step(self, number: int) -> object:
        step = self.steal.step(self.memory.load)
        return step and self.perform([step])

    operations = (
        lambda rig, number: rig.write(rig.steal, abi.MSR_KVM_STEAL_TIME, area(number)),
        begin,
        step,
        step,
        step,
        lambda rig, number: rig.perform(rig.steal.preempt()),
        lambda rig, number: rig.steal.request() if number % 2 else rig.steal.reset(),
        lambda rig, number: rig.memory.store(16, 1, 3),
        lambda rig, number: rig.steal.take_flush(),
        Device.guest_stores,
    )


class Stealing2011(Stealing):
    profile = "kvm-2011"


class Clocks(Device):
    def __init__(self) -> None:
        super().__init__()
        self.tsc = Tsc(lambda: self.now, 2_400_001)
        self.master = MasterClock(2_400_001)
        self.wall = WallClock(self.memory.holds)
        self.clock = KvmClock(self.wall, SystemTime(self.memory.holds, self.master, self.tsc))
        self.parts = (self.master, self.wall, self.tsc, self.clock)

    def serve(self, number: int) -> object:
        wall = self.perform(self.wall.update(self.memory.load)) if self.wall.requested else []
        return wall, self.perform(self.clock.time.update(self.memory.load)) if self.clock.time.requested else []

    operations = (
        lambda rig, number: rig.write(rig.clock, rig.clock.msrs[number % 4], area(number // 4)),
        lambda rig, number: rig.read(rig.clock, rig.clock.msrs[number % 4]),
        serve,
        serve,
        lambda rig, number: rig.write(rig.tsc, abi.MSR_IA32_TSC, number),
        lambda rig, number: rig.tsc.value(),
        lambda rig, number: rig.master.rebase(rig.now),
        lambda rig, number: rig.clock.time.request() if number % 3 else rig.clock.reset(),
        Device.later,
    )


class PvEois(Device):
    def __init__(self) -> None:
        super().__init__()
        self.device = PvEoi(self.memory.holds)
        self.parts = (self.device,)

    def leave(self, number: int) -> object:
        ended, steps = self.device.leave(self.memory.load)
        return ended, self.perform(steps)

    operations = (
        lambda rig, number: rig.write(rig.device, abi.MSR_KVM_PV_EOI_EN, area(number)),
        lambda rig, number: rig.device.injected(),
        lambda rig, number: rig.device.eoi(),
        lambda rig, number: rig.perform(rig.device.enter(number % 4 == 0)),
        leave,
        lambda rig, number: rig.device.reset() if number % 8 == 0 else None,
        Device.guest_stores,
    )


class Polling(Device):
    def __init__(self) -> None:
        super().__init__()
        self.parts = (PollControl(), MigrationControl())

    operations = (
        lambda rig, number: rig.write(rig.parts[0], abi.MSR_KVM_POLL_CONTROL, number % 3),
        lambda rig, number: rig.write(rig.parts[1], abi.MSR_KVM_MIGRATION_CONTROL, number % 3),
        lambda rig, number: (rig.parts[0].allowed, rig.parts[1].ready),
    )


class Faulting(Device):
    profile = "kvm"

    def __init__(self) -> None:
        super().__init__()
        self.device = AsyncPf(self.memory.holds, 3, self.profile)
        self.parts = (self.device,)

    def enable(self, number: int) -> object:
        value = AREAS[number % 4] | (abi.KVM_ASYNC_PF_ENABLED if number // 4 % 8 else 0)
        value |= abi.KVM_ASYNC_PF_SEND_ALWAYS
        if self.profile == "kvm":
            value |= abi.KVM_ASYNC_PF_DELIVERY_AS_INT
        return self.write(self.device, abi.MSR_KVM_ASYNC_PF_EN, value)

    def miss(self, number: int) -> object:
        missing = self.device.page_not_present(
            self.device.new_token(), cpl=number % 2 * 3, paging=True, interruptible=number % 8 > 0, pending=False
        )
        self.perform(missing.steps)
        return missing, missing.action == INJECT

    def ready(self, number: int) -> None:
        self.device.page_ready((number % 6) << 12 | 3)

    def deliver(self, number: int) -> object:
        found = self.device.deliver(self.memory.load, apic_enabled=True, interruptible=True, pending=False)
        if found is not None:
            self.perform(found.steps)
        return found

    operations = (
        enable,
        lambda rig, number: rig.write(rig.device, abi.MSR_KVM_ASYNC_PF_INT, number % 256),
        lambda rig, number: rig.write(rig.device, abi.MSR_KVM_ASYNC_PF_ACK, 1),
        miss,
        miss,
        ready,
        ready,
        deliver,
        lambda rig, number: (rig.device.due, rig.device.wakes, rig.device.rdmsr(abi.MSR_KVM_ASYNC_PF_EN)),
        lambda rig, number: rig.device.reset() if number % 8 == 0 else rig.memory.store(AREAS[number % 3] + 4, 4, 0),
    )


class Faulting2011(Faulting):
    profile = "kvm-2011"


class Apic(Device):
    """One APIC, in whichever mode it is, and its TSC."""

    number = 1

    def __init__(self) -> None:
        super().__init__()
        self.tsc = Tsc(lambda: self.now, 1_000_000)
        self.lapic = Lapic(lambda: self.now, self.tsc, self.number, waiting=self.number > 0)
        self.parts = (self.lapic, self.tsc)

    def write_base(self, number: int) -> object:
        mode = (abi.APICBASE_ENABLE | abi.APICBASE_X2APIC, abi.APICBASE_ENABLE, 0)[number % 8 // 3]
        return self.write(self.lapic, abi.MSR_IA32_APICBASE, abi.APIC_DEFAULT_PHYS_BASE + number // 8 % 2 * 4096 | mode)

    def enable(self, number: int) -> object:
        value = abi.APIC_SPIV_ENABLED | number % 256
        self.lapic.mmio_write((abi.APIC_SPIV - abi.X2APIC_MSR) * abi.APIC_MMIO_STRIDE, 4, value)
        return self.write(self.lapic, abi.APIC_SPIV, value)

    def write_register(self, number: int) -> object:
        msr = self.lapic.msrs[1:][number % (len(self.lapic.msrs) - 1)]
        value = number // 256 & (0x300FF if number // 128 % 2 else 0xFFFFFFFF)
        return self.write(self.lapic, msr, value)

    def store(self, number: int) -> None:
        self.lapic.mmio_write(number % 64 * abi.APIC_MMIO_STRIDE, 4, number // 64 % 2**32)

    def arm(self, number: int) -> object:
        mode = (abi.APIC_LVT_TIMER_PERIODIC, abi.APIC_LVT_TIMER_TSCDEADLINE, 0)[number % 3]
        lvt = mode | 32 + number // 4 % 200
        self.lapic.mmio_write((abi.APIC_LVTT - abi.X2APIC_MSR) * abi.APIC_MMIO_STRIDE, 4, lvt)
        self.lapic.mmio_write((abi.APIC_TMICT - abi.X2APIC_MSR) * abi.APIC_MMIO_STRIDE, 4, 1 + number // 1000 % 5000)
        deadline = self.tsc.value() + number % 10**4
        return self.write(self.lapic, abi.APIC_LVTT, lvt), self.write(self.lapic, abi.MSR_IA32_TSC_DEADLINE, deadline)

    def receive(self, number: int) -> None:
        mode = (abi.APIC_DM_FIXED, abi.APIC_DM_NMI, abi.APIC_DM_INIT, abi.APIC_DM_STARTUP)[number % 4]
        self.lapic.receive(Ipi(0, mode, 16 + number // 4 % 200, self.number))

    def acknowledge(self, number: int) -> object:
        return None if self.lapic.pending() is None else self.lapic.acknowledge()

    def look(self, number: int) -> object:
        lapic = self.lapic
        ipi = Ipi(0, abi.APIC_DM_FIXED, 40, number % 4, logical=number % 8 > 3)
        told = lapic.due_ps, lapic.pending(), lapic.ppr, lapic.startup.pending, lapic.window_gpa, lapic.addressed(ipi)
        return told, [self.read(lapic, msr) for msr in lapic.msrs]

    operations = (
        write_base,
        enable,
        write_register,
        write_register,
        store,
        arm,
        receive,
        receive,
        acknowledge,
        look,
        lambda rig, number: rig.lapic.mmio_read(number % 64 * abi.APIC_MMIO_STRIDE, 4),
        lambda rig, number: rig.lapic.mmio_write(abi.APIC_MMIO_STRIDE * (abi.APIC_ICR - abi.X2APIC_MSR), 4, 0x40FF),
        lambda rig, number: rig.lapic.take_ipis() if number % 2 else None,
        lambda rig, number: rig.lapic.startup.take(),
        lambda rig, number: rig.lapic.tick(rig.now),
        lambda rig, number: rig.write(rig.tsc, abi.MSR_IA32_TSC, number % 10**6),
        lambda rig, number: rig.lapic.reset() if number % 16 == 0 else rig.lapic.eoi(),
        Device.later,
    )


class BootApic(Apic):
    number = 0


class Ports(Rig):
    """The port devices. The console's bytes are the same at the same place, as in a replay."""

    def __init__(self) -> None:
        self.console = Console(cap=20)
        self.parts = (self.console, ExitPort(), Marks())

    def print(self, number: int) -> None:
        self.console.write(abi.PORT_CONSOLE, 1, len(self.console.output) * 7)

    operations = (
        print,
        print,
        lambda rig, number: rig.console.write(abi.PORT_UART + number % 8, 1, number // 8),
        lambda rig, number: rig.console.read(abi.PORT_UART + number % 8, 1),
        lambda rig, number: (rig.console.output, rig.console.overflow),
        lambda rig, number: rig.parts[1].write(abi.PORT_EXIT, 1, number) if number % 4 == 0 else rig.parts[1].code,
        lambda rig, number: rig.parts[2].write(abi.PORT_MARK, 1, number),
        lambda rig, number: rig.parts[2].take(),
    )


class QuietPorts(Ports):
    """As above, but the UART's transmitter is left alone: what is printed depends on the place only."""

    operations = tuple(
        operation if n != 2 else lambda rig, number: rig.console.write(abi.PORT_UART + 1 + number % 7, 1, number // 8)
        for n, operation in enumerate(Ports.operations)
    )


RIGS: tuple[type[Rig], ...] = (
    Stealing, Stealing2011, Clocks, PvEois, Polling, Faulting, Faulting2011, Apic, BootApic, QuietPorts,
)  # fmt: skip


def anew(rig: type[Rig]) -> bool:
    return rig is not QuietPorts  # a console becomes only what it has printed


@pytest.mark.parametrize("rig", RIGS, ids=lambda rig: rig.__name__)
def test_state_taken_and_loaded_tells_no_difference(rig: type[Rig]) -> None:
    @STEADY
    @given(OPERATIONS, OPERATIONS, OPERATIONS)
    def holds(before: list[Any], after: list[Any], other: list[Any]) -> None:
        check(rig, before, after, other, anew=anew(rig))

    holds()


# --- what is left out is noticed ---

FIELDS = sorted(
    {
        (rig.__name__, type(part), name): rig
        for rig in RIGS
        for top in rig().parts
        for part in stateful_within(top)
        if type(part) is not Console  # which loads its own by their places; see below
        for name in (*type(part).fields, *type(part).parts)
    }.items(),
    key=lambda item: (item[0][0], item[0][1].__name__, item[0][2]),
)
# Constant under that profile: there is no such thing.
NEVER_CHANGES = {
    ("Stealing2011", "_flush"),
    ("Stealing2011", "_preempted_shown"),
    ("Faulting2011", "int_value"),
    ("BootApic", "waiting"),
}


@pytest.mark.parametrize(
    ("where", "rig"), FIELDS, ids=lambda v: ".".join((v[0], v[1].__name__, v[2])) if type(v) is tuple else ""
)
def test_field_that_is_left_out_is_noticed(
    monkeypatch: pytest.MonkeyPatch, where: tuple[str, type, str], rig: type[Rig]
) -> None:
    _, kind, left_out = where
    leave_out(monkeypatch, kind, left_out)
    assert is_caught(rig, anew=anew(rig)) != ((rig.__name__, left_out) in NEVER_CHANGES)


@pytest.mark.parametrize(
    ("rig", "kind", "forgotten"),
    [
        (Apic, Lapic, "_lvt"),
        (Faulting, AsyncPf, "_away"),
        (QuietPorts, Console, "_uart"),
        (QuietPorts, Console, "_divisor"),
        (QuietPorts, Console, "_length"),
        (QuietPorts, Console, "_checksum"),
        (QuietPorts, Console, "overflow"),
    ],
)
def test_what_load_forgets_is_noticed(
    monkeypatch: pytest.MonkeyPatch, rig: type[Rig], kind: type[Any], forgotten: str
) -> None:
    load = kind.load

    def forgetful(self: Any, state: Any) -> None:
        kept = getattr(self, forgotten)
        load(self, state)
        setattr(self, forgotten, kept)

    monkeypatch.setattr(kind, "load", forgetful)
    assert is_caught(rig, anew=anew(rig))


def test_every_exempted_attribute_exists() -> None:
    seen = {
        type(part).__name__: attributes(part) for rig in RIGS for top in rig().parts for part in stateful_within(top)
    }
    for kind, name in NOT_STATE:
        assert kind not in seen or name in seen[kind], (kind, name)


# --- shapes and refusals ---


def test_state_of_another_part_is_refused() -> None:
    with pytest.raises(ValueError, match="a state of 2 values is none of Tsc"):
        Tsc(lambda: 0, 1).load((1, 2))


def test_update_under_way_goes_on_in_another_device() -> None:
    one, other = Stealing(), Stealing()
    one.write(one.steal, abi.MSR_KVM_STEAL_TIME, 1)
    one.steal.begin(2**33 + 5, halves=True)
    done = [one.step(0) for _ in range(3)]
    other.load(one.state())
    other.restore(one.world())
    rest = [rig.memory and [rig.step(0) for _ in range(3)] for rig in (one, other)]
    assert rest[0] == rest[1] and rest[0][-1] is None
    assert [step[0].step for step in done + rest[1][:2]] == ["preempted", "odd", "steal-low", "steal-high", "even"]
    assert other.memory.load(0, 8) == 2**33 + 5


# --- the console's log ---


def printed(text: bytes) -> Console:
    console = Console()
    for byte in text:
        console.write(abi.PORT_CONSOLE, 1, byte)
    return console


def say(console: Console, text: bytes) -> Console:
    for byte in text:
        console.write(abi.PORT_CONSOLE, 1, byte)
    return console


def test_console_goes_back_and_forward_again() -> None:
    console = printed(b"hel")
    early = console.state()
    late = say(console, b"lo").state()
    console.load(early)
    assert console.output == b"hel"
    assert say(console, b"l").output == b"hell"
    console.load(late)
    assert console.output == b"hello" and console.state() == late


def test_console_refuses_what_was_printed_in_another_branch() -> None:
    console = printed(b"hel")
    early = console.state()
    late = say(console, b"lo").state()
    console.load(early)
    say(console, b"p me")
    before = console.state()
    with pytest.raises(ValueError, match="not the 5 bytes"):
        console.load(late)
    assert console.state() == before and console.output == b"help me"


def test_consoles_that_printed_differently_are_different() -> None:
    assert printed(b"a").state() != printed(b"b").state()
    assert printed(b"a").state() == printed(b"a").state()


def test_picture_shows_what_no_state_names() -> None:
    device = PollControl()
    before = picture(device)
    device.added_later = 1  # type: ignore[attr-defined]
    assert picture(device) != before
