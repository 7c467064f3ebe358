"""The emulator as a judge, without its engine: real devices on a real MSR bus over real RAM, updated by the host model.

What the guest would execute is done to them directly, so thousands of sequences take a second. That WRMSR, RDMSR, #GP
and #PF also come out of the vCPU as they should is for `emu.conform.engine` to check.

In Linux: kvm_set_msr_common() and vcpu_enter_guest() in arch/x86/kvm/x86.c are where these meet.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from emu import abi
from emu.bus.cpuid import CpuidTable
from emu.bus.msr import MsrBus
from emu.conform.expect import Observed, RunDelay
from emu.devices.async_pf import AsyncPf
from emu.devices.hypercalls import Hypercalls
from emu.devices.kvmclock import KvmClock, SystemTime, WallClock
from emu.devices.lapic import Lapic
from emu.devices.migration_control import MigrationControl
from emu.devices.poll_control import PollControl
from emu.devices.pv_eoi import PvEoi
from emu.devices.pvclock import MasterClock
from emu.devices.steal_time import StealTime
from emu.devices.tsc import Tsc
from emu.exits import Exit
from emu.faults import GuestFault
from emu.host_model import HostModel
from emu.kvm import operations
from emu.kvm.operations import Content, Done, Leaf, Operation, Outcome, Refused, Value
from emu.package import HYPERCALLS, Clocks
from emu.ram import Ram
from emu.scenario import Config

TSC_KHZ = 1_000_000
_NEW_NUMBER = {
    abi.MSR_KVM_WALL_CLOCK: abi.MSR_KVM_WALL_CLOCK_NEW,
    abi.MSR_KVM_SYSTEM_TIME: abi.MSR_KVM_SYSTEM_TIME_NEW,
}


class _Served(MigrationControl):
    """Migration control as KVM has it: by user space, so that `left` is called where a guest reads or writes it."""

    def __init__(self, left: Callable[[], None]) -> None:
        super().__init__()
        self._left = left

    def rdmsr(self, msr: int) -> int:
        self._left()
        return super().rdmsr(msr)

    def wrmsr(self, msr: int, value: int) -> None:
        self._left()
        super().wrmsr(msr, value)


class Devices:
    """The paravirtual devices of one vCPU, asynchronous page faults included; to the host model it is a Package."""

    def __init__(
        self,
        ram: Ram,
        shared: Clocks,
        run_delay: RunDelay,
        *,
        boot: bool,
        profile: str = "kvm",
        steal: type[StealTime] = StealTime,
    ) -> None:
        self.number = 0
        self.entity = self
        self.vcpu = self
        self.exit: Exit | None = None
        self.update: str | None = None
        self.store_in = 0
        self.added_ns = 0
        self._run_delay = run_delay
        self.tsc = Tsc(_beginning, TSC_KHZ)
        self.lapic = Lapic(_beginning, self.tsc, 0)
        self.steal = steal(ram.holds, profile, tlb_flush=True)
        time = SystemTime(ram.holds, shared.master, self.tsc, boot=boot, profile=profile)
        self.clock = KvmClock(shared.wall, time)
        self.pv_eoi = PvEoi(ram.holds)
        self.async_pf = AsyncPf(ram.holds, profile=profile)
        self.poll = PollControl()
        self.migration = _Served(self._left)
        self.msrs = MsrBus()
        for device in self.paravirtual:
            self.msrs.attach(device.msrs, device)

    @property
    def paravirtual(self) -> tuple[Any, ...]:
        """In the order in which registers are restored."""
        return self.steal, self.async_pf, self.pv_eoi, self.clock, self.poll, self.migration

    def cpuid(self) -> CpuidTable:
        """The leaves that go with these devices."""
        hypercalls = Hypercalls(tuple(HYPERCALLS.values()))
        return CpuidTable([self.tsc, self.lapic, hypercalls, *self.paravirtual], hypercalls=True)

    def run_delay_ns(self, _now_ps: int) -> int:
        """What the host model asks the vCPU's books for."""
        return self._run_delay()

    def _left(self) -> None:
        self._run_delay.entered()
        self.steal.request()

    def flush_tlb(self) -> None:
        """There is no TLB here."""

    def reset(self) -> None:
        """INIT."""
        for device in self.paravirtual:
            device.reset()

    def restore_from(self, other: "Devices") -> None:
        """Write every register that is not a second number of another one."""
        self.migration.msr_value = other.migration.msr_value  # no guest's access, so nobody leaves
        for msr in other.msrs.numbers():
            if _NEW_NUMBER.get(msr) is None and msr not in (abi.MSR_KVM_ASYNC_PF_ACK, *self.migration.msrs):
                with contextlib.suppress(GuestFault):  # a value that was refused, and that kvm-bugs remembers
                    self.msrs.wrmsr(msr, other.msrs.rdmsr(msr))


