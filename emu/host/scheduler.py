"""The host's scheduler: who runs on which pCPU, from when to when, in virtual time.

It moves from event to event: a wake-up, the end of a quantum, of a task's work, of a script's line. Each carries its
own time and is served when no vCPU is behind it, so nothing is decided on what has not happened yet. Of the pCPUs
that run vCPUs the one furthest behind acts next (ties: lowest number), and where there are several, for `interleave_ps`
at most. A pCPU that runs a host task needs no such steps: nothing is known of a task but when its work ends.

In Linux: __schedule() and try_to_wake_up() in kernel/sched/core.c.
"""

import heapq

from emu.faults import HostError
from emu.host.dispatcher import Dispatcher
from emu.host.entity import BLOCKED, RUNNING, WAITING, Books, Entity
from emu.host.pcpu import NEVER, Pcpu
from emu.host.plan import Plan
from emu.host.policy import Policy
from emu.host.script import Script
from emu.host.task import Task
from emu.host.turn import Alarm, Observer, Rest, Run, Turn
from emu.stateful import State, Stateful

INTERLEAVE_PS = 10**6


class Scheduler(Stateful):
    """`pcpus` physical CPUs under `policy`. First add all vCPUs and tasks, then call `next` and do as it says.

    Times are picoseconds of virtual time. Raises HostError where there is no pCPU, or `interleave_ps` is not positive.
    """

    fields = ("_now_ps", "_awake", "_started")

    def __init__(
        self, pcpus: int, policy: Policy, interleave_ps: int = INTERLEAVE_PS, observer: Observer | None = None
    ) -> None:
        if pcpus < 1:
            raise HostError(f"a host of {pcpus} pCPUs runs nothing", remedy="give it at least one")
        if interleave_ps < 1:
            raise HostError(
                f"an interleave of {interleave_ps} ps lets no vCPU proceed",
                remedy="give a positive duration such as 1us",
            )
        self.policy = policy
        self.vcpus: list[Entity] = []
        self.tasks: list[Entity] = []
        self._entities: list[Entity] = []  # both, in order of creation
        self._dispatcher = Dispatcher(pcpus, policy, observer)
        self._pcpus = self._dispatcher.pcpus
        self._queue = self._dispatcher.queue
        self._plan: Plan | None = None
        self._interleave_ps = interleave_ps
        # Wake-ups on their way: (when, tie-breaker, whom, which of its sleeps). Stale ones are dropped when met.
        self._wakes: list[tuple[int, int, Entity, int]] = []
        self._wakes_made = 0
        self._now_ps = 0
        # vCPUs that are runnable, or will be without help from outside.
        self._awake = 0
        self._started = False

    # --- what there is ---

    def add_vcpu(self, *, pcpu: int | None = None, weight: int = 1, blocked: bool = False) -> Entity:
        """A vCPU, runnable from time 0 on, or blocked until it is woken. Raises HostError for a pCPU there is not."""
        entity = self._entity(len(self.vcpus), None, pcpu, weight, blocked)
        self.vcpus.append(entity)
        self._awake += not blocked
        return entity

    def add_task(self, task: Task) -> Entity:
        """A host task. Raises HostError for a pCPU there is not."""
        entity = self._entity(len(self.tasks), task, task.pcpu, task.weight, task.release_ps(0, 0) > 0)
        self.tasks.append(entity)
        return entity

    def now_ps(self) -> int:
        """How far the whole host has come: the time of the last decision. No vCPU that runs is behind it."""
        return self._now_ps

    def pcpu_ps(self, pcpu: int) -> int:
        """The local time of a pCPU; that of the whole host where it runs no vCPU."""
        return max(self._pcpus[pcpu].time_ps, self._now_ps)

    def latest_ps(self) -> int:
        """The local time of the pCPU that is furthest ahead: the end of a run in which all have ended."""
        return max(self._now_ps, *(p.time_ps for p in self._pcpus))

    @property
    def awake(self) -> bool:
        """Whether any vCPU is runnable, or will be without help from outside."""
        return self._awake > 0

    def is_last(self, pcpu: int) -> bool:
        """Whether no pCPU that runs a vCPU is behind this one, so that it cannot see or touch another's past."""
        time_ps = self._pcpus[pcpu].time_ps
        return all(p.current is None or not p.current.is_vcpu or p.time_ps >= time_ps for p in self._pcpus)

    def books(self, vcpu: int) -> Books:
        """A vCPU's books at its own time: that of the pCPU that has it, or of the whole host."""
        entity = self.vcpus[vcpu]
        return entity.books(self._now_ps if entity.pcpu is None else self.pcpu_ps(entity.pcpu))

    # --- what the driver reports ---

    def ran(self, pcpu: int, ps: int) -> None:
        """The vCPU on this pCPU has used `ps`, 0 or more. Raises ValueError where none runs there."""
        p = self._pcpus[pcpu]
        entity = p.current
        if entity is None or not entity.is_vcpu or entity.run_state != RUNNING or ps < 0:
            raise ValueError(f"{entity} cannot have run for {ps} ps on pCPU {pcpu}")
        p.time_ps += ps
        self.policy.ran(entity, ps)

    def block(self, vcpu: int) -> None:
        """This vCPU blocks (HLT): at its pCPU's time where it runs, now where it waits.

        Raises ValueError where it is blocked already.
        """
        entity = self.vcpus[vcpu]
        if entity.run_state == BLOCKED:
            raise ValueError(f"{entity.name} is blocked already")
        if entity.pcpu is not None:
            entity.change(BLOCKED, self._pcpus[entity.pcpu].time_ps)
        else:
            entity.change(BLOCKED, max(self._now_ps, entity.since_ps))
            if entity in self._queue:
                self.policy.slept(entity, self._dispatcher.runnable())
                self._queue.remove(entity)
        entity.sleeps += 1
        self._awake -= 1

    def wake(self, vcpu: int, at_ps: int) -> None:
        """This vCPU becomes runnable at `at_ps`, and waits from then; nothing where it is not blocked.

        What comes too late is counted from now, or from where it blocked. Of several the earliest holds.
        """
        entity = self.vcpus[vcpu]
        if entity.run_state != BLOCKED:
            return
        if not entity.awaited:
            entity.awaited = True
            self._awake += 1
        self._wake_at(entity, max(at_ps, entity.since_ps, self._now_ps))

    def yield_to(self, vcpu: int, other: int) -> bool:
        """This vCPU, which runs, asks that `other` have its pCPU next; whether that one waits and may use it.

        The switch comes with the pCPU's next decision, if `other` is still ready then; until the vCPU is chosen again
        it waits, like one that was preempted. Nothing happens where a script decides.
        """
        entity, favoured = self.vcpus[vcpu], self.vcpus[other]
        if entity.pcpu is None or entity.run_state != RUNNING:
            return False
        p = self._pcpus[entity.pcpu]
        if not self._dispatcher.can_take(p, favoured):
            return False
        p.yields_to = favoured
        return True

    def favour(self, pcpu: int, name: str) -> None:
        """A decision made from outside: with its next one this pCPU goes to the vCPU or task of that name, who waits.

        Raises HostError where there is no such pCPU or nobody of that name, or it does not wait for this pCPU.
        """
        if not 0 <= pcpu < len(self._pcpus):
            raise HostError(f"there is no pCPU {pcpu}", remedy=f"the host has {len(self._pcpus)}, numbered from 0")
        p = self._pcpus[pcpu]
        favoured = next((entity for entity in self._entities if entity.name == name), None)
        if favoured is None:
            known = ", ".join(entity.name for entity in self._entities)
            raise HostError(f"there is no {name!r} on this host", remedy=f"there are {known}")
        if p.current is None or not self._dispatcher.can_take(p, favoured):
            raise HostError(f"{name} does not wait for pCPU {pcpu}", remedy="name one of those who wait")
        p.yields_to = favoured

    def take_away(self, pcpu: int, ps: int) -> None:
        """A decision made from outside: the vCPU on this pCPU waits for `ps`, as if the host ran something else.

        Raises HostError where there is no such pCPU, no vCPU runs there, or somebody waits for it.
        """
        if not 0 <= pcpu < len(self._pcpus):
            raise HostError(f"there is no pCPU {pcpu}", remedy=f"the host has {len(self._pcpus)}, numbered from 0")
        p = self._pcpus[pcpu]
        entity = p.current
        if entity is None or not entity.is_vcpu or entity.run_state != RUNNING or p.planned:
            raise HostError(f"no vCPU runs on pCPU {pcpu} that could be made to wait", remedy="go to where one does")
        if self._queue.competes(pcpu):
            raise HostError(f"somebody waits for pCPU {pcpu}, and would get it", remedy="give it to one of them")
        self._dispatcher.take_away(p, ps)
        self._now_ps = max(self._now_ps, p.time_ps)

    def waiting_for(self, pcpu: int) -> tuple[str, ...]:
        """Who could be favoured on this pCPU, which somebody else has."""
        p = self._pcpus[pcpu]
        if p.current is None:
            return ()
        return tuple([entity.name for entity in self._entities if self._dispatcher.can_take(p, entity)])

    def favoured(self) -> tuple[str, ...]:
        """Who is to be given a pCPU with its next decision, because somebody wants it."""
        return tuple([p.yields_to.name for p in self._pcpus if p.yields_to is not None])

    # --- what it is, and to become it again ---

    def state(self) -> State:
        # The tie-breakers of wake-ups say only in which order they were made: sorted by them, they need not be told.
        wakes = tuple([(at_ps, entity.order, sleep) for at_ps, _, entity, sleep in sorted(self._wakes)])
        entities = tuple([entity.state() for entity in self._entities])
        return (*super().state(), entities, self._dispatcher.state(), wakes)

    def load(self, state: State) -> None:
        *own, entities, dispatcher, wakes = state
        super().load(tuple(own))
        self._plan = self._followed() if self._started else None
        for entity, of_entity in zip(self._entities, entities, strict=True):
            entity.load(of_entity)
        self._dispatcher.load_among(dispatcher, self._entities)
        self._wakes = [(at, n, self._entities[order], sleep) for n, (at, order, sleep) in enumerate(wakes, 1)]
        self._wakes_made = len(wakes)

    # --- the loop ---

    def next(self, alarm_ps: int | None) -> Turn:
        """Advance host tasks and decisions up to the next thing the driver must do; `alarm_ps` is its earliest timer.

        Raises HostError where the script cannot be followed.
        """
        if not self._started:
            self._start()
        alarm = NEVER if alarm_ps is None else min(alarm_ps, NEVER)
        while True:
            if not self._awake and alarm_ps is None and self._settled():
                return Rest(self._now_ps)

            first: Pcpu | None = None
            first_at = NEVER, 0
            runner: Pcpu | None = None  # the vCPU furthest behind that has nothing to decide
            runners = 0
            for p in self._pcpus:
                due = p.due_ps(self._queue)
                current = p.current
                if current is not None and current.is_vcpu:
                    runners += 1
                    if due > p.time_ps:
                        if runner is None or p.time_ps < runner.time_ps:
                            runner = p
                        # Its own decision is a bound for itself alone, seen to below.
                        continue
                    due = p.time_ps
                # At the same time pCPUs let go before idle ones take: a script may hand a vCPU from one to another.
                at = due, current is None
                if at < first_at:
                    first, first_at = p, at

            decision_ps = first_at[0]
            wake_ps = self._wakes[0][0] if self._wakes else NEVER
            event_ps = min(wake_ps, decision_ps, alarm)
            if runner is not None and runner.time_ps < event_ps:
                return self._run(runner, event_ps, runners)
            if wake_ps == event_ps < NEVER:
                self._wake_up()
            elif alarm == event_ps and alarm_ps is not None:
                self._now_ps = max(self._now_ps, alarm)
                return Alarm(self._now_ps)
            elif first is not None:
                self._now_ps = max(self._now_ps, decision_ps)
                self._decide(first, decision_ps)
            else:
                raise RuntimeError("a vCPU is runnable, yet no pCPU can take it")

    def _run(self, p: Pcpu, event_ps: int, runners: int) -> Run:
        self._now_ps = max(self._now_ps, p.time_ps)
        until = min(event_ps, p.due_ps(self._queue))
        if runners > 1:
            until = min(until, p.time_ps + self._interleave_ps)
        assert p.current is not None
        return Run(p.number, p.current.number, p.time_ps, None if until >= NEVER else until)

    def _settled(self) -> bool:
        # A vCPU that has just halted is still current: its pCPU owes a switch, which the observer is to see.
        return all(p.current is None or not p.current.is_vcpu for p in self._pcpus)

    def _start(self) -> None:
        self._started = True
        entities = (*self.vcpus, *self.tasks)
        self._plan = self._followed()
        for entity in entities:
            if entity.run_state == WAITING and not entity.planned:
                self._queue.add(entity)
            elif entity.run_state == BLOCKED and entity.task is not None:
                self._wake_at(entity, entity.task.release_ps(0, 0))
        for p in self._pcpus:
            if not p.planned:
                self._dispatcher.fill(p, 0, "start")

    def _followed(self) -> Plan | None:
        if not isinstance(self.policy, Script):
            return None
        return self._plan or Plan(self.policy, self._dispatcher, self._entities)

    def _decide(self, p: Pcpu, at_ps: int) -> None:
        current = p.current
        if current is not None and current.task is not None:
            self._dispatcher.work(p, at_ps)
            if current.work_ps == 0:
                self._finish_piece(current, current.task, at_ps)
        if p.planned and self._plan is not None:
            self._plan.follow(p, at_ps)
        else:
            self._dispatcher.decide(p, at_ps)

    # --- tasks and wake-ups ---

    def _finish_piece(self, entity: Entity, task: Task, at_ps: int) -> None:
        entity.piece += 1
        entity.work_ps = task.work_ps
        release_ps = task.release_ps(entity.piece, at_ps)
        if release_ps > at_ps:
            entity.change(BLOCKED, at_ps)
            entity.sleeps += 1
            self._wake_at(entity, release_ps)

    def _wake_at(self, entity: Entity, at_ps: int) -> None:
        self._wakes_made += 1
        heapq.heappush(self._wakes, (at_ps, self._wakes_made, entity, entity.sleeps))

    def _wake_up(self) -> None:
        at_ps, _, entity, sleep = heapq.heappop(self._wakes)
        if entity.run_state == BLOCKED and entity.sleeps == sleep:
            self._now_ps = max(self._now_ps, at_ps)
            entity.awaited = False
            self._dispatcher.wake(entity, at_ps)

    def _entity(self, number: int, task: Task | None, pcpu: int | None, weight: int, blocked: bool) -> Entity:
        if self._started:
            raise ValueError("the host has started: add vCPUs and tasks before")
        if pcpu is not None and not 0 <= pcpu < len(self._pcpus):
            raise HostError(
                f"there is no pCPU {pcpu} to pin to", remedy=f"the host has {len(self._pcpus)}, numbered from 0"
            )
        if weight < 1:
            raise HostError(f"a weight of {weight} cannot be served", remedy="give a positive one")
        order = len(self._entities)
        entity = Entity(number, order, task=task, pin=pcpu, weight=weight, blocked=blocked)
        self._entities.append(entity)
        return entity
