"""What the scheduler says to its driver: whose turn it is, and what it tells an observer on the way."""

from typing import NamedTuple, Protocol

from emu.host.entity import Entity


class Run(NamedTuple):
    """Let this vCPU run on this pCPU from `now_ps` to at most `until_ps` (greater; None is no bound), then call `ran`.

    The driver may stop earlier. It may overshoot by the rest of an instruction.
    """

    pcpu: int
    vcpu: int
    now_ps: int
    until_ps: int | None


class Alarm(NamedTuple):
    """Every vCPU has come as far as the alarm: serve the timers that are due, wake whom they wake, ask again."""

    now_ps: int


class Rest(NamedTuple):
    """No vCPU can ever run again by itself: each is blocked, and no alarm is set. Host tasks alone do not count."""

    now_ps: int


Turn = Run | Alarm | Rest


class Observer(Protocol):
    """Told of every switch and every wake-up at the moment it happens; it must not call the scheduler back."""

    def switched(
        self, pcpu: int, at_ps: int, prev: Entity | None, next: Entity | None, why: str, involuntary: bool
    ) -> None:
        """The pCPU changes hands at `at_ps`; None is idle, and `prev` is never `next`.

        `why`: `start`, `quantum`, `preempted` (by a wake-up), `blocked`, `wake`, `yield` (to `next`),
        `script`. `involuntary`: `prev` was
        still runnable.
        """

    def woke(self, entity: Entity, at_ps: int) -> None:
        """A blocked entity became runnable; a switch onto a pCPU follows at once or later.

        None follows where it was woken at the very moment it blocked: it then never left its pCPU.
        """
