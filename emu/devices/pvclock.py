"""The clock that every vCPU's kvmclock is a copy of: where it starts, how fast it runs, and when it must be set anew.

A guest computes nanoseconds from its TSC as `system_time + ((ticks since tsc_timestamp) << shift) * mul >> 32`. One
origin and one scale serve all vCPUs, so the clock is the same function of time on each, and cannot go backwards from
one to another. The scale is rounded down to 32 bits: a clock that runs too slow can be corrected forwards.

Bound: a reading differs by at most 1 ns from the whole nanoseconds of virtual time at the tick that was read. Half a
nanosecond is what the scale may lose before `due_ps`; the other half and a whole one are what rounding to integers may.

In Linux: struct kvm_arch's master_kernel_ns and master_cycle_now, set by pvclock_update_vm_gtod_copy() in
arch/x86/kvm/x86.c; the reader is __pvclock_read_cycles() in arch/x86/include/asm/pvclock.h.
"""

from typing import NamedTuple

from emu import abi, clock
from emu.stateful import Stateful

_NS_PER_KHZ_TICK = clock.PS_PER_KHZ_TICK // clock.PS_PER_NS  # one tick of a clock of N kHz lasts this / N ns


class Scale(NamedTuple):
    """Nanoseconds per tick, as `mul * 2**shift / 2**32`; `mul` is below 2**32 and `shift` never negative."""

    mul: int
    shift: int


class TimeInfo(NamedTuple):
    """What a guest finds in its pvclock_vcpu_time_info; `system_time` is in nanoseconds."""

    version: int
    tsc_timestamp: int
    system_time: int
    tsc_to_system_mul: int
    tsc_shift: int
    flags: int

    def ns(self, tsc: int) -> int:
        """The time that a guest computes from this where RDTSC returns `tsc`: ns modulo 2**64."""
        delta = (tsc - self.tsc_timestamp) % (1 << 64)
        delta = delta << self.tsc_shift if self.tsc_shift >= 0 else delta >> -self.tsc_shift
        return (self.system_time + (delta * self.tsc_to_system_mul >> 32)) % (1 << 64)


def decode(data: bytes) -> TimeInfo:
    """Read the PVCLOCK_VCPU_TIME_INFO_SIZE bytes of a structure. Raises ValueError for any other number of bytes."""
    if len(data) != abi.PVCLOCK_VCPU_TIME_INFO_SIZE:
        raise ValueError(f"a pvclock structure has {abi.PVCLOCK_VCPU_TIME_INFO_SIZE} bytes, not {len(data)}")

    def field(at: int, size: int, signed: bool = False) -> int:
        return int.from_bytes(data[at : at + size], "little", signed=signed)

    return TimeInfo(
        version=field(abi.PVCLOCK_VERSION, 4),
        tsc_timestamp=field(abi.PVCLOCK_TSC_TIMESTAMP, 8),
        system_time=field(abi.PVCLOCK_SYSTEM_TIME, 8),
        tsc_to_system_mul=field(abi.PVCLOCK_TSC_TO_SYSTEM_MUL, 4),
        tsc_shift=field(abi.PVCLOCK_TSC_SHIFT, 1, signed=True),
        flags=field(abi.PVCLOCK_FLAGS, 1),
    )


def scale(khz: int) -> Scale:
    """The largest scale that is not too fast for a TSC of `khz`. Raises ValueError unless `khz` is positive."""
    if khz <= 0:
        raise ValueError(f"a TSC of {khz} kHz does not tick")
    # KVM shifts a fast TSC's ticks to the right, which loses one of them at each reading; here none is lost.
    shift = 0
    while khz << shift <= _NS_PER_KHZ_TICK:
        shift += 1
    return Scale((_NS_PER_KHZ_TICK << 32) // (khz << shift), shift)


class MasterClock(Stateful):
    """The VM's one clock, at 0 ns when virtual time begins; `khz` is the rate of all TSCs.

    `stable` tells guests that all vCPUs agree (PVCLOCK_TSC_STABLE_BIT). `generation` changes with whatever vCPUs must
    be told: each copy that shows another one is out of date. Raises ValueError unless `khz` is positive.
    """

    fields = ("origin_tick", "origin_ns", "generation", "stable")

    def __init__(self, khz: int) -> None:
        self.khz = khz
        self.scale = scale(khz)
        self.origin_tick = 0
        self.origin_ns = 0
        self.generation = 0
        self.stable = True
        lost = (_NS_PER_KHZ_TICK << 32) - (self.scale.mul << self.scale.shift) * khz  # per tick, in 2**-32 / khz ns
        self._span_ticks = (khz << 31) // lost if lost else None

    @property
    def due_ps(self) -> int | None:
        """The virtual time from which the scale may have lost half a nanosecond; None where it is exact."""
        if self._span_ticks is None:
            return None
        return clock.tsc_due_ps(self.origin_tick + self._span_ticks, self.khz)

    def keep(self, now_ps: int) -> bool:
        """Set the clock anew where it is due by `now_ps`; whether it was.

        No vCPU may have read a TSC later than `now_ps`, none may still read an earlier one, and all must get their
        copy before they run on: so call it before an entry, with the time of the vCPU that is furthest behind.
        """
        due = self.due_ps
        if due is None or now_ps < due:
            return False
        self.rebase(now_ps)
        return True

    def rebase(self, now_ps: int) -> None:
        """Let the clock start from `now_ps`, under the same conditions as `keep`. Raises ValueError for a past time."""
        tick = clock.tsc(now_ps, self.khz)
        if tick < self.origin_tick:
            raise ValueError(f"the clock starts at tick {self.origin_tick} and cannot start at {tick}")
        self.origin_tick = tick
        # Upwards: the guest rounds its own product down, so that the errors fall on both sides. What a guest has read
        # up to this tick is at most this much, as each reading is less than a nanosecond ahead of the truth.
        self.origin_ns = -(-tick * _NS_PER_KHZ_TICK // self.khz)
        self.generation += 1

    def declare(self, stable: bool) -> None:
        """Tell all vCPUs whether their clocks agree."""
        if stable != self.stable:
            self.stable = stable
            self.generation += 1
