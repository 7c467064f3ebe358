"""One physical CPU: its local time, who has it, and until when.

In Linux: the rq of one CPU in kernel/sched/sched.h: `curr`, `clock_task`, and the slice that task_tick_fair() watches.
"""

from collections.abc import Sequence

from emu.host.entity import BLOCKED, Entity
from emu.host.runqueue import RunQueue
from emu.stateful import State, Stateful

NEVER = 1 << 127  # later than any virtual time: 10**18 times the age of the universe, in picoseconds


class Pcpu(Stateful):
    """`time_ps` is how far this pCPU has come; it is idle where `current` is None.

    `end_ps` is the end of the quantum, which means something only while someone else waits; on a pCPU whose hands a
    script decides (`planned`) it is the end of the line, and binding. `preempt` asks for a decision at the next chance;
    so does `yields_to`: whom its current wants to see here instead.
    """

    __slots__ = ("number", "time_ps", "current", "end_ps", "quantum_ps", "preempt", "planned", "yields_to")
    fields = ("time_ps", "end_ps", "quantum_ps", "preempt", "planned")

    def __init__(self, number: int) -> None:
        self.number = number
        self.time_ps = 0
        self.current: Entity | None = None
        self.end_ps = 0
        self.quantum_ps = 1
        self.preempt = False
        self.planned = False
        self.yields_to: Entity | None = None

    def state(self) -> State:
        named = (None if entity is None else entity.order for entity in (self.current, self.yields_to))
        return (*super().state(), *named)

    def load_among(self, state: State, entities: Sequence[Entity]) -> None:
        """Become what `state` says, which names some of `entities` by their places."""
        *own, current, favoured = state
        self.load(tuple(own))
        self.current = None if current is None else entities[current]
        self.yields_to = None if favoured is None else entities[favoured]

    def roll(self, at_ps: int) -> None:
        """A competitor came at `at_ps`: quanta over by then ended without one, which is no switch; a later one ends."""
        if self.end_ps <= at_ps:
            self.end_ps += ((at_ps - self.end_ps) // self.quantum_ps + 1) * self.quantum_ps

    def due_ps(self, queue: RunQueue) -> int:
        """The next time at which something must be decided here, NEVER where nothing must.

        For a vCPU it may lie behind `time_ps`: it overshot by a part of an instruction.
        """
        current = self.current
        if current is None:
            return self.end_ps if self.planned else NEVER
        if self.preempt or self.yields_to is not None or current.run_state == BLOCKED:
            return self.time_ps
        due = self.end_ps if self.planned or queue.competes(self.number) else NEVER
        if current.work_ps is not None and self.time_ps + current.work_ps < due:
            due = self.time_ps + current.work_ps
        return due