class Emulator:
    """Runs sequences on the devices of an ABI `profile`, with another class of steal-time device where one is given.

    `renew` forgets what is carried over, as a fresh VM does; there is nothing.
    """

    name = "emulator"

    def __init__(self, profile: str = "kvm", steal: type[StealTime] = StealTime) -> None:
        self._profile = profile
        self._steal = steal
        self.ram = Ram(operations.RAM_SIZE)
        self._host = HostModel(Config(), self.ram, _untold, _beginning)
        self.table = self._power_up().cpuid()

    def _power_up(self) -> Devices:
        self._shared = Clocks(MasterClock(TSC_KHZ), WallClock(self.ram.holds))
        self._run_delay = RunDelay()
        return self._new(boot=True)

    def _new(self, *, boot: bool) -> Devices:
        profile, steal = self._profile, self._steal
        return Devices(self.ram, self._shared, self._run_delay, boot=boot, profile=profile, steal=steal)

    def sequence(self, sequence: Sequence[Operation]) -> Observed:
        """One outcome for each operation, and the pages afterwards. A device's error of its own is not caught."""
        ram, host = self.ram, self._host
        for gpa, zeroes in _ZEROES:
            ram.bytes[gpa : gpa + len(zeroes)] = zeroes
        self._devices = self._power_up()
        found: list[Outcome] = []
        for operation in sequence:
            try:
                found.append(_DO[type(operation)](self, operation))
            except GuestFault as fault:
                found.append(Refused(fault.vector, fault.error or 0))
            host.before_entry(self._devices)  # type: ignore[arg-type]
        return Observed(found, tuple(ram.read(gpa, size) for gpa, size in operations.PAGES))

    def _rdmsr(self, operation: operations.Rdmsr) -> Outcome:
        return Value(self._devices.msrs.rdmsr(operation.msr))

    def _wrmsr(self, operation: operations.Wrmsr) -> Outcome:
        self._devices.msrs.wrmsr(operation.msr, operation.value)
        self._host.wrote_msr(self._devices)  # type: ignore[arg-type]
        return _DONE

    def _cpuid(self, operation: operations.Cpuid) -> Outcome:
        return Leaf(*self.table.query(operation.leaf, operation.subleaf))

    def _load(self, operation: operations.Load) -> Outcome:
        self._check(operation.gpa, operation.size, 0)
        return Value(self.ram.load(operation.gpa, operation.size))

    def _store(self, operation: operations.Store) -> Outcome:
        self._check(operation.gpa, operation.size, _PF_WRITE)
        self.ram.store(operation.gpa, operation.size, operation.value % (1 << 8 * operation.size))
        return _DONE

    def _check(self, gpa: int, size: int, error: int) -> None:
        if not self.ram.holds(gpa, size):  # all RAM is mapped where it stands, and nothing else
            raise GuestFault(abi.PF_VECTOR, error, gpa)

    def _memory(self, operation: operations.Memory) -> Outcome:
        content = Content(self.ram.read(operation.gpa, operation.size))
        return self._reenter(operation, content)

    def _reenter(self, _: Operation, outcome: Outcome = Done()) -> Outcome:
        self._run_delay.entered()
        self._devices.steal.request()
        return outcome

    def _save_restore(self, operation: Operation) -> Outcome:
        old = self._devices
        self._devices = self._new(boot=False)
        self._devices.restore_from(old)
        self._host.wrote_msr(self._devices)  # type: ignore[arg-type]
        return self._reenter(operation)

    def _reset(self, operation: Operation) -> Outcome:
        self._devices.reset()
        return self._reenter(operation)


def _beginning() -> int:
    return 0


def _untold(*_: object) -> None:
    pass


_DONE = Done()
_PF_WRITE = 2
_ZEROES = tuple((gpa, bytes(size)) for gpa, size in operations.PAGES)
_DO: dict[type, Callable[[Emulator, Any], Outcome]] = {
    operations.Rdmsr: Emulator._rdmsr,
    operations.Wrmsr: Emulator._wrmsr,
    operations.Cpuid: Emulator._cpuid,
    operations.Load: Emulator._load,
    operations.Store: Emulator._store,
    operations.Reenter: Emulator._reenter,
    operations.SaveRestore: Emulator._save_restore,
    operations.Reset: Emulator._reset,
    operations.Memory: Emulator._memory,
}
