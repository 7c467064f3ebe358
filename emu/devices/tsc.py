"""The time-stamp counter of one vCPU: virtual time in ticks, plus the offset that a WRMSR leaves behind.

In Linux: kvm_compute_l1_tsc_offset() in arch/x86/kvm/x86.c.
"""

from collections.abc import Callable

from emu import abi, clock
from emu.faults import general_protection
from emu.stateful import Stateful

_MODULUS = 1 << 64


class Tsc(Stateful):
    """Counts `khz` * 1000 ticks a second of virtual time, modulo 2**64; `now` tells that time in picoseconds.

    Raises ValueError unless `khz` is positive.
    """

    features: tuple[int, ...] = ()
    msrs = (abi.MSR_IA32_TSC,)
    fields = ("offset",)

    def __init__(self, now: Callable[[], int], khz: int) -> None:
        if khz <= 0:
            raise ValueError(f"a TSC of {khz} kHz does not tick")
        self._now = now
        self.khz = khz
        self.offset = 0

    def value(self) -> int:
        """What RDTSC reads now."""
        return (clock.tsc(self._now(), self.khz) + self.offset) % _MODULUS

    def due_ps(self, ticks: int) -> int:
        """The virtual time, from now on, at which the counter first reads `ticks` or more (below 2**64)."""
        now = self._now()
        unshifted = clock.tsc(now, self.khz)
        missing = ticks - (unshifted + self.offset) % _MODULUS
        return now if missing <= 0 else clock.tsc_due_ps(unshifted + missing, self.khz)

    def rdmsr(self, msr: int) -> int:
        """IA32_TSC reads as RDTSC does; raises GuestFault for any other number."""
        self._check(msr)
        return self.value()

    def wrmsr(self, msr: int, value: int) -> None:
        """Let the counter go on from `value`; raises GuestFault for any other MSR."""
        self._check(msr)
        self.offset = (value - clock.tsc(self._now(), self.khz)) % _MODULUS

    def _check(self, msr: int) -> None:
        if msr not in self.msrs:
            raise general_protection()
