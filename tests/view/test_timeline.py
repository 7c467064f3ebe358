"""The timeline's sums are the books; its strips are the intervals; its memory is bounded."""

from array import array
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import clock
from emu.host.entity import RUNNING, WAITING
from emu.scenario import Config
from emu.trace import Event, Mark, Store, Switch, Wake
from emu.view.bins import BINS
from emu.view.timeline import (
    IDLE,
    OPENING_SWITCHES,
    OPENING_UPDATES,
    RUNS,
    SLEEPS,
    WAITS,
    Lane,
    Strip,
    Timeline,
)
from tests.effort import EFFORT
from tests.host.driver import Driver
from tests.host.test_properties import Workload, workloads

STEADY = settings(derandomize=True, deadline=None, database=None, max_examples=20 * EFFORT)
US = 10**3


def update(t: int, vcpu: int = 0, value: int = 2) -> list[Event]:
    return [
        Store(t, vcpu, "steal-time", "odd", 0, 4, value - 1),
        Store(t, vcpu, "steal-time", "steal", 0, 8, 0),
        Store(t, vcpu, "steal-time", "even", 0, 4, value),
    ]


def replayed(driver: Driver) -> tuple[Timeline, int]:
    """The timeline of what a host did, with an update at each switch onto a pCPU; and when it ended."""
    asleep = [name for name, history in driver.history.items() if history[0][1] == "blocked"]
    scheduler = driver.scheduler
    timeline = Timeline(len(scheduler.vcpus), len(driver.on), len(scheduler.tasks), asleep)
    for entry in driver.log:
        if entry[0] == "woke":
            timeline(Wake(clock.ns(entry[1]), entry[2]))
        else:
            pcpu, at_ps, prev, next, why = entry
            timeline(Switch(clock.ns(at_ps), pcpu, prev or IDLE, next or IDLE, why))
            if next is not None and next.startswith("vcpu"):
                for event in update(clock.ns(at_ps), int(next[4:])):
                    timeline(event)
    # Whoever blocked in the last step still has its pCPU: the switch would have come next.
    end_ps = max(scheduler.latest_ps(), *(entity.since_ps for entity in driver.entities))
    timeline.finish(clock.ns(end_ps))
    return timeline, end_ps


def intervals(driver: Driver, who: str, state: str, end_ps: int) -> list[tuple[int, int]]:
    history = [*driver.history[who], (end_ps, "")]
    return [(clock.ns(at), clock.ns(until)) for (at, was), (until, _) in pairwise(history) if was == state]


def expected_sums(spans: list[tuple[int, int]], strip: Strip) -> list[int]:
    edges = range(0, len(strip.lanes[0].cells) * strip.cell_ns, strip.cell_ns)
    return [
        sum(max(0, min(end, edge + strip.cell_ns, strip.end_ns) - max(begin, edge)) for begin, end in spans)
        for edge in edges
    ]


def assert_lane_is(lane: Lane, driver: Driver, strip: Strip, end_ps: int) -> None:
    assert [c.ran_ns for c in lane.cells] == expected_sums(intervals(driver, lane.who, RUNNING, end_ps), strip)
    assert [c.waited_ns for c in lane.cells] == expected_sums(intervals(driver, lane.who, WAITING, end_ps), strip)
    for number, cell in enumerate(lane.cells):
        covered = min(strip.cell_ns, strip.end_ns - number * strip.cell_ns)
        assert cell.ran_ns + cell.waited_ns + cell.slept_ns == covered
        assert min(cell[:3]) >= 0
        assert (cell.pcpu is None) == (cell.ran_ns == 0)


@STEADY
@given(workloads(), st.integers(1, 90))
def test_strips_equal_those_of_the_full_list_of_intervals(workload: Workload, width: int) -> None:
    driver = workload.drive()
    timeline, end_ps = replayed(driver)
    for strip in (timeline.strip(width), timeline.opening(width)):
        for lane in strip.lanes:
            assert len(lane.cells) <= width
            assert_lane_is(lane, driver, strip, end_ps)


