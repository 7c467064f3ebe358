"""Who held which pCPU when, and where the updates fell: the history of a run, small enough to be kept always.

A Timeline is a sink of events. It follows each vCPU and host task through its three states (it runs, it waits, it
sleeps) and keeps two records: the whole run in bins that widen as time goes on, and the opening, the first few dozen
switches, exactly. The whole shows how time was shared; only the opening shows single switches.

In Linux: `perf sched timehist` and `perf sched map`, tools/perf/builtin-sched.c.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from emu.host.task import parse_task
from emu.scenario import Config
from emu.trace import Event, Store, Switch, Wake
from emu.view.bins import Bins
from emu.view.scale import round_down, round_up

RUNS: Final = "runs"
WAITS: Final = "waits"
SLEEPS: Final = "sleeps"
IDLE = "idle"

OPENING_SWITCHES = 40  # per pCPU
OPENING_UPDATES = 4096  # an area can be registered again and again without a switch
COLUMNS_PER_SWITCH = 4


class Cell(NamedTuple):
    """One column of one lane: its three parts in nanoseconds, updates completed, the pCPU that it had longest."""

    ran_ns: int
    waited_ns: int
    slept_ns: int
    updates: int
    pcpu: int | None


class Lane(NamedTuple):
    """One vCPU or task over a strip's time."""

    who: str
    is_vcpu: bool
    cells: tuple[Cell, ...]


class Strip(NamedTuple):
    """Virtual time from 0 to `end_ns` in columns of `cell_ns`, the last of which may be cut short; vCPUs come first."""

    end_ns: int
    cell_ns: int
    pcpus: int
    lanes: tuple[Lane, ...]


class Course:
    """One vCPU or task: its state since when, and totals in nanoseconds up to then.

    `arrivals` counts how often it was given a pCPU; `told_ns` is its wait at the sampling of its last update, which is
    half done while `updating`.
    """

    __slots__ = ("who", "is_vcpu", "state", "since_ns", "pcpu", "totals", "arrivals", "updates", "updating", "told_ns")

    def __init__(self, who: str, is_vcpu: bool, state: str) -> None:
        self.who = who
        self.is_vcpu = is_vcpu
        self.state = state
        self.since_ns = 0
        self.pcpu: int | None = None
        self.totals = {RUNS: 0, WAITS: 0, SLEEPS: 0}
        self.arrivals = 0
        self.updates = 0
        self.updating = False
        self.told_ns = 0


