"""The timer inside a local APIC: a down-counter (one-shot or periodic), or a TSC value to wait for.

It knows when it expires and nothing of vectors or masks: what an expiry leads to is its APIC's affair.

In Linux: start_apic_timer() and apic_timer_expired() in arch/x86/kvm/lapic.c; the guest's side is
arch/x86/kernel/apic/apic.c.
"""

from collections.abc import Callable

from emu import abi, clock
from emu.devices.tsc import Tsc
from emu.stateful import Stateful

_INPUT_TICK_PS = clock.PS_PER_SECOND // abi.APIC_TIMER_HZ


class ApicTimer(Stateful):
    """Stopped, in one-shot mode. `now` tells virtual time in picoseconds; `tsc` is the same vCPU's counter.

    Modes are the LVT's bits: APIC_LVT_TIMER_ONESHOT, APIC_LVT_TIMER_PERIODIC or APIC_LVT_TIMER_TSCDEADLINE.
    """

    fields = (
        "_mode", "_initial_count", "_divide", "_expires_ps", "_deadline", "_deadline_ps", "_deadline_offset",
    )  # fmt: skip

    def __init__(self, now: Callable[[], int], tsc: Tsc) -> None:
        self._now = now
        self._tsc = tsc
        self.power_up()

    def power_up(self) -> None:
        """Stop, and forget all settings."""
        self._mode = abi.APIC_LVT_TIMER_ONESHOT
        self._initial_count = 0
        self._divide = 0
        self._expires_ps: int | None = None
        self._deadline = 0
        self._deadline_ps = 0
        self._deadline_offset = 0

    @property
    def due_ps(self) -> int | None:
        """The virtual time of the next expiry; None while stopped, not after now where it is overdue."""
        if self._mode != abi.APIC_LVT_TIMER_TSCDEADLINE:
            return self._expires_ps
        if not self._deadline:
            return None
        if self._deadline_offset != self._tsc.offset:  # the guest has set its TSC
            self._arm_deadline()
        return self._deadline_ps

    def expire(self, now_ps: int) -> bool:
        """Whether it has expired by `now_ps`; several periods that passed unseen are one expiry."""
        due = self.due_ps
        if due is None or due > now_ps:
            return False
        if self._mode == abi.APIC_LVT_TIMER_PERIODIC:
            period = self._initial_count * self._tick_ps
            self._expires_ps = due + ((now_ps - due) // period + 1) * period
        else:
            self._expires_ps = None
            self._deadline = 0
        return True

    def set_mode(self, mode: int) -> None:
        """Change the mode. To or from deadline mode this disarms; one-shot and periodic share a running count."""
        if abi.APIC_LVT_TIMER_TSCDEADLINE in (mode, self._mode) and mode != self._mode:
            self._initial_count = 0
            self._expires_ps = None
            self._deadline = 0
        self._mode = mode

    @property
    def initial_count(self) -> int:
        return self._initial_count

    @initial_count.setter
    def initial_count(self, count: int) -> None:
        """Start counting down from `count`, or stop where it is 0; ignored in deadline mode."""
        if self._mode != abi.APIC_LVT_TIMER_TSCDEADLINE:
            self._initial_count = count
            self._expires_ps = self._now() + count * self._tick_ps if count else None

    @property
    def current_count(self) -> int:
        """Ticks left, rounded up; 0 while stopped and in deadline mode."""
        if self._expires_ps is None:
            return 0
        return max(0, -(-(self._expires_ps - self._now()) // self._tick_ps))

    @property
    def divide(self) -> int:
        """The divide configuration register's bits."""
        return self._divide

    @divide.setter
    def divide(self, bits: int) -> None:
        """Go on with the present count at the new rate."""
        count = self.current_count
        self._divide = bits
        if self._expires_ps is not None:
            self._expires_ps = self._now() + count * self._tick_ps

    @property
    def deadline(self) -> int:
        """The TSC value waited for, 0 where there is none."""
        return self._deadline

    @deadline.setter
    def deadline(self, ticks: int) -> None:
        """Wait for the TSC to reach `ticks`; 0 disarms. Ignored outside deadline mode."""
        if self._mode == abi.APIC_LVT_TIMER_TSCDEADLINE:
            self._deadline = ticks
            self._arm_deadline()

    def _arm_deadline(self) -> None:
        # Once, and not whenever one asks: later, when it has passed, the moment at which it did could not be told.
        self._deadline_offset = self._tsc.offset
        self._deadline_ps = self._tsc.due_ps(self._deadline)

    @property
    def _tick_ps(self) -> int:
        # The register's bits 0, 1 and 3 are a number: 0 divides by 2, 6 by 128, and 7 by 1.
        power = (self._divide & 3 | (self._divide & 8) >> 1) + 1
        return _INPUT_TICK_PS << (power & 7)
