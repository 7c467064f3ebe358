"""Host tasks: what competes with vCPUs for the pCPUs, and the grammar they are written in.

A task is work that arrives in pieces. `busy` is one piece without end; `periodic` gets a piece of `run` at each
multiple of `period` after `phase`; `bursty` sleeps `off` after each finished piece of `on`. Work is measured in time on
a pCPU, so a task that is kept waiting finishes later. A periodic task that is late works its missed releases off one
after another: over a long time it asks for run/period of a pCPU, however unevenly it was served.
"""

from typing import NamedTuple

from emu import clock
from emu.faults import HostError

MAX_WEIGHT = 10_000  # as cpu.weight of a control group: kernel/sched/sched.h, CGROUP_WEIGHT_MAX


class Busy(NamedTuple):
    """Always runnable."""

    weight: int = 1
    pcpu: int | None = None

    @property
    def work_ps(self) -> int | None:
        return None

    def release_ps(self, piece: int, done_ps: int) -> int:
        """When piece number `piece` becomes runnable, the one before it having been finished at `done_ps`."""
        return done_ps


class Periodic(NamedTuple):
    """`run_ps` of work at `phase_ps`, and again every `period_ps`, whether the last piece was done by then or not."""

    period_ps: int
    run_ps: int
    phase_ps: int = 0
    weight: int = 1
    pcpu: int | None = None

    @property
    def work_ps(self) -> int | None:
        return self.run_ps

    def release_ps(self, piece: int, done_ps: int) -> int:
        """When piece number `piece` becomes runnable; before `done_ps` where the task is late."""
        return self.phase_ps + piece * self.period_ps


class Bursty(NamedTuple):
    """`on_ps` of work from time 0; `off_ps` of sleep once it is done; and so on."""

    on_ps: int
    off_ps: int
    weight: int = 1
    pcpu: int | None = None

    @property
    def work_ps(self) -> int | None:
        return self.on_ps

    def release_ps(self, piece: int, done_ps: int) -> int:
        """When piece number `piece` becomes runnable, the one before it having been finished at `done_ps`."""
        return done_ps + self.off_ps if piece else done_ps


Task = Busy | Periodic | Bursty

# kind: the parts that must be given, then those that may be
_GRAMMAR: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "busy": ((), ("weight", "pcpu")),
    "periodic": (("period", "run"), ("phase", "weight", "pcpu")),
    "bursty": (("on", "off"), ("weight", "pcpu")),
}


def parse_task(text: str, where: str = "") -> Task:
    """The task written as `kind` or `kind:part=value,...`, such as `busy:weight=2` or `periodic:period=10ms,run=3ms`.

    Raises HostError at `where`, naming the part that cannot be used and what is known instead.
    """
    kind, colon, rest = text.partition(":")
    if kind not in _GRAMMAR:
        raise HostError(f"no kind of task is called {kind!r}", where, f"known are {', '.join(_GRAMMAR)}")
    required, optional = _GRAMMAR[kind]
    known = required + optional
    given: dict[str, int] = {}
    for part in rest.split(",") if colon else ():
        name, equals, value = part.partition("=")
        if not equals or name not in known:
            raise HostError(
                f"a {kind} task has no part {part!r}", where, f"known are {', '.join(f'{n}=' for n in known)}"
            )
        if name in given:
            raise HostError(f"the {kind} task's {name} is given twice", where, "give it once")
        given[name] = _number(name, value, where) if name in ("weight", "pcpu") else _duration(name, value, where)
    for name in required:
        if name not in given:
            raise HostError(f"a {kind} task needs {name}=", where, f"known are {', '.join(f'{n}=' for n in known)}")
    weight, pcpu = given.get("weight", 1), given.get("pcpu")
    if kind == "busy":
        return Busy(weight, pcpu)
    if kind == "bursty":
        return Bursty(given["on"], given["off"], weight, pcpu)
    if given["run"] > given["period"]:
        raise HostError(
            "the periodic task's run is longer than its period", where, "write busy for a task that never sleeps"
        )
    return Periodic(given["period"], given["run"], given.get("phase", 0), weight, pcpu)


def _duration(name: str, value: str, where: str) -> int:
    if name == "phase" and value == "0":
        return 0
    try:
        ps = clock.parse_duration(value)
    except ValueError:
        ps = -1
    if ps < 0 or (ps == 0 and name != "phase"):
        raise HostError(
            f"{name}={value} is not a duration a task can have",
            where,
            "write a whole number with ns, us, ms or s, such as 10ms",
        )
    return ps


def _number(name: str, value: str, where: str) -> int:
    if name == "weight":
        lowest, highest = 1, MAX_WEIGHT
    else:
        lowest, highest = 0, MAX_WEIGHT
    if not (value.isascii() and value.isdecimal() and len(value) <= 9 and lowest <= int(value) <= highest):
        raise HostError(f"{name}={value} cannot be used", where, f"write a whole number from {lowest} to {highest}")
    return int(value)
