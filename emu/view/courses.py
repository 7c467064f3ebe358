"""Who ran, waited or slept when, and where the updates fell: enough of a whole run to draw any part of it.

It listens to the host's doings alone, which are few, so a long run costs little.
"""

import bisect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from emu.history.history import History
from emu.trace import Event, ExitEvent, Store, Switch, Wake

SURVEYED = 1 << 24  # positions: a second or so
RUNS, WAITS, SLEEPS = "█", "░", " "
UPDATE, ODD, EXIT = "▲", "▔", "·"


class Lane(NamedTuple):
    """One line of a timeline: its name, and one character for each column."""

    name: str
    marks: str


class Courses:
    """A sink of the events of a run; `waiting` are the names of those that are runnable from the beginning."""

    def __init__(self, waiting: list[str]) -> None:
        self._changes: dict[str, tuple[list[int], list[str]]] = {name: ([0], [WAITS]) for name in waiting}
        self._updates: dict[int, list[int]] = {}
        self._parity: dict[int, tuple[list[int], list[bool]]] = {}
        self._exits: dict[int, list[int]] = {}
        self._states = States()
        self.end_ns = 0

    def __call__(self, event: Event) -> None:
        self.end_ns = max(self.end_ns, event.t)
        for name, state in self._states(event):
            self._enter(name, state, event.t)
        if isinstance(event, ExitEvent):
            self._exits.setdefault(event.vcpu, []).append(event.t)
        elif isinstance(event, Store) and event.area == "steal-time" and event.step in ("odd", "even"):
            times, odd = self._parity.setdefault(event.vcpu, ([0], [False]))
            times.append(event.t)
            odd.append(event.step == "odd")
            if event.step == "even":
                self._updates.setdefault(event.vcpu, []).append(event.t)

    def lanes(self, first_ns: int, column_ns: int, width: int) -> list[Lane]:
        """For each vCPU and task what it did from `first_ns` on; of each vCPU also exits and updates."""
        found = []
        for name, (times, states) in self._changes.items():
            marks = []
            for column in range(width):
                at = first_ns + column * column_ns
                beyond = at > self.end_ns
                marks.append(" " if beyond else states[bisect.bisect_right(times, at) - 1])
            found.append(Lane(name, "".join(marks)))
            if name.startswith("vcpu"):
                number = int(name[4:])
                if number in self._parity or number in self._exits:
                    found.append(Lane("area", self._area(number, first_ns, column_ns, width)))
        return found

    def _area(self, number: int, first_ns: int, column_ns: int, width: int) -> str:
        times, odd = self._parity.get(number, ([0], [False]))
        updates, exits = self._updates.get(number, []), self._exits.get(number, [])
        marks = []
        for column in range(width):
            at = first_ns + column * column_ns
            inside = odd[bisect.bisect_right(times, at) - 1]
            calm = EXIT if _within(exits, at, column_ns) else " "
            marks.append(UPDATE if _within(updates, at, column_ns) else ODD if inside else calm)
        return "".join(marks)

    def _enter(self, name: str, state: str, at: int) -> None:
        times, states = self._changes.setdefault(name, ([0], [SLEEPS]))
        if times[-1] == at:
            states[-1] = state
        else:
            times.append(at)
            states.append(state)


def _within(times: list[int], first_ns: int, column_ns: int) -> bool:
    """Whether one of these times, which ascend, falls into a column."""
    return bisect.bisect_left(times, first_ns) < bisect.bisect_left(times, first_ns + column_ns)


def waiting(config: Mapping[str, Any]) -> list[str]:
    """The names of the vCPUs that want to run from the beginning."""
    return [f"vcpu{number}" for number in range(config["vcpus"] if config["start"] == "all" else 1)]


class States:
    """Tells, event by event, who begins to run, to wait or to sleep."""

    def __init__(self) -> None:
        self._now: dict[str, str] = {}

    def __call__(self, event: Event) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        if isinstance(event, Wake):
            if self._now.get(event.who, SLEEPS) == SLEEPS:  # else it was woken while it blocked, and has kept its pCPU
                found = [(event.who, WAITS)]
        elif isinstance(event, Switch):
            ends = (event.prev, SLEEPS if event.why == "blocked" else WAITS), (event.next, RUNS)
            found = [one for one in ends if one[0] != "idle"]
        self._now.update(found)
        return found


def survey(history: History, heartbeat: Callable[[], None] = lambda: None) -> Courses:
    """The courses of the run that `history` walks, edits included, as far as a person would wait for them.

    `heartbeat` is called now and then.
    """
    machine = history.machine
    config = machine.config
    courses = Courses(waiting(config._asdict()))
    run = History(machine.image, config, edits=history.edits, trace=courses, heartbeat=heartbeat)
    while not run.ended and run.position < SURVEYED:
        run.step(SURVEYED // 64)
    return courses
