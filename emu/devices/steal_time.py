"""Steal time: where a guest wants to be told how long it had to wait for a CPU, and the stores that tell it.

The guest writes `address | 1` to MSR_KVM_STEAL_TIME. From then on each update adds the run delay that has accrued
since the last one to `steal` in the guest's memory, between an odd and an even `version`: a reader that finds the
version odd, or changed, reads again. The device owns no memory and performs no store: it says what is to be stored
where, one step at a time, and the machine stores it.

In Linux: record_steal_time() and kvm_steal_time_set_preempted() in arch/x86/kvm/x86.c; the reader is
kvm_steal_clock() in arch/x86/kernel/kvm.c.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from emu import abi
from emu.faults import HostError, general_protection

PROFILES = ("kvm", "kvm-bugs", "kvm-2011")

Load = Callable[[int, int], int]  # (gpa, size in bytes) -> the little-endian unsigned integer that stands there now


class Step(NamedTuple):
    """One store of `size` bytes. `step` is its name; here `preempted`, `odd`, `steal` (or its two halves), `even`."""

    step: str
    gpa: int
    size: int
    value: int


class Area(NamedTuple):
    """What a guest finds in its area; `steal` is in nanoseconds."""

    steal: int
    version: int
    flags: int
    preempted: int


def decode(data: bytes) -> Area:
    """Read the KVM_STEAL_TIME_SIZE bytes of an area. Raises ValueError for any other number of bytes."""
    if len(data) != abi.KVM_STEAL_TIME_SIZE:
        raise ValueError(f"a steal-time area has {abi.KVM_STEAL_TIME_SIZE} bytes, not {len(data)}")

    def field(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    return Area(
        steal=field(abi.KVM_STEAL_TIME_STEAL, 8),
        version=field(abi.KVM_STEAL_TIME_VERSION, 4),
        flags=field(abi.KVM_STEAL_TIME_FLAGS, 4),
        preempted=field(abi.KVM_STEAL_TIME_PREEMPTED, 1),
    )


class StealTime:
    """One vCPU's steal-time MSR and the update of its area.

    `ram_holds(gpa, size)` says whether a range is guest RAM throughout. `profile` is one of PROFILES: `kvm` is the
    interface of today, `kvm-bugs` the same here, as KVM's defects are elsewhere, `kvm-2011` the document of 2011 (no
    preempted byte; an address outside RAM is refused). Raises HostError for another. With `tlb_flush`
    (KVM_FEATURE_PV_TLB_FLUSH) the first store of an update is an exchange:
    where another vCPU had asked in the preempted byte for a TLB flush, `take_flush` says so.

    `requested`: an update is due before the next guest instruction. `updates`: how many were completed. `last_steal`:
    run delay delivered so far, ns modulo 2**64; it outlives disabling and reset, so no time is lost, none told twice.

    Every step takes effect in the device at the moment it is handed out. So ask for a step when it is to be stored, and
    store it before the guest runs on: what is in memory and what `last_steal` says then agree, wherever an update ends.
    """

    features: tuple[int, ...] = (abi.KVM_FEATURE_STEAL_TIME,)
    msrs = (abi.MSR_KVM_STEAL_TIME,)
    reserved_mask = abi.KVM_STEAL_RESERVED_MASK

    def __init__(self, ram_holds: Callable[[int, int], bool], profile: str = "kvm", *, tlb_flush: bool = False) -> None:
        if profile not in PROFILES:
            raise HostError(f"there is no ABI profile {profile!r}", remedy=f"use one of {', '.join(PROFILES)}")
        self._ram_holds = ram_holds
        self._has_preempted_byte = profile != "kvm-2011"
        self._refuses_outside_ram = profile == "kvm-2011"
        self._exchanges = tlb_flush and self._has_preempted_byte
        if self._exchanges:
            self.features = (*type(self).features, abi.KVM_FEATURE_PV_TLB_FLUSH)
        self._flush = False
        self.msr_value = 0
        self.requested = False
        self.last_steal = 0
        self.updates = 0
        self._preempted_shown = False
        self._served_gpa: int | None = None
        self._generation = 0

    @property
    def enabled(self) -> bool:
        """Whether the guest wants updates."""
        return bool(self.msr_value & abi.KVM_MSR_ENABLED)

    @property
    def area_gpa(self) -> int:
        """Where the area is, or was last, or would be: the MSR's address bits."""
        return self.msr_value & abi.KVM_STEAL_ADDRESS_MASK

    def rdmsr(self, msr: int) -> int:
        """The last value accepted, bit for bit; raises GuestFault for any other MSR."""
        self._check(msr)
        return self.msr_value

    def wrmsr(self, msr: int, value: int) -> None:
        """Register `value`'s address (bit 0 set) or end all updates at once (bit 0 clear).

        Raises GuestFault where a reserved bit is set, and then changes nothing. An address outside RAM is accepted and
        never written, except that the profile `kvm-2011` refuses it, whatever bit 0 says.
        """
        self._check(msr)
        if value & self.reserved_mask:
            raise general_protection()
        if self._refuses_outside_ram and not self._in_ram(value & abi.KVM_STEAL_ADDRESS_MASK):
            raise general_protection()
        self.msr_value = value
        self._generation += 1
        if self.enabled:
            self.request()

    def request(self) -> None:
        """Ask for an update before the next guest instruction: the vCPU was given a pCPU, or has just registered."""
        self.requested = True

    def reset(self) -> None:
        """The vCPU is reset: the registration is forgotten, what has been delivered is not."""
        self.msr_value = 0
        self._generation += 1

    def update(self, run_delay_ns: int, load: Load, *, halves: bool = False) -> Iterator[Step]:
        """Serve the request: begin an update now; its stores follow, in order, each computed when it is asked for.

        `run_delay_ns` is the vCPU's whole run delay, as sampled now. `load` reads guest memory: steal is added to what
        the guest has there at that store. `halves` stores it as a 32-bit host would, low half first.

        Yields nothing while disabled, or where the area is not wholly RAM: the time stays due. Ends early where,
        between two stores, the guest writes the MSR, the vCPU is reset or another update begins: the memory may be the
        guest's own again.
        """
        self.requested = False
        self._generation += 1
        if not self.enabled or not self._in_ram(self.area_gpa):
            return iter(())
        stores = self._stores(self.area_gpa, run_delay_ns % (1 << 64), load, halves)
        return self._while_current(stores, self._generation)

    def preempt(self) -> Iterator[Step]:
        """The vCPU was taken off its pCPU though it could run on: at most one store, outside the version's protocol."""
        if not self._has_preempted_byte or self._preempted_shown:
            return
        # Only where an update has been served: before, the host has not yet looked the address up.
        if self.enabled and self._served_gpa == self.area_gpa and self._in_ram(self.area_gpa):
            self._preempted_shown = True
            yield Step("preempted", self.area_gpa + abi.KVM_STEAL_TIME_PREEMPTED, 1, abi.KVM_VCPU_PREEMPTED)

    def take_flush(self) -> bool:
        """Whether a flush of this vCPU's TLB has been asked for, once: it must come before the next instruction."""
        flush, self._flush = self._flush, False
        return flush

    def _while_current(self, stores: Iterator[Step], generation: int) -> Iterator[Step]:
        while self._generation == generation:
            step = next(stores, None)
            if step is None:
                return
            yield step

    def _stores(self, area: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        self._served_gpa = area
        if self._has_preempted_byte:
            self._preempted_shown = False
            preempted = area + abi.KVM_STEAL_TIME_PREEMPTED
            if self._exchanges and load(preempted, 1) & abi.KVM_VCPU_FLUSH_TLB:
                self._flush = True
            yield Step("preempted", preempted, 1, 0)
        version = self._odd_version(load(area + abi.KVM_STEAL_TIME_VERSION, 4))
        yield Step("odd", area + abi.KVM_STEAL_TIME_VERSION, 4, version)
        yield from self._steal(area + abi.KVM_STEAL_TIME_STEAL, run_delay, load, halves)
        self.updates += 1
        yield Step("even", area + abi.KVM_STEAL_TIME_VERSION, 4, (version + 1) % (1 << 32))

    def _odd_version(self, found: int) -> int:
        # An odd version here is junk, or an update that ended early: step over it, or readers would wait for ever.
        settled = found + (found & 1)
        return (settled + 1) % (1 << 32)

    def _steal(self, gpa: int, run_delay: int, load: Load, halves: bool) -> Iterator[Step]:
        # Delivered with the first store, halves or not: an update that ends between them must not add the time twice.
        # (What it can lose there is a carry into the high half: the area stays torn, as any reader may see it then.)
        delta = self._take_delta(run_delay)
        if not halves:
            yield Step("steal", gpa, 8, (load(gpa, 8) + delta) % (1 << 64))
            return
        low = load(gpa, 4) + delta % (1 << 32)
        yield Step("steal-low", gpa, 4, low % (1 << 32))
        high = load(gpa + 4, 4) + (delta >> 32) + (low >> 32)
        yield Step("steal-high", gpa + 4, 4, high % (1 << 32))

    def _take_delta(self, run_delay: int) -> int:
        delta = (run_delay - self.last_steal) % (1 << 64)
        self.last_steal = run_delay
        return delta

    def _in_ram(self, gpa: int) -> bool:
        return self._ram_holds(gpa, abi.KVM_STEAL_TIME_SIZE)

    def _check(self, msr: int) -> None:
        if msr not in self.msrs:
            raise general_protection()