@STEADY
@given(workloads())
def test_sums_equal_the_books(workload: Workload) -> None:
    driver = workload.drive()
    timeline, end_ps = replayed(driver)
    strip = timeline.strip(70)
    for entity, lane in zip(driver.entities, strip.lanes, strict=True):
        books = entity.books(end_ps)
        totals = timeline.courses[entity.name].totals
        assert (totals[RUNS], totals[WAITS], totals[SLEEPS]) == books
        assert tuple(sum(cell[part] for cell in lane.cells) for part in range(3)) == books
        shown = sum(cell.updates for cell in lane.cells)
        # A run that ends within its first nanosecond has no column, and so nowhere to show an update.
        assert shown == (timeline.courses[entity.name].updates if end_ps >= 1000 else 0)
    for pcpu in range(len(driver.on)):
        held = timeline.held_ns(pcpu)
        assert sum(held.values()) == timeline.end_ns
        assert held[IDLE] >= 0
    for entity in driver.entities:
        had = sum(timeline.held_ns(pcpu).get(entity.name, 0) for pcpu in range(len(driver.on)))
        assert had == entity.books(end_ps).ran_ns


def turns(count: int, quantum_ns: int = 100 * US) -> list[Event]:
    """vcpu0 and task0 take turns; each arrival of vcpu0 brings an update."""
    events: list[Event] = []
    for number in range(count):
        prev, next = ("task0", "vcpu0") if number % 2 == 0 else ("vcpu0", "task0")
        events.append(Switch(number * quantum_ns, 0, prev if number else IDLE, next, "quantum" if number else "start"))
        if next == "vcpu0":
            events += update(number * quantum_ns, value=number + 2)
    return events


def weight(thing: object) -> int:
    """How many values are reachable from here."""
    if isinstance(thing, dict):
        return sum(weight(key) + weight(value) for key, value in thing.items())
    if isinstance(thing, (list, tuple, array)):
        return len(thing) if isinstance(thing, array) else sum(map(weight, thing))
    return sum(weight(getattr(thing, name)) for name in getattr(thing, "__slots__", ())) or 1


def test_memory_does_not_grow_over_a_million_switches() -> None:
    timeline = Timeline(1, 1, 1)
    timeline(Switch(0, 0, IDLE, "task0", "start"))
    weights = []
    for begin, end in ((1, 10_000), (10_000, 1_000_000)):
        for number in range(begin, end):
            prev, next = ("task0", "vcpu0") if number % 2 else ("vcpu0", "task0")
            timeline(Switch(number * 999, 0, prev, next, "quantum"))
        weights.append(weight(timeline))
    timeline.finish(999_000_000)
    assert weights[0] == weights[1] < 10 * BINS
    assert timeline.switches == 1_000_000
    assert timeline.held_ns(0) == {"vcpu0": 499_500_000, "task0": 499_500_000, IDLE: 0}


def test_opening_ends_where_updates_come_without_switches() -> None:
    timeline = Timeline(1)
    timeline(Switch(0, 0, IDLE, "vcpu0", "start"))
    for number in range(3 * OPENING_UPDATES):
        for event in update(number * 10):
            timeline(event)
    timeline.finish(10**9)
    assert len(timeline._updates) == OPENING_UPDATES
    opening = timeline.opening(50)
    assert opening.end_ns <= OPENING_UPDATES * 10
    assert sum(cell.updates for cell in timeline.strip(50).lanes[0].cells) == 3 * OPENING_UPDATES


