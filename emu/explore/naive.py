"""Exploring without any reduction: a host step between any two units of the guest's work, each schedule by itself.

It exists to be compared with the search: on small instances both must come to the same verdict and see the same reads.
A guest that waits for the host would have endless schedules: a way ends where it comes back to a state that it was in
with as many host steps.
"""

from typing import NamedTuple

from emu.explore.instance import Instance
from emu.explore.runner import Runner
from emu.explore.sides import Snapshot
from emu.history.edits import Edit
from emu.stateful import State


class NaiveReport(NamedTuple):
    """What there was: schedules that came to an end, those that wait for ever, the names of the properties violated,
    and every (vCPU, value returned, values current meanwhile)."""

    schedules: int
    waiting: int
    violated: frozenset[str]
    reads: frozenset[tuple[int, int, frozenset[int]]]
    complete: bool


class Naive:
    """One instance; `limit` is the most schedules it tries."""

    def __init__(self, instance: Instance, limit: int = 1 << 40) -> None:
        self._runner = Runner(instance, time=True)
        self._limit = limit
        self._schedules = 0
        self._waiting = 0
        self._violated: set[str] = set()
        self._reads: set[tuple[int, int, frozenset[int]]] = set()

    def run(self) -> NaiveReport:
        """Try them all, each from the beginning of the run."""
        runner = self._runner
        beginning = runner.snapshot()
        stack: list[tuple[Edit, ...]] = [()]
        while stack and self._schedules < self._limit:
            stack += self._try(beginning, stack.pop())
        found = frozenset(self._violated), frozenset(self._reads)
        return NaiveReport(self._schedules, self._waiting, *found, complete=not stack)

    def _try(self, beginning: Snapshot, schedule: tuple[Edit, ...]) -> list[tuple[Edit, ...]]:
        """Follow a schedule to the end of the run; returns those that have one step more, and that later."""
        runner = self._runner
        runner.restore(beginning)
        more: list[tuple[Edit, ...]] = []
        steps = list(schedule)
        met: set[bytes] = set()
        while True:
            while steps and steps[0].position == runner.machine.position:
                runner.apply(steps.pop(0).change)
                if self._judge():
                    return more
            if not steps:
                here = runner.snapshot()
                key = runner.key(here._replace(state=_timeless(here.state)))
                if key in met:
                    self._waiting += 1
                    return more
                met.add(key)
                more += [(*schedule, Edit(runner.machine.position, change)) for change in runner.options()]
            runner.advance_one()
            if self._judge():
                return more
            if runner.ended:
                self._schedules += 1
                return more

    def _judge(self) -> bool:
        monitor = self._runner.monitor
        self._reads.update(monitor.reads)
        self._violated.update(one.property for one in monitor.violations)
        return bool(monitor.violations)


def _timeless(state: State) -> State:
    own, *rest = state
    return (*own[:3], 0, *own[4:]), *rest
