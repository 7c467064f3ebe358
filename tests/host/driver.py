"""A stand-in for the machine: vCPUs that compute, halt, sleep and wake each other, driven by a Scheduler.

It keeps books of its own, from what the observer is told and what it did itself, and checks after every step what must
hold always. Tests compare the two.
"""

import heapq
from itertools import pairwise
from typing import NamedTuple

from hypothesis import settings

from emu import clock
from emu.host.entity import BLOCKED, RUNNING, WAITING, Entity
from emu.host.policy import Policy
from emu.host.scheduler import Scheduler
from emu.host.task import Task
from emu.host.turn import Alarm, Rest, Run
from tests.effort import EFFORT

STEADY = settings(derandomize=True, deadline=None, database=None, max_examples=30 * EFFORT)


class Phase(NamedTuple):
    """Compute so many instructions; then wake vCPU `wakes`, yield to vCPU `yields`, if any; then halt for `sleep_ps`.

    Without halt where that is None, for ever where it is -1.
    """

    insns: int
    sleep_ps: int | None = None
    wakes: int | None = None
    yields: int | None = None


class Vcpu(NamedTuple):
    program: tuple[Phase, ...]  # over and over
    pcpu: int | None = None
    weight: int = 1
    blocked: bool = False


class Driver:
    def __init__(
        self,
        policy: Policy,
        vcpus: list[Vcpu],
        tasks: list[Task],
        *,
        pcpus: int = 1,
        ps_per_insn: int = 1000,
        interleave_ps: int = 10_000,
        slices: tuple[int, ...] = (),
    ) -> None:
        self.log: list[tuple[object, ...]] = []
        self.scheduler = Scheduler(pcpus, policy, interleave_ps, self)
        self.specs = vcpus
        self.ps_per_insn = ps_per_insn
        self.slices = slices
        self.runs = 0
        self.entities = [self.scheduler.add_vcpu(pcpu=v.pcpu, weight=v.weight, blocked=v.blocked) for v in vcpus]
        self.entities += [self.scheduler.add_task(task) for task in tasks]
        self.alarms: list[tuple[int, int]] = []
        self.phase = [0] * len(vcpus)
        self.left = [v.program[0].insns for v in vcpus]
        self.insns = [0] * len(vcpus)
        self.on: list[Entity | None] = [None] * pcpus
        # (when, state) of each entity, oldest first: the books kept independently.
        self.history = {e.name: [(0, e.run_state)] for e in self.entities}
        self.last_switch = [0] * pcpus
        self.end: Alarm | Rest | Run | None = None

    # --- observer ---

    def switched(
        self, pcpu: int, at_ps: int, prev: Entity | None, next: Entity | None, why: str, involuntary: bool
    ) -> None:
        assert prev is self.on[pcpu] and prev is not next
        assert at_ps >= self.last_switch[pcpu]
        self.last_switch[pcpu] = at_ps
        self.on[pcpu] = next
        if prev is not None:
            if involuntary:
                self._enter(prev, at_ps, WAITING)
            elif not prev.is_vcpu:
                self._enter(prev, at_ps, BLOCKED)
            assert self.history[prev.name][-1][1] == (WAITING if involuntary else BLOCKED)
        if next is not None:
            assert next.pin in (None, pcpu)
            assert self.on.count(next) == 1
            assert self.history[next.name][-1][1] == WAITING
            self._enter(next, at_ps, RUNNING)
        self.log.append((pcpu, at_ps, prev and prev.name, next and next.name, why))

    def woke(self, entity: Entity, at_ps: int) -> None:
        assert self.history[entity.name][-1][1] == BLOCKED
        self._enter(entity, at_ps, RUNNING if entity in self.on else WAITING)
        self.log.append(("woke", at_ps, entity.name))

    def _enter(self, entity: Entity, at_ps: int, state: str) -> None:
        assert at_ps >= self.history[entity.name][-1][0], f"time runs backwards for {entity.name}"
        self.history[entity.name].append((at_ps, state))
        assert sum(entity.books(at_ps)) == clock.ns(at_ps)

    # --- the loop ---

    def run(self, until_ps: int) -> "Driver":
        """Until the host rests, or every pCPU has come as far as `until_ps`."""
        before_ps = 0
        while True:
            # The end is an alarm too, but must not keep a host from resting.
            rests = not self.alarms and all(v.run_state == BLOCKED and not v.awaited for v in self.scheduler.vcpus)
            alarm_ps = None if rests else min([until_ps, *(at_ps for at_ps, _ in self.alarms[:1])])
            turn = self.scheduler.next(alarm_ps)
            self.end = turn
            assert before_ps <= turn.now_ps == self.scheduler.now_ps()
            before_ps = turn.now_ps
            self._check()
            if isinstance(turn, Rest) or turn.now_ps >= until_ps:
                return self
            if isinstance(turn, Alarm):
                while self.alarms and self.alarms[0][0] <= turn.now_ps:
                    at_ps, number = heapq.heappop(self.alarms)
                    self.scheduler.wake(number, at_ps)
            else:
                self._serve(turn)

    def _serve(self, run: Run) -> None:
        assert self.on[run.pcpu] is self.entities[run.vcpu]
        assert self.scheduler.is_last(run.pcpu)
        assert run.until_ps is None or run.until_ps > run.now_ps
        if not self.left[run.vcpu]:
            self._act(run)
            return
        insns = self.left[run.vcpu]
        if run.until_ps is not None:
            insns = min(insns, -(-(run.until_ps - run.now_ps) // self.ps_per_insn))
        if self.slices:
            insns = min(insns, self.slices[self.runs % len(self.slices)])
        self.runs += 1
        self.left[run.vcpu] -= insns
        self.insns[run.vcpu] += insns
        self.scheduler.ran(run.pcpu, insns * self.ps_per_insn)

    def _act(self, run: Run) -> None:
        # Only now, as the furthest behind: it may touch another vCPU.
        number = run.vcpu
        program = self.specs[number].program
        phase = program[self.phase[number] % len(program)]
        self.phase[number] += 1
        self.left[number] = program[self.phase[number] % len(program)].insns
        if phase.wakes is not None:
            self.scheduler.wake(phase.wakes, run.now_ps)
        if phase.yields is not None:
            self.scheduler.yield_to(number, phase.yields)
        if phase.sleep_ps is not None:
            self.scheduler.block(number)
            self._enter(self.entities[number], run.now_ps, BLOCKED)
            if phase.sleep_ps >= 0:
                heapq.heappush(self.alarms, (run.now_ps + phase.sleep_ps, number))

    # --- what must hold always ---

    def _check(self) -> None:
        on = [entity for entity in self.on if entity is not None]
        assert len(on) == len({entity.name for entity in on})
        for entity in self.entities:
            at_ps = max(self.scheduler.latest_ps(), entity.since_ps)
            assert sum(entity.books(at_ps)) == clock.ns(at_ps)
            # A vCPU that blocked at this very moment may still be current: what the alarm wakes goes before the switch.
            assert entity.run_state in ((RUNNING, BLOCKED) if entity in self.on else (WAITING, BLOCKED))
            if entity.run_state == WAITING and not entity.planned:
                for pcpu in self.scheduler._dispatcher.pcpus:
                    usable = entity.pin in (None, pcpu.number) and not pcpu.planned
                    assert not usable or pcpu.current is not None, f"{entity.name} waits beside idle pCPU {pcpu.number}"

    def own_books(self, entity: Entity, at_ps: int) -> tuple[int, int, int]:
        """ran, stolen and idle nanoseconds, from the log alone."""
        sums = {RUNNING: 0, WAITING: 0, BLOCKED: 0}
        for (begin, state), (end, _) in pairwise([*self.history[entity.name], (at_ps, "")]):
            sums[state] += clock.ns(end) - clock.ns(begin)
        return sums[RUNNING], sums[WAITING], sums[BLOCKED]

    def switches(self) -> list[tuple[object, ...]]:
        return [event for event in self.log if event[0] != "woke"]
