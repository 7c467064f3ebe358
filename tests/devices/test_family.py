"""The paravirtual devices together: KVM's feature bits, no MSR twice, and no refusal that changes anything."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.cpuid import CpuidTable
from emu.bus.msr import MsrBus
from emu.devices.async_pf import AsyncPf
from emu.devices.hypercalls import Hypercalls
from emu.devices.kvmclock import KvmClock, SystemTime, WallClock
from emu.devices.migration_control import MigrationControl
from emu.devices.poll_control import PollControl
from emu.devices.pv_eoi import PvEoi
from emu.devices.pvclock import MasterClock
from emu.devices.steal_time import StealTime
from emu.devices.tsc import Tsc
from emu.faults import GuestFault
from tests.effort import EFFORT

from .promises import RAM, Memory

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=150 * EFFORT, database=None)
NOP_IO_DELAY = 1 << 1  # no device stands behind it
SUPPORTED_BY_KVM = 0x01007EFB  # KVM_GET_SUPPORTED_CPUID, leaf 0x40000001 EAX
NUMBERS = (0x11, 0x12, *range(0x4B564D00, 0x4B564D08))


def family(memory: Memory) -> list[Any]:
    """One vCPU's devices, as a VMM that offers everything KVM does attaches them."""
    tsc = Tsc(lambda: 0, 1_000_000)
    time = SystemTime(memory.holds, MasterClock(1_000_000), tsc)
    return [
        KvmClock(WallClock(memory.holds), time),
        AsyncPf(memory.holds),
        StealTime(memory.holds, tlb_flush=True),
        PvEoi(memory.holds),
        PollControl(),
        Hypercalls(),
    ]


def bus_of(devices: list[Any]) -> MsrBus:
    bus = MsrBus()
    for device in devices:
        bus.attach(getattr(device, "msrs", ()), device)
    return bus


def test_feature_bits_are_those_of_kvm() -> None:
    table = CpuidTable(family(Memory()))
    assert table.query(0x40000001)[0] == SUPPORTED_BY_KVM & ~NOP_IO_DELAY


def test_every_msr_of_kvm_has_one_owner_and_migration_control_is_the_vmms_to_offer() -> None:
    devices = family(Memory())
    assert bus_of(devices).numbers() == sorted(NUMBERS)
    assert bus_of([*devices, MigrationControl()]).numbers() == [*sorted(NUMBERS), 0x4B564D08]


@pytest.mark.parametrize("msr", NUMBERS)
def test_after_reset_an_msr_reads_as_kvm_has_it(msr: int) -> None:
    bus = bus_of(family(Memory()))
    assert bus.rdmsr(msr) == (1 if msr == 0x4B564D05 else 0)


EDGES = st.builds(
    lambda base, low: (base + low) % 2**64,
    st.sampled_from([0, 0x200000, RAM - 64, RAM, 0x200FE0, 1 << 40, 1 << 63, 2**64 - 64]),
    st.integers(0, 63),
)
VALUES = st.one_of(EDGES, st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 0xFF, 0x100, 2**64 - 1]))
WRITES = st.lists(st.tuples(st.sampled_from([*NUMBERS, 0x4B564D08, 0x4B564D09]), VALUES), max_size=12)


@EXAMPLES
@given(WRITES)
def test_refused_wrmsr_changes_no_register_of_the_family(writes: list[tuple[int, int]]) -> None:
    bus = bus_of(family(Memory()))
    for msr, value in writes:
        before = [bus.rdmsr(number) for number in NUMBERS]
        try:
            bus.wrmsr(msr, value)
        except GuestFault as fault:
            assert (fault.vector, fault.error) == (13, 0)
            assert [bus.rdmsr(number) for number in NUMBERS] == before
        else:
            assert bus.rdmsr(msr) == (0 if msr == 0x4B564D07 else value)


@EXAMPLES
@given(WRITES, st.integers(0, 2**64 - 1))
def test_no_store_of_the_family_leaves_ram(writes: list[tuple[int, int]], run_delay: int) -> None:
    memory = Memory()
    clocks, faults, steal, eoi, *_ = devices = family(memory)
    bus = bus_of(devices)
    for msr, value in writes:
        try:
            bus.wrmsr(msr, value)
        except GuestFault:
            continue
        # Each of these asserts, in Memory, that what it reads and stores is RAM.
        memory.perform(clocks.wall.update(memory.load))
        memory.perform(clocks.time.update(memory.load))
        memory.perform(steal.update(run_delay, memory.load))
        memory.perform(steal.preempt())
        eoi.injected()
        memory.perform(eoi.enter(False))
        memory.perform(eoi.leave(memory.load)[1])
        token = faults.new_token()
        memory.perform(faults.page_not_present(token, cpl=3, paging=True, interruptible=True, pending=False).steps)
        faults.page_ready(token)
        while faults.due:
            answer = faults.deliver(memory.load, apic_enabled=True, interruptible=True, pending=False)
            memory.perform(answer.steps if answer else ())
