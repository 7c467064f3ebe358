"""Who is next, and for how long: round robin, fair, random. Scripts have a file of their own.

A policy owns nothing of the run queue. The scheduler asks it whom to take of those waiting, how long the quantum is,
and, where the policy cares, tells it who ran, slept and woke.

In Linux: struct sched_class in kernel/sched/sched.h; kernel/sched/fair.c for Fair, kernel/sched/rt.c for RoundRobin.
"""

from collections.abc import Iterable, Iterator

from emu.faults import HostError
from emu.host.entity import Entity
from emu.stateful import Stateful

NAMES = ("round-robin", "fair", "random", "script")
DEFAULT_QUANTUM_PS = 10**8
VRUNTIME_SCALE = 10_000  # the greatest weight: one picosecond of the heaviest entity still counts


class Policy(Stateful):
    """What a policy answers; the defaults are those of one that neither weighs nor preempts."""

    def __init__(self, quantum_ps: int = DEFAULT_QUANTUM_PS) -> None:
        """Raises HostError where `quantum_ps` is not a positive number of picoseconds."""
        if quantum_ps < 1:
            raise HostError(
                f"a quantum of {quantum_ps} ps ends before it began", remedy="give a positive duration such as 100us"
            )
        self._quantum_ps = quantum_ps

    def quantum_ps(self) -> int:
        """The length of the quantum that begins now; the scheduler asks once per switch."""
        return self._quantum_ps

    def choose(self, waiting: Iterator[Entity]) -> Entity:
        """One of `waiting`, which are in order of arrival and at least one."""
        return next(waiting)

    def keeps(self, current: Entity, chosen: Entity) -> bool:
        """Whether `current`, its quantum over, runs on although `chosen` waits."""
        return False

    def preempts(self, woken: Entity, current: Entity) -> bool:
        """Whether `woken` takes the pCPU from `current` before its quantum is over."""
        return False

    def ran(self, entity: Entity, ps: int) -> None:
        """`entity` has run for `ps`. However a run is cut into calls, the sum decides."""

    def slept(self, entity: Entity, runnable: Iterable[Entity]) -> None:
        """`entity` blocked and leaves; it is still among `runnable`."""

    def woke(self, entity: Entity, runnable: Iterable[Entity]) -> None:
        """`entity` becomes runnable beside those that are."""


class RoundRobin(Policy):
    """First come, first served, one quantum each; who is taken off goes to the tail."""


class Fair(Policy):
    """Weighted virtual run time: the least runs, ties in order of creation.

    Virtual run time is time on a pCPU divided by weight. A sleeper comes back no further behind the least of the others
    than half a quantum of its own running, so sleep is not saved up; and it preempts only one that is ahead of
    it by more than a quarter, so that a wake-up is not always a switch.

    In Linux: place_entity(), pick_next_entity() and check_preempt_wakeup_fair() in kernel/sched/fair.c.
    """

    fields = ("_floor",)

    def __init__(self, quantum_ps: int = DEFAULT_QUANTUM_PS) -> None:
        super().__init__(quantum_ps)
        self._floor = 0

    def choose(self, waiting: Iterator[Entity]) -> Entity:
        return min(waiting, key=_rank)

    def keeps(self, current: Entity, chosen: Entity) -> bool:
        return _rank(current) < _rank(chosen)

    def preempts(self, woken: Entity, current: Entity) -> bool:
        return woken.vruntime + self._worth(self._quantum_ps // 4, woken) < current.vruntime

    def ran(self, entity: Entity, ps: int) -> None:
        # The rest is kept, so that the sum does not depend on how often the vCPU stopped on the way.
        gained, entity.vruntime_rest = divmod(ps * VRUNTIME_SCALE + entity.vruntime_rest, entity.weight)
        entity.vruntime += gained

    def slept(self, entity: Entity, runnable: Iterable[Entity]) -> None:
        self._raise_floor(runnable)

    def woke(self, entity: Entity, runnable: Iterable[Entity]) -> None:
        self._raise_floor(runnable)
        entity.vruntime = max(entity.vruntime, self._floor - self._worth(self._quantum_ps // 2, entity))

    def _worth(self, ps: int, entity: Entity) -> int:
        return ps * VRUNTIME_SCALE // entity.weight

    def _raise_floor(self, runnable: Iterable[Entity]) -> None:
        # Never lowered: the one that was least may leave, and who comes back later must not profit from that.
        self._floor = max(self._floor, min((entity.vruntime for entity in runnable), default=self._floor))


class Random(Policy):
    """Uniformly chosen among the waiting, for half a quantum to one and a half. The seed determines everything."""

    parts = ("_draws",)

    def __init__(self, quantum_ps: int = DEFAULT_QUANTUM_PS, seed: int = 0) -> None:
        from emu.host.draws import Draws

        super().__init__(quantum_ps)
        self._draws = Draws(seed)

    def quantum_ps(self) -> int:
        return max(1, self._quantum_ps // 2 + self._draws.below(self._quantum_ps + 1))

    def choose(self, waiting: Iterator[Entity]) -> Entity:
        candidates = list(waiting)
        return candidates[self._draws.below(len(candidates))]


def policy_from(
    name: str, quantum_ps: int = DEFAULT_QUANTUM_PS, seed: int = 0, script: Policy | None = None, where: str = ""
) -> Policy:
    """The policy of that name; `script` is what `parse_script` made of the file, for the policy `script` alone.

    Raises HostError at `where` for an unknown name, an impossible quantum, or a script that is missing or not wanted.
    """
    if name not in NAMES:
        raise HostError(f"no policy is called {name!r}", where, f"known are {', '.join(NAMES)}")
    if name == "script":
        if script is None:
            raise HostError("the policy script needs a script", where, "name the file that says who runs when")
        return script
    if script is not None:
        raise HostError(
            f"the policy {name} follows no script", where, "choose the policy script, or leave the script away"
        )
    if name == "random":
        return Random(quantum_ps, seed)
    return Fair(quantum_ps) if name == "fair" else RoundRobin(quantum_ps)


def _rank(entity: Entity) -> tuple[int, int]:
    return entity.vruntime, entity.order
