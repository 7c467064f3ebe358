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
from emu.stateful import Stateful

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


class Update(NamedTuple):
    """An update that is under way: frozen, so that it can be compared, kept, and gone on with from where it is.

    `next` names the store that comes next. `version` is the odd one that was stored, `high` what the store of the low
    half has left to be added to the high one.
    """

    gpa: int
    run_delay: int
    halves: bool
    next: str
    version: int = 0
    high: int = 0


class StealTime(Stateful):
    """One vCPU's steal-time MSR and the update of its area.

    `ram_holds(gpa, size)` says whether a range is guest RAM throughout. `profile` is one of PROFILES: `kvm` is the
    interface of today, `kvm-bugs` the same here, as KVM's defects are elsewhere, `kvm-2011` the document of 2011 (no
    preempted byte; an address outside RAM is refused). Raises HostError for another. With `tlb_flush`
    (KVM_FEATURE_PV_TLB_FLUSH) the first store of an update is an exchange:
    where another vCPU had asked in the preempted byte for a TLB flush, `take_flush` says so.

    `requested`: an update is due before the next guest instruction. `updates`: how many were completed. `last_steal`:
    run delay delivered so far, ns modulo 2**64; it outlives disabling and reset, so no time is lost, none told twice.
    `under_way`: the update that has begun and not ended, of which there is one at most.

    Every step takes effect in the device at the moment it is handed out. So ask for a step when it is to be stored, and
    store it before the guest runs on: what is in memory and what `last_steal` says then agree, wherever an update ends.
    """

    features: tuple[int, ...] = (abi.KVM_FEATURE_STEAL_TIME,)
    msrs = (abi.MSR_KVM_STEAL_TIME,)
    reserved_mask = abi.KVM_STEAL_RESERVED_MASK
    fields = (
        "msr_value", "requested", "last_steal", "updates", "under_way", "_flush", "_preempted_shown", "_served_gpa",
    )  # fmt: skip

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
        self.under_way: Update | None = None

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
        self.under_way = None
        if self.enabled:
            self.request()

    def request(self) -> None:
        """Ask for an update before the next guest instruction: the vCPU was given a pCPU, or has just registered."""
        self.requested = True

    def reset(self) -> None:
        """The vCPU is reset: the registration is forgotten, what has been delivered is not."""
        self.msr_value = 0
        self.under_way = None

    def begin(self, run_delay_ns: int, *, halves: bool = False) -> None:
        """Serve the request: an update is under way from now on, its stores are `step`'s to hand out, one by one.

        `run_delay_ns` is the vCPU's whole run delay, as sampled now. `halves` stores steal as a 32-bit host would, low
        half first. Nothing is under way while disabled, or where the area is not wholly RAM: the time stays due.

        An update ends early where, between two stores, the guest writes the MSR, the vCPU is reset or another one
        begins: the memory may be the guest's own again.
        """
        self.requested = False
        self.under_way = None
        if self.enabled and self._in_ram(self.area_gpa):
            first = "preempted" if self._has_preempted_byte else "odd"
            self.under_way = Update(self.area_gpa, run_delay_ns % (1 << 64), halves, first)

    def step(self, load: Load) -> Step | None:
        """The store that is next, computed now; None where no update is under way (any more).

        `load` reads guest memory: steal is added to what the guest has there at that store.
        """
        update = self.under_way
        if update is None:
            return None
        self._served_gpa = update.gpa
        step, self.under_way = _STORES[update.next](self, update, load)
        return step

    def update(self, run_delay_ns: int, load: Load, *, halves: bool = False) -> Iterator[Step]:
        """Begin an update now, and hand out its steps as they are asked for."""
        self.begin(run_delay_ns, halves=halves)
        return iter(lambda: self.step(load), None)

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

    def _clear_preempted(self, update: Update, load: Load) -> "_Done":
        self._preempted_shown = False
        gpa = update.gpa + abi.KVM_STEAL_TIME_PREEMPTED
        if self._exchanges and load(gpa, 1) & abi.KVM_VCPU_FLUSH_TLB:
            self._flush = True
        return Step("preempted", gpa, 1, 0), update._replace(next="odd")

    def _open(self, update: Update, load: Load) -> "_Done":
        gpa = update.gpa + abi.KVM_STEAL_TIME_VERSION
        version = self._odd_version(load(gpa, 4))
        steal = "steal-low" if update.halves else "steal"
        return Step("odd", gpa, 4, version), update._replace(next=steal, version=version)

    def _add(self, update: Update, load: Load) -> "_Done":
        gpa = update.gpa + abi.KVM_STEAL_TIME_STEAL
        steal = (load(gpa, 8) + self._take_delta(update.run_delay)) % (1 << 64)
        return Step("steal", gpa, 8, steal), update._replace(next="even")

    def _add_low(self, update: Update, load: Load) -> "_Done":
        gpa = update.gpa + abi.KVM_STEAL_TIME_STEAL
        high, low = divmod(self._take_delta(update.run_delay), 1 << 32)
        carry, low = divmod(load(gpa, 4) + low, 1 << 32)
        return Step("steal-low", gpa, 4, low), update._replace(next="steal-high", high=high + carry)

    def _add_high(self, update: Update, load: Load) -> "_Done":
        gpa = update.gpa + abi.KVM_STEAL_TIME_STEAL + 4
        return Step("steal-high", gpa, 4, (load(gpa, 4) + update.high) % (1 << 32)), update._replace(next="even")

    def _close(self, update: Update, load: Load) -> "_Done":
        self.updates += 1
        return Step("even", update.gpa + abi.KVM_STEAL_TIME_VERSION, 4, (update.version + 1) % (1 << 32)), None

    def _odd_version(self, found: int) -> int:
        # An odd version here is junk, or an update that ended early: step over it, or readers would wait for ever.
        settled = found + (found & 1)
        return (settled + 1) % (1 << 32)

    def _take_delta(self, run_delay: int) -> int:
        # Delivered with the first store, halves or not: an update that ends between them must not add the time twice.
        # (What it can lose there is a carry into the high half: the area stays torn, as any reader may see it then.)
        delta = (run_delay - self.last_steal) % (1 << 64)
        self.last_steal = run_delay
        return delta

    def _in_ram(self, gpa: int) -> bool:
        return self._ram_holds(gpa, abi.KVM_STEAL_TIME_SIZE)

    def _check(self, msr: int) -> None:
        if msr not in self.msrs:
            raise general_protection()


_Done = tuple[Step, Update | None]  # what is to be stored, and what is under way from then on
_STORES: dict[str, Callable[[StealTime, Update, Load], _Done]] = {
    "preempted": StealTime._clear_preempted,
    "odd": StealTime._open,
    "steal": StealTime._add,
    "steal-low": StealTime._add_low,
    "steal-high": StealTime._add_high,
    "even": StealTime._close,
}
