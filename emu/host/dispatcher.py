"""Who gets which pCPU: switches, placement, preemption. It is told the time and never advances it.

Two rules hold whenever it returns: an entity is current on one pCPU at most, and none waits that could use an idle
pCPU. (A pCPU whose hands a script decides is neither: it takes and gives nobody but by the script.)

In Linux: context_switch() and wakeup_preempt() in kernel/sched/core.c, select_idle_sibling() in kernel/sched/fair.c.
"""

from collections.abc import Iterator, Sequence

from emu.host.entity import BLOCKED, RUNNING, WAITING, Entity
from emu.host.pcpu import Pcpu
from emu.host.policy import Policy
from emu.host.runqueue import RunQueue
from emu.host.turn import Observer
from emu.stateful import State


class Dispatcher:
    """The pCPUs, the queue before them, and the policy that chooses."""

    __slots__ = ("observer", "pcpus", "policy", "queue")

    def __init__(self, pcpus: int, policy: Policy, observer: Observer | None) -> None:
        self.pcpus = [Pcpu(number) for number in range(pcpus)]
        self.queue = RunQueue(pcpus)
        self.policy = policy
        self.observer = observer

    def state(self) -> State:
        """The pCPUs, the queue and what the policy remembers."""
        return tuple([p.state() for p in self.pcpus]), self.queue.state(), self.policy.state()

    def load_among(self, state: State, entities: Sequence[Entity]) -> None:
        """Become what `state` says, which names `entities` by their places."""
        pcpus, queue, policy = state
        for p, of_pcpu in zip(self.pcpus, pcpus, strict=True):
            p.load_among(of_pcpu, entities)
        self.queue.load_among(queue, entities)
        self.policy.load(policy)

    def runnable(self) -> Iterator[Entity]:
        """Who waits, and who is current somewhere."""
        yield from self.queue
        for p in self.pcpus:
            if p.current is not None:
                yield p.current

    def fill(self, p: Pcpu, at_ps: int, why: str) -> None:
        """Give an idle pCPU to one of those who wait for it, if any do."""
        if self.queue.competes(p.number):
            self.switch(p, at_ps, self._choice(p), why)

    def decide(self, p: Pcpu, at_ps: int) -> None:
        """Serve what is due on a busy pCPU: its current blocked, a wake-up asks for it, its current yields, or the
        quantum is over."""
        current = p.current
        if current is None:
            return
        competes = self.queue.competes(p.number)
        if current.run_state == BLOCKED:
            self.switch(p, at_ps, self._choice(p) if competes else None, "blocked")
            return
        if p.preempt:
            p.preempt = False
            if competes:
                chosen = self._choice(p)
                if self.policy.preempts(chosen, current):
                    self.switch(p, at_ps, chosen, "preempted")
                    return
        favoured, p.yields_to = p.yields_to, None
        if favoured is not None and self.can_take(p, favoured):
            self.switch(p, at_ps, favoured, "yield")
            return
        if competes and at_ps >= p.end_ps:
            chosen = self._choice(p)
            if self.policy.keeps(current, chosen):
                p.roll(at_ps)
            else:
                self.switch(p, at_ps, chosen, "quantum")

    def switch(self, p: Pcpu, at_ps: int, chosen: Entity | None, why: str) -> None:
        """The pCPU goes from its current to `chosen`, who waits, or to idle. `why` is the observer's."""
        prev = p.current
        involuntary = prev is not None and prev.run_state == RUNNING
        if prev is not None:
            if involuntary:
                prev.change(WAITING, at_ps)
            else:
                self.policy.slept(prev, self.runnable())
            prev.pcpu = None
        p.current = chosen
        p.time_ps = at_ps
        p.preempt = False
        p.yields_to = None
        if chosen is not None:
            if chosen in self.queue:
                self.queue.remove(chosen)
            chosen.change(RUNNING, at_ps)
            chosen.pcpu = p.number
            if not p.planned:
                p.quantum_ps = self.policy.quantum_ps()
                p.end_ps = at_ps + p.quantum_ps
        if self.observer is not None:
            self.observer.switched(p.number, at_ps, prev, chosen, why, involuntary)
        if prev is not None and involuntary and not prev.planned:
            self.admit(prev, at_ps, why)

    def take_away(self, p: Pcpu, ps: int) -> None:
        """The pCPU's current waits for `ps`, in which nobody has the pCPU, and gets it back."""
        prev = p.current
        if prev is None:
            return
        prev.change(WAITING, p.time_ps)
        prev.pcpu = p.current = None
        if self.observer is not None:
            self.observer.switched(p.number, p.time_ps, prev, None, "away", True)
        self.switch(p, p.time_ps + ps, prev, "back")

    def admit(self, entity: Entity, at_ps: int, why: str) -> bool:
        """A waiting entity goes to the lowest idle pCPU it may use, or into the queue. Whether it runs at once."""
        usable = self.pcpus if entity.pin is None else self.pcpus[entity.pin : entity.pin + 1]
        for p in usable:
            if p.current is None and not p.planned:
                self.switch(p, max(at_ps, p.time_ps), entity, why)
                return True
        for p in usable:
            if not p.planned and not self.queue.competes(p.number):
                p.roll(at_ps)
        self.queue.add(entity)
        return False

    def wake(self, entity: Entity, at_ps: int) -> None:
        """A blocked entity becomes runnable: it runs at once, preempts, or waits."""
        # Blocked, but not yet switched off: it has never left its pCPU and goes on there.
        at_home = entity.pcpu is not None
        entity.change(RUNNING if at_home else WAITING, at_ps)
        if self.observer is not None:
            self.observer.woke(entity, at_ps)
        if at_home or entity.planned:
            return
        for p in self.pcpus:
            self.work(p, at_ps)
        self.policy.woke(entity, self.runnable())
        if not self.admit(entity, at_ps, "wake"):
            self._preempt_for(entity)

    def work(self, p: Pcpu, at_ps: int) -> None:
        """Bring a pCPU forward to `at_ps` if it runs a host task."""
        entity = p.current
        if entity is None or entity.is_vcpu:
            return
        ps = at_ps - p.time_ps
        p.time_ps = at_ps
        if entity.work_ps is not None:
            entity.work_ps -= ps
        self.policy.ran(entity, ps)

    def can_take(self, p: Pcpu, entity: Entity) -> bool:
        """Whether `entity` waits, and may run on this pCPU, whose hands no script decides."""
        return not p.planned and entity in self.queue and entity.pin in (None, p.number)

    def _choice(self, p: Pcpu) -> Entity:
        return self.policy.choose(self.queue.allowed(p.number))

    def _preempt_for(self, woken: Entity) -> None:
        victim: Pcpu | None = None
        most = 0
        for p in self.pcpus if woken.pin is None else self.pcpus[woken.pin : woken.pin + 1]:
            if p.current is None or p.planned or not self.policy.preempts(woken, p.current):
                continue
            if victim is None or p.current.vruntime > most:
                victim, most = p, p.current.vruntime
        if victim is not None:
            victim.preempt = True