class Timeline:
    """A sink for the events of a run with so many vCPUs, pCPUs and tasks; those named in `asleep` begin blocked.

    Pass it to the machine as `watch`, then call `finish`, then ask for strips. Other events than switches, wake-ups
    and stores are ignored.
    """

    __slots__ = (
        "pcpus", "end_ns", "switches", "courses", "_bins", "_held", "_states", "_updates", "_switch_ns",
        "_until_ns",
    )  # fmt: skip

    def __init__(self, vcpus: int, pcpus: int = 1, tasks: int = 0, asleep: Iterable[str] = ()) -> None:
        self.pcpus = pcpus
        self.end_ns: int | None = None
        self.switches = 0
        names = [(f"vcpu{n}", True) for n in range(vcpus)] + [(f"task{n}", False) for n in range(tasks)]
        blocked = frozenset(asleep)
        self.courses = {who: Course(who, is_vcpu, SLEEPS if who in blocked else WAITS) for who, is_vcpu in names}
        self._bins = Bins()
        self._held: list[dict[str, int]] = [{} for _ in range(pcpus)]
        # The opening: states as (who, state, pCPU, begin, end), updates as (who, when); over at _until_ns.
        self._states: list[tuple[str, str, int | None, int, int]] = []
        self._updates: list[tuple[str, int]] = []
        self._switch_ns: list[int] = []
        self._until_ns: int | None = None

    @classmethod
    def of(cls, config: Config) -> "Timeline":
        """The timeline for a run of this configuration. Raises HostError for a task that cannot be read."""
        asleep = [f"vcpu{number}" for number in range(1, config.vcpus)] if config.start == "bsp" else []
        for number, text in enumerate(config.tasks):
            if parse_task(text, f"--task {text}").release_ps(0, 0) > 0:
                asleep.append(f"task{number}")
        return cls(config.vcpus, config.pcpus, len(config.tasks), asleep)

    # --- events in ---------------------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Take the next event of the run."""
        kind = type(event)
        if kind is Switch:
            self._switched(event)  # type: ignore[arg-type]
        elif kind is Store:
            self._stored(event)  # type: ignore[arg-type]
        elif kind is Wake:
            course = self.courses[event.who]  # type: ignore[union-attr]
            if course.state == SLEEPS:  # else it was woken while it blocked, and has kept its pCPU
                self._enter(course, WAITS, event.t)

    def finish(self, end_ns: int) -> None:
        """The run is over at this virtual time: close what is open."""
        for course in self.courses.values():
            self._enter(course, course.state, end_ns)
        self.end_ns = end_ns

    def _switched(self, event: Switch) -> None:
        self.switches += 1
        if event.prev != IDLE:
            prev = self.courses[event.prev]
            self._enter(prev, SLEEPS if event.why == "blocked" else WAITS, event.t)
            prev.pcpu = None
        if event.next != IDLE:
            course = self.courses[event.next]
            self._enter(course, RUNS, event.t)
            course.pcpu = event.pcpu
            course.arrivals += 1
        if self._until_ns is None:
            self._switch_ns.append(event.t)
            if len(self._switch_ns) == OPENING_SWITCHES * self.pcpus:
                self._until_ns = event.t

    def _stored(self, event: Store) -> None:
        if event.area != "steal-time":
            return
        course = self.courses[f"vcpu{event.vcpu}"]
        if event.step == "odd":
            course.updating = True
            course.told_ns = course.totals[WAITS] + (event.t - course.since_ns if course.state == WAITS else 0)
        elif event.step == "even":
            course.updating = False
            course.updates += 1
            self._bins.count(("updates", course.who), event.t)
            if self._until_ns is None:
                self._updates.append((course.who, event.t))
                if len(self._updates) == OPENING_UPDATES:
                    self._until_ns = event.t

    def _enter(self, course: Course, state: str, at_ns: int) -> None:
        begin_ns = course.since_ns
        if at_ns > begin_ns:
            was, pcpu = course.state, course.pcpu
            course.totals[was] += at_ns - begin_ns
            if was == RUNS:
                assert pcpu is not None
                held = self._held[pcpu]
                held[course.who] = held.get(course.who, 0) + at_ns - begin_ns
            if was != SLEEPS:
                self._bins.add((was, course.who, pcpu), begin_ns, at_ns)
                if self._until_ns is None or begin_ns < self._until_ns:
                    self._states.append((course.who, was, pcpu, begin_ns, at_ns))
            course.since_ns = at_ns
        course.state = state

    # --- pictures out ------------------------------------------------------------------------------------------------

    def held_ns(self, pcpu: int) -> dict[str, int]:
        """How long each holder had this pCPU, in nanoseconds, `idle` last; their sum is the whole time."""
        held = {who: self._held[pcpu][who] for who in self.courses if who in self._held[pcpu]}
        return {**held, IDLE: self._finished() - sum(held.values())}

    def strip(self, width: int) -> Strip:
        """The whole run in at most `width` columns. Raises ValueError before `finish`, or for no column at all."""
        end_ns = self._finished()
        if width < 1:
            raise ValueError(f"a strip of {width} columns shows nothing")
        cell_ns = round_up(-(-end_ns // width))
        return self._draw(self._bins, -(-cell_ns // self._bins.width_ns), end_ns)

    def opening(self, width: int) -> Strip:
        """The first switches of the run in at most `width` columns, some COLUMNS_PER_SWITCH for each.

        It is the whole run (its `end_ns` tells) where that has no more of them. Raises ValueError as `strip` does.
        """
        end_ns = self._finished()
        if width < 1:
            raise ValueError(f"a strip of {width} columns shows nothing")
        wanted = max(1, width * self.pcpus // COLUMNS_PER_SWITCH)
        if self._until_ns is None and len(self._switch_ns) <= wanted:
            cell_ns = round_up(-(-end_ns // width), even=True)
        else:
            last = self._switch_ns[min(wanted, len(self._switch_ns)) - 1] if self._switch_ns else end_ns
            until_ns = last if self._until_ns is None else min(last, self._until_ns)
            cell_ns = round_down(until_ns // width)
            end_ns = min(end_ns, cell_ns * width, until_ns)  # a column is a nanosecond at least
        bins = Bins(cell_ns)
        for who, state, pcpu, begin_ns, state_end_ns in self._states:
            bins.add((state, who, pcpu), begin_ns, min(state_end_ns, end_ns))
        for who, at_ns in self._updates:
            if at_ns < end_ns or end_ns == self.end_ns:
                bins.count(("updates", who), at_ns)
        return self._draw(bins, 1, end_ns)

    def _finished(self) -> int:
        if self.end_ns is None:
            raise ValueError("the timeline is not finished: call finish() with the time at which the run ended")
        return self.end_ns

    def _draw(self, bins: Bins, per_cell: int, end_ns: int) -> Strip:
        cell_ns = bins.width_ns * per_cell
        cells = -(-end_ns // cell_ns)
        lanes = []
        for course in self.courses.values():
            who = course.who
            runs = [bins.cells((RUNS, who, pcpu), per_cell, cells) for pcpu in range(self.pcpus)]
            waits = bins.cells((WAITS, who, None), per_cell, cells)
            updates = bins.cells(("updates", who), per_cell, cells)
            row = []
            for number in range(cells):
                here = [run[number] for run in runs]
                ran_ns, most = sum(here), max(here)
                slept_ns = min(cell_ns, end_ns - number * cell_ns) - ran_ns - waits[number]
                row.append(Cell(ran_ns, waits[number], slept_ns, updates[number], here.index(most) if most else None))
            lanes.append(Lane(who, course.is_vcpu, tuple(row)))
        return Strip(end_ns, cell_ns, self.pcpus, tuple(lanes))
