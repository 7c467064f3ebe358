"""What the host schedules: a vCPU or a host task, its state, and its books.

At every moment an entity is in one of three states, and its books hold how long it has been in each: running, waiting
(runnable without a pCPU: run delay) and blocked. The intervals tile the time from 0 to now and only differences of
floor-nanosecond timestamps are added up, so ran + stolen + idle is the elapsed time exactly, whenever one looks.

In Linux: struct sched_info in include/linux/sched.h, and sched_info_arrive() in kernel/sched/stats.h.
"""

from typing import Final, NamedTuple

from emu import clock
from emu.host.task import Task
from emu.stateful import Stateful

RUNNING: Final = "running"
WAITING: Final = "waiting"
BLOCKED: Final = "blocked"


class Books(NamedTuple):
    """Nanoseconds since virtual time 0: on a pCPU, runnable without one (run delay), blocked."""

    ran_ns: int
    stolen_ns: int
    idle_ns: int


class Entity(Stateful):
    """A vCPU (`task` is None) or a host task, named `vcpu0` or `task0` after its kind and `number`.

    `pin` is the one pCPU it may use, or None; `order` is the order of creation over both kinds. `run_state` is RUNNING,
    WAITING or BLOCKED. `pcpu` is the pCPU that has it as current: a vCPU that halts keeps it until the host has picked
    a successor. `sleeps` counts the times it blocked, which tells a wake-up from one meant for an earlier sleep;
    `awaited` is set while a wake-up is on its way.
    `vruntime` belongs to the fair policy, `planned` (a script decides when it runs) to the scheduler,
    `piece` and `work_ps` (which piece of work a task is at, and what is left of it; None is endless) to tasks.
    """

    __slots__ = (
        "name", "number", "order", "pin", "weight", "task", "is_vcpu",
        "run_state", "since_ps", "pcpu", "sleeps", "awaited", "planned", "vruntime", "vruntime_rest", "piece",
        "work_ps", "_ran_ns", "_stolen_ns", "_idle_ns",
    )  # fmt: skip
    fields = (
        "run_state", "since_ps", "pcpu", "sleeps", "awaited", "planned", "vruntime", "vruntime_rest", "piece",
        "work_ps", "_ran_ns", "_stolen_ns", "_idle_ns",
    )  # fmt: skip

    def __init__(
        self, number: int, order: int, *, task: Task | None = None, pin: int | None = None, weight: int = 1,
        blocked: bool = False,
    ) -> None:  # fmt: skip
        self.is_vcpu = task is None
        self.name = f"{'vcpu' if self.is_vcpu else 'task'}{number}"
        self.number = number
        self.order = order
        self.pin = pin
        self.weight = weight
        self.task = task
        self.run_state: str = BLOCKED if blocked else WAITING
        self.since_ps = 0
        self.pcpu: int | None = None
        self.sleeps = 0
        self.awaited = False
        self.planned = False
        self.vruntime = 0
        self.vruntime_rest = 0
        self.piece = 0
        self.work_ps = task.work_ps if task is not None else None
        self._ran_ns = 0
        self._stolen_ns = 0
        self._idle_ns = 0

    def __repr__(self) -> str:
        return f"<{self.name} {self.run_state} since {self.since_ps} ps>"

    def change(self, state: str, at_ps: int) -> None:
        """Close the open interval at `at_ps` and enter `state`. Raises ValueError where time would run backwards."""
        if at_ps < self.since_ps:
            raise ValueError(
                f"{self.name} cannot become {state} at {at_ps} ps: it is {self.run_state} since {self.since_ps} ps"
            )
        self._ran_ns, self._stolen_ns, self._idle_ns = self.books(at_ps)
        self.run_state = state
        self.since_ps = at_ps

    def books(self, at_ps: int) -> Books:
        """The books with the open interval counted up to `at_ps`; their sum is `clock.ns(at_ps)`.

        A moment before the last change of state is read as that change: the past is not kept.
        """
        ran, stolen, idle = self._ran_ns, self._stolen_ns, self._idle_ns
        if at_ps > self.since_ps:
            open_ns = clock.ns(at_ps) - clock.ns(self.since_ps)
            if self.run_state == RUNNING:
                ran += open_ns
            elif self.run_state == WAITING:
                stolen += open_ns
            else:
                idle += open_ns
        return Books(ran, stolen, idle)

    def run_delay_ns(self, at_ps: int) -> int:
        """Nanoseconds spent runnable but not running, up to `at_ps`."""
        return self.books(at_ps).stolen_ns
