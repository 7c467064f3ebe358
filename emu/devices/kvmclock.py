"""kvmclock: the time of day at which the VM began, and for each vCPU what it needs to compute time from its TSC.

Two structures, each with a version of its own that is odd while the host stores. The wall clock belongs to the whole VM
and is stored once for each WRMSR. The system time belongs to a vCPU and is stored whenever it has changed.
MSR_KVM_WALL_CLOCK and MSR_KVM_SYSTEM_TIME are the numbers of 2008; the `_NEW` ones lead to the same registers.

No WRMSR here is refused. What cannot be stored is silently not stored: checked on a real KVM, as are the versions.

In Linux: kvm_write_wall_clock(), kvm_write_system_time() and kvm_setup_guest_pvclock() in arch/x86/kvm/x86.c; the
guest's side is arch/x86/kernel/kvmclock.c.
"""

from collections.abc import Callable, Iterator

from emu import abi
from emu.devices.pvclock import MasterClock
from emu.devices.steal_time import PROFILES, Load, Step
from emu.devices.tsc import Tsc
from emu.faults import HostError, general_protection
from emu.stateful import State, Stateful

DEFAULT_BOOT_NS = 1_293_840_000_000_000_000  # 2011 began: a VM's history is the same whenever it is run
FEATURES = (abi.KVM_FEATURE_CLOCKSOURCE, abi.KVM_FEATURE_CLOCKSOURCE2, abi.KVM_FEATURE_CLOCKSOURCE_STABLE_BIT)

_NS_PER_SECOND = 1_000_000_000
_MSRS = {
    abi.KVM_FEATURE_CLOCKSOURCE: (abi.MSR_KVM_WALL_CLOCK, abi.MSR_KVM_SYSTEM_TIME),
    abi.KVM_FEATURE_CLOCKSOURCE2: (abi.MSR_KVM_WALL_CLOCK_NEW, abi.MSR_KVM_SYSTEM_TIME_NEW),
}
_WALL = (abi.MSR_KVM_WALL_CLOCK, abi.MSR_KVM_WALL_CLOCK_NEW)


class WallClock(Stateful):
    """The VM's wall clock. `boot_ns` is the time of day at virtual time 0, in nanoseconds since 1970.

    `value` is the last address written, any 64 bits; `requested` says that it has not been served yet.
    """

    fields = ("value", "requested")

    def __init__(self, ram_holds: Callable[[int, int], bool], boot_ns: int = DEFAULT_BOOT_NS) -> None:
        self._ram_holds = ram_holds
        self.boot_ns = boot_ns
        self.value = 0
        self.requested = False
        self._generation = 0  # not state: it tells apart updates that are being handed out, and load ends them

    def load(self, state: State) -> None:
        super().load(state)
        self._generation += 1

    def write(self, value: int) -> None:
        """Ask for the time to be stored at `value`, at once; 0 asks for nothing."""
        self.value = value
        self.requested = value != 0
        self._generation += 1

    def update(self, load: Load) -> Iterator[Step]:
        """Serve the request: `odd`, `sec`, `nsec`, `even`, each clipped to what RAM there is, at any address.

        Yields nothing where the version is not wholly in RAM. Ends early where the guest writes the MSR meanwhile.
        """
        self.requested = False
        self._generation += 1
        if self.value == 0 or not self._ram_holds(self.value, 4):
            return iter(())
        generation = self._generation
        return _while(lambda: self._generation == generation, self._stores(self.value, load))

    def _stores(self, gpa: int, load: Load) -> Iterator[Step]:
        version = _odd(load(gpa, 4))
        seconds, ns = divmod(self.boot_ns, _NS_PER_SECOND)
        yield Step("odd", gpa, 4, version)
        yield from self._clipped("sec", gpa + abi.PVCLOCK_WALL_CLOCK_SEC, seconds % (1 << 32))
        yield from self._clipped("nsec", gpa + abi.PVCLOCK_WALL_CLOCK_NSEC, ns)
        yield Step("even", gpa, 4, (version + 1) % (1 << 32))

    def _clipped(self, step: str, gpa: int, value: int) -> Iterator[Step]:
        size = max(size for size in range(5) if size == 0 or self._ram_holds(gpa, size))
        if size:
            yield Step(step, gpa, size, value % (1 << 8 * size))


