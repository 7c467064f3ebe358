"""A script being followed: whose line it is on each pCPU, and what becomes of those it names when it is over."""

from collections.abc import Sequence

from emu import clock
from emu.faults import HostError
from emu.host.dispatcher import Dispatcher
from emu.host.entity import BLOCKED, WAITING, Entity
from emu.host.pcpu import Pcpu
from emu.host.script import Script


class Plan:
    """`script` on the pCPUs of `dispatcher`, over `entities`. Until it is over they, and it alone, decide there.

    Raises HostError at a line's place where the line names what there is not, or contradicts a pin.
    """

    __slots__ = ("_dispatcher", "_entities", "_script")

    def __init__(self, script: Script, dispatcher: Dispatcher, entities: Sequence[Entity]) -> None:
        self._script = script
        self._dispatcher = dispatcher
        self._entities = {entity.name: entity for entity in entities}
        for line in script.lines:
            entity = self._entities.get(line.who)
            if entity is None or not 0 <= line.pcpu < len(dispatcher.pcpus):
                message = f"there is no {line.who}" if entity is None else f"there is no pCPU {line.pcpu}"
                raise HostError(message, line.where, "name what the machine has")
            if entity.pin not in (None, line.pcpu):
                message = f"{line.who} is pinned to pCPU {entity.pin}"
                raise HostError(message, line.where, "name that pCPU, or do not pin it")
            entity.planned = True
            dispatcher.pcpus[line.pcpu].planned = True

    def follow(self, p: Pcpu, at_ps: int) -> None:
        """Serve what is due on a planned pCPU: its line is over, or who it belongs to blocked.

        Raises HostError where a line begins whose entity is blocked.
        """
        current = p.current
        if current is not None and current.run_state == BLOCKED:
            # The rest of its line, if any is left, passes idle.
            self._dispatcher.switch(p, at_ps, None, "blocked")
            current = None
        if at_ps < p.end_ps:
            return
        slot = self._script.slot(p.number, at_ps)
        if slot is None:
            self._end(p, at_ps)
            return
        p.end_ps = slot.end_ps
        entity = None if slot.line is None else self._entities[slot.line.who]
        if entity is current:
            return
        if slot.line is not None and entity is not None:
            if entity.run_state == BLOCKED:
                message = f"{entity.name} is blocked at {clock.ns(at_ps)} ns, where this line begins"
                raise HostError(message, slot.line.where, "name it only while it is runnable")
            if entity.pcpu is not None:
                # Its line on the other pCPU is over, but it is still inside an instruction there: try again then.
                p.end_ps = max(at_ps, self._dispatcher.pcpus[entity.pcpu].time_ps)
                entity = None
        if entity is not current:
            self._dispatcher.switch(p, at_ps, entity, "script")

    def _end(self, p: Pcpu, at_ps: int) -> None:
        dispatcher = self._dispatcher
        current = p.current
        p.planned = False
        for entity in sorted(self._entities.values(), key=lambda entity: (entity.since_ps, entity.order)):
            if entity.planned:
                entity.planned = False
                if entity.run_state == WAITING:
                    dispatcher.admit(entity, at_ps, "script")
        if current is not None:
            # Its last line was its quantum: over now, if anyone waits.
            p.quantum_ps = dispatcher.policy.quantum_ps()
            p.end_ps = at_ps
            dispatcher.decide(p, at_ps)
            p.roll(at_ps)
        elif p.current is None:
            dispatcher.fill(p, at_ps, "script")