def test_opening_ends_where_no_more_is_kept_though_there_are_columns_left() -> None:
    timeline = Timeline(1, 1, 1)
    for number in range(OPENING_SWITCHES + 10):
        timeline(Switch(number // 5, 0, *(("task0", "vcpu0") if number % 2 else ("vcpu0", "task0")), "quantum"))
    timeline.finish(1000)
    opening = timeline.opening(50)
    # 50 columns are for 12 switches, the last of which is at 2 ns; those of the first 7 ns are kept.
    assert (opening.cell_ns, opening.end_ns) == (1, 2)
    assert all(sum(lane.cells[number].ran_ns for lane in opening.lanes) == 1 for number in range(opening.end_ns))


def test_opening_gives_each_switch_its_columns() -> None:
    timeline = Timeline(1, 1, 1)
    for event in turns(1000):
        timeline(event)
    timeline.finish(1000 * 100 * US)
    opening = timeline.opening(64)
    assert opening.cell_ns == 20 * US
    vcpu, task = opening.lanes
    assert [cell.ran_ns for cell in vcpu.cells[:12]] == [20 * US] * 5 + [0] * 5 + [20 * US] * 2
    assert [number for number, cell in enumerate(vcpu.cells) if cell.updates] == [0, 10, 20, 30, 40, 50, 60]
    assert not any(cell.updates for cell in task.cells)


def test_opening_of_a_short_run_is_the_whole_run() -> None:
    timeline = Timeline(1, 1, 1)
    for event in turns(6):
        timeline(event)
    timeline.finish(6 * 100 * US)
    assert timeline.opening(60).end_ns == timeline.end_ns == 600 * US


def test_an_update_at_the_very_end_is_shown() -> None:
    timeline = Timeline(1)
    timeline(Switch(0, 0, IDLE, "vcpu0", "start"))
    for event in update(40):
        timeline(event)
    timeline.finish(40)
    for strip in (timeline.strip(10), timeline.opening(10)):
        assert [cell.updates for cell in strip.lanes[0].cells][-1] == 1


def test_a_vcpu_woken_while_it_blocks_keeps_running() -> None:
    timeline = Timeline(1)
    timeline(Switch(0, 0, IDLE, "vcpu0", "start"))
    timeline(Wake(10, "vcpu0"))
    timeline.finish(30)
    assert timeline.courses["vcpu0"].totals == {RUNS: 30, WAITS: 0, SLEEPS: 0}


def test_blocked_is_sleep_and_every_other_switch_is_wait() -> None:
    timeline = Timeline(2)
    timeline(Switch(0, 0, IDLE, "vcpu0", "start"))
    timeline(Switch(10, 0, "vcpu0", "vcpu1", "blocked"))
    timeline(Wake(15, "vcpu0"))
    timeline(Switch(30, 0, "vcpu1", "vcpu0", "preempted"))
    timeline.finish(100)
    assert timeline.courses["vcpu0"].totals == {RUNS: 80, WAITS: 15, SLEEPS: 5}
    assert timeline.courses["vcpu1"].totals == {RUNS: 20, WAITS: 80, SLEEPS: 0}


def test_told_is_the_wait_at_the_odd_store() -> None:
    timeline = Timeline(2)
    timeline(Switch(0, 0, IDLE, "vcpu1", "start"))
    timeline(Switch(70, 0, "vcpu1", "vcpu0", "quantum"))
    for event in update(71):
        timeline(event)
    timeline(Switch(90, 0, "vcpu0", "vcpu1", "quantum"))
    timeline.finish(100)
    assert timeline.courses["vcpu0"].told_ns == 70
    assert timeline.courses["vcpu0"].totals[WAITS] == 80


def test_other_events_and_other_areas_are_ignored() -> None:
    timeline = Timeline(1)
    timeline(Mark(5, 0, "begin", 0))
    timeline(Store(5, 0, "pv-eoi", "even", 0, 4, 2))
    timeline.finish(10)
    assert timeline.courses["vcpu0"].updates == 0


def test_configuration_tells_who_begins_asleep() -> None:
    tasks = ("busy", "periodic:period=1ms,run=1us,phase=5us", "bursty:on=1us,off=1us")
    timeline = Timeline.of(Config(vcpus=3, start="bsp", tasks=tasks))
    asleep = [who for who, course in timeline.courses.items() if course.state == SLEEPS]
    assert asleep == ["vcpu1", "vcpu2", "task1"]
    assert not [c for c in Timeline.of(Config(vcpus=3)).courses.values() if c.state == SLEEPS]


def test_an_unfinished_timeline_and_no_columns_are_refused() -> None:
    timeline = Timeline(1)
    with pytest.raises(ValueError, match="finish"):
        timeline.strip(10)
    timeline.finish(10)
    for draw in (timeline.strip, timeline.opening):
        with pytest.raises(ValueError, match="columns"):
            draw(0)


def test_a_run_that_took_no_time_has_no_columns() -> None:
    timeline = Timeline(1)
    timeline.finish(0)
    assert timeline.strip(10).lanes[0].cells == timeline.opening(10).lanes[0].cells == ()