class SystemTime(Stateful):
    """One vCPU's copy of the VM's clock. `tsc` is this vCPU's own counter, `boot` says that this is vCPU 0.

    `profile` is one of PROFILES: `kvm-bugs` is today's KVM with its one defect, by which a place that would cross a
    page leaves the one before in force. Raises HostError for another. `value` is the last value written. `updates`
    counts completed ones.
    """

    fields = ("value", "updates", "_place", "_requested", "_told")

    def __init__(
        self,
        ram_holds: Callable[[int, int], bool],
        master: MasterClock,
        tsc: Tsc,
        *,
        boot: bool = True,
        profile: str = "kvm",
    ) -> None:
        if profile not in PROFILES:
            raise HostError(f"there is no ABI profile {profile!r}", remedy=f"use one of {', '.join(PROFILES)}")
        self._keeps_old_place = profile == "kvm-bugs"
        self._ram_holds = ram_holds
        self._master = master
        self._tsc = tsc
        self._boot = boot
        self.value = 0
        self.updates = 0
        self._place: int | None = None  # where updates are stored, if that is RAM
        self._requested = False
        self._told: tuple[int, int] | None = None  # generation of the clock and TSC offset that were last stored
        self._generation = 0  # not state, as above

    def load(self, state: State) -> None:
        super().load(state)
        self._generation += 1

    @property
    def enabled(self) -> bool:
        """Whether the guest wants updates."""
        return bool(self.value & abi.KVM_MSR_ENABLED)

    @property
    def area_gpa(self) -> int:
        """Where the structure is, or was last: bit 0 is all that is not address."""
        return self.value & ~abi.KVM_MSR_ENABLED

    @property
    def requested(self) -> bool:
        """Whether an update is due before the next guest instruction: asked for, or the guest's copy is out of date."""
        return self.enabled and (self._requested or self._told != self._current())

    def write(self, value: int, *, legacy: bool = False) -> None:
        """Register `value`'s address (bit 0 set) or end all updates (bit 0 clear); `legacy`: by the number of 2008.

        A vCPU 0 that uses the old number does not know the flags, so that all vCPUs are told that no clock is stable.
        """
        self.value = value
        self._generation += 1
        crosses = self.area_gpa % abi.PAGE_SIZE + abi.PVCLOCK_VCPU_TIME_INFO_SIZE > abi.PAGE_SIZE
        if self.enabled and not crosses:
            self._place = self.area_gpa
        elif not self.enabled or not self._keeps_old_place:
            self._place = None
        if self._boot:
            self._master.declare(not legacy)
        self.request()

    def request(self) -> None:
        """Ask for an update before the next guest instruction."""
        self._requested = True

    def reset(self) -> None:
        """The vCPU is reset: the registration is forgotten."""
        self.value = 0
        self._place = None
        self._requested = False
        self._generation += 1

    def update(self, load: Load) -> Iterator[Step]:
        """Serve the request: `odd`, `pad`, `tsc-timestamp`, `system-time`, `scale` (with shift and flags), `even`.

        The clock is the one of this moment. Yields nothing while disabled, and where the structure is not wholly in RAM
        and within one page. Ends early where the guest writes the MSR, the vCPU is reset or another update begins.
        """
        self._requested = False
        self._told = self._current()
        self._generation += 1
        gpa = self._place
        if gpa is None or not self._ram_holds(gpa, abi.PVCLOCK_VCPU_TIME_INFO_SIZE):
            return iter(())
        master, generation = self._master, self._generation
        timestamp = (master.origin_tick + self._tsc.offset) % (1 << 64)
        stores = self._stores(gpa, load, timestamp, master.origin_ns % (1 << 64))
        return _while(lambda: self._generation == generation, stores)

    def _current(self) -> tuple[int, int]:
        return self._master.generation, self._tsc.offset

    def _stores(self, gpa: int, load: Load, timestamp: int, ns: int) -> Iterator[Step]:
        mul, shift = self._master.scale
        stable = abi.PVCLOCK_TSC_STABLE_BIT if self._master.stable else 0
        version = _odd(load(gpa + abi.PVCLOCK_VERSION, 4))
        yield Step("odd", gpa + abi.PVCLOCK_VERSION, 4, version)
        yield Step("pad", gpa + abi.PVCLOCK_PAD0, 4, 0)
        yield Step("tsc-timestamp", gpa + abi.PVCLOCK_TSC_TIMESTAMP, 8, timestamp)
        yield Step("system-time", gpa + abi.PVCLOCK_SYSTEM_TIME, 8, ns)
        # That it was stopped is for the guest to take note of and to clear.
        flags = stable | load(gpa + abi.PVCLOCK_FLAGS, 1) & abi.PVCLOCK_GUEST_STOPPED
        yield Step("scale", gpa + abi.PVCLOCK_TSC_TO_SYSTEM_MUL, 8, mul | shift << 32 | flags << 40)
        self.updates += 1
        yield Step("even", gpa + abi.PVCLOCK_VERSION, 4, (version + 1) % (1 << 32))


class KvmClock(Stateful):
    """The MSRs of one vCPU: those of the VM's `wall` clock and of its own `time`, under the numbers of `features`.

    Its state is that of `time`: the wall clock is the VM's, as the one that all copies show.
    """

    parts = ("time",)

    def __init__(self, wall: WallClock, time: SystemTime, features: tuple[int, ...] = FEATURES) -> None:
        self.wall = wall
        self.time = time
        self.features = features
        self.msrs = tuple(msr for feature in features for msr in _MSRS.get(feature, ()))

    def rdmsr(self, msr: int) -> int:
        """The last value written, by either number; raises GuestFault where `msr` is not offered."""
        self._check(msr)
        return self.wall.value if msr in _WALL else self.time.value

    def wrmsr(self, msr: int, value: int) -> None:
        """Write either register, any value; raises GuestFault where `msr` is not offered."""
        self._check(msr)
        if msr in _WALL:
            self.wall.write(value)
        else:
            self.time.write(value, legacy=msr == abi.MSR_KVM_SYSTEM_TIME)

    def reset(self) -> None:
        """The vCPU is reset. The wall clock is the VM's and stays."""
        self.time.reset()

    def _check(self, msr: int) -> None:
        if msr not in self.msrs:
            raise general_protection()


def _odd(found: int) -> int:
    # An odd version here is junk, or an update that ended early.
    return (found + (found & 1) + 1) % (1 << 32)


def _while(current: Callable[[], bool], stores: Iterator[Step]) -> Iterator[Step]:
    while current():
        step = next(stores, None)
        if step is None:
            return
        yield step
