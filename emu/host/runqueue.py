"""The run queue: who waits for a pCPU, in order of arrival. One for all pCPUs, with pinned entities among the rest.

In Linux: struct rq and struct cfs_rq in kernel/sched/sched.h (one per CPU there, with a load balancer between them).
"""

from collections.abc import Iterator, Sequence

from emu.host.entity import Entity
from emu.stateful import State


class RunQueue:
    """The waiting entities a policy may choose from. Asking whether anyone waits for a pCPU costs nothing."""

    __slots__ = ("_entities", "_free", "_pinned")

    def __init__(self, pcpus: int) -> None:
        self._entities: dict[Entity, None] = {}
        self._free = 0
        self._pinned = [0] * pcpus

    def __iter__(self) -> Iterator[Entity]:
        return iter(self._entities)

    def __contains__(self, entity: Entity) -> bool:
        return entity in self._entities

    def state(self) -> State:
        """Who waits, in order of arrival, each by its place among all entities."""
        return tuple([entity.order for entity in self._entities])

    def load_among(self, state: State, entities: Sequence[Entity]) -> None:
        """Let those of `entities` wait whom `state` names, and nobody else."""
        for entity in list(self._entities):
            self.remove(entity)
        for order in state:
            self.add(entities[order])

    def add(self, entity: Entity) -> None:
        self._entities[entity] = None
        self._count(entity, 1)

    def remove(self, entity: Entity) -> None:
        """Raises KeyError where it does not wait."""
        del self._entities[entity]
        self._count(entity, -1)

    def competes(self, pcpu: int) -> bool:
        """Whether any waiting entity may run on this pCPU."""
        return self._free > 0 or self._pinned[pcpu] > 0

    def allowed(self, pcpu: int) -> Iterator[Entity]:
        """Those that may run on this pCPU, in order of arrival."""
        return (entity for entity in self._entities if entity.pin is None or entity.pin == pcpu)

    def _count(self, entity: Entity, by: int) -> None:
        if entity.pin is None:
            self._free += by
        else:
            self._pinned[entity.pin] += by
