"""The host says what it is and becomes it again: every entity, pCPU, queue, policy and wake-up on its way."""

from collections.abc import Callable
from random import Random as Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.host.dispatcher import Dispatcher
from emu.host.draws import Draws
from emu.host.entity import Entity
from emu.host.pcpu import Pcpu
from emu.host.policy import Fair, Policy, Random, RoundRobin
from emu.host.runqueue import RunQueue
from emu.host.scheduler import Scheduler
from emu.host.script import Line, Script
from emu.host.task import Bursty, Busy, Periodic
from tests.host.driver import STEADY, Driver, Phase, Vcpu
from tests.round_trip import Operation, Rig, check, is_caught, leave_out, some

QUANTUM = 20_000


class Host(Rig):
    """Three vCPUs that halt and wake each other and three tasks, on two pCPUs; each operation is some more time."""

    def __init__(self, policy: Policy, vcpus: list[Vcpu] | None = None) -> None:
        if vcpus is None:
            vcpus = [
                Vcpu((Phase(9, 40_000), Phase(31, None, wakes=1))),
                Vcpu((Phase(17, -1), Phase(5, 0)), weight=3),
                Vcpu((Phase(70, 9_000, wakes=1),), pcpu=1, blocked=isinstance(policy, Fair)),
            ]
        tasks = [Busy(weight=2, pcpu=0), Periodic(90_000, 7_000, 11_000), Bursty(13_000, 29_000, pcpu=1)]
        self.driver = Driver(policy, vcpus, tasks, pcpus=2)
        self.parts = (self.driver.scheduler,)

    def proceed(self, number: int) -> object:
        driver = self.driver
        driver.run(driver.scheduler.now_ps() + number % 60_000)
        return tuple(driver.log[-40:])

    def disturb(self, number: int) -> object:
        """As an interrupt might: also of one that sleeps, and more than once."""
        scheduler = self.driver.scheduler
        scheduler.wake(number % 3, scheduler.now_ps() + number // 4 % 9_000)
        return scheduler.awake, scheduler.latest_ps(), [scheduler.books(vcpu) for vcpu in range(3)]

    operations = (proceed, proceed, proceed, disturb)

    def world(self) -> Any:
        d = self.driver
        on = tuple(entity and entity.order for entity in d.on)
        history = {name: tuple(changes) for name, changes in d.history.items()}
        lists = (d.log, d.alarms, d.phase, d.left, d.insns, d.last_switch)
        return on, history, d.runs, d.end, tuple(tuple(one) for one in lists)

    def restore(self, world: Any) -> None:
        d = self.driver
        on, history, d.runs, d.end, lists = world
        d.on = [None if order is None else d.entities[order] for order in on]
        d.history = {name: list(changes) for name, changes in history.items()}
        d.log, d.alarms, d.phase, d.left, d.insns, d.last_switch = (list(one) for one in lists)


def scripted(loop: bool) -> Host:
    lines = [Line(0, "vcpu0", 30_000), Line(1, "vcpu1", 45_000), Line(0, "vcpu2", 11_000), Line(0, "task1", 5_000)]
    return Host(Script(lines[: 3 if loop else 4], loop, QUANTUM), [Vcpu((Phase(10_000),))] * 3)


MAKERS: dict[str, Callable[[], Host]] = {
    "round robin": lambda: Host(RoundRobin(QUANTUM)),
    "fair": lambda: Host(Fair(QUANTUM)),
    "random": lambda: Host(Random(QUANTUM, 7)),
    "script": lambda: scripted(loop=False),
    "script that loops": lambda: scripted(loop=True),
}
OPERATIONS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**32)), max_size=12)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_state_taken_and_loaded_tells_no_difference(make: Callable[[], Host]) -> None:
    @STEADY
    @given(OPERATIONS, OPERATIONS, OPERATIONS)
    def holds(before: list[Operation], after: list[Operation], other: list[Operation]) -> None:
        check(make, before, after, other)

    holds()


def test_wake_ups_come_in_the_order_in_which_they_were_made() -> None:
    # Two for the same moment: by the order of making, whatever numbers the tie-breakers have.
    def host(wakes: tuple[int, ...]) -> Scheduler:
        scheduler = Scheduler(1, RoundRobin(QUANTUM))
        for _ in range(3):
            scheduler.add_vcpu(blocked=True)
        scheduler.next(0)
        for vcpu in wakes:
            scheduler.wake(vcpu, 5_000)
        return scheduler

    for wakes in ((2, 0, 1), (0, 1, 2)):
        one = host(wakes)
        other = host(())
        other.load(one.state())
        assert other.state() == one.state()
        assert one.next(None) == other.next(None)
        assert one.vcpus[wakes[0]].run_state == other.vcpus[wakes[0]].run_state == "running"
    assert host((2, 0, 1)).state() != host((0, 1, 2)).state()


# --- what is left out is noticed ---

FIELDS = {
    **{(Scheduler, name): "round robin" for name in Scheduler.fields},
    **{(Entity, name): "round robin" for name in Entity.fields},
    **{(Pcpu, name): "round robin" for name in Pcpu.fields},
    (Entity, "vruntime"): "fair",
    (Entity, "vruntime_rest"): "fair",
    (Entity, "planned"): "script",
    (Pcpu, "planned"): "script",
    (Pcpu, "preempt"): "fair",
    (Pcpu, "quantum_ps"): "random",
    (Fair, "_floor"): "fair",
    (Random, "_draws"): "random",
    (Draws, "_at"): "random",
}


@pytest.mark.parametrize(("kind", "left_out"), FIELDS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_field_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch, kind: type[Any], left_out: str) -> None:
    leave_out(monkeypatch, kind, left_out)
    assert is_caught(MAKERS[FIELDS[kind, left_out]])


@pytest.mark.parametrize(
    ("kind", "method", "forgotten", "maker"),
    [
        (Pcpu, "load_among", "current", "round robin"),
        (RunQueue, "load_among", "_entities", "round robin"),
        (RunQueue, "load_among", "_free", "round robin"),
        (RunQueue, "load_among", "_pinned", "round robin"),
        (Scheduler, "load", "_wakes", "round robin"),
        (Script, "load", "_at", "script that loops"),
    ],
)
def test_what_load_forgets_is_noticed(
    monkeypatch: pytest.MonkeyPatch, kind: type[Any], method: str, forgotten: str, maker: str
) -> None:
    load = getattr(kind, method)

    def forgetful(self: Any, *arguments: Any) -> None:
        value = getattr(self, forgotten)
        kept = value.copy() if isinstance(value, dict | list) else value
        load(self, *arguments)
        setattr(self, forgotten, kept)

    monkeypatch.setattr(kind, method, forgetful)
    assert is_caught(MAKERS[maker])


def test_policy_that_is_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Dispatcher.load_among

    def forgetful(self: Dispatcher, state: Any, entities: Any) -> None:
        kept = self.policy.state()
        load(self, state, entities)
        self.policy.load(kept)

    monkeypatch.setattr(Dispatcher, "load_among", forgetful)
    assert is_caught(MAKERS["fair"]) and is_caught(MAKERS["random"]) and is_caught(MAKERS["script that loops"])


def test_the_workloads_reach_what_there_is_to_lose() -> None:
    """The claims above would hold of nothing if nobody ever waited, slept or was on the way."""
    seen = set()
    generator = Generator(3)
    for make in MAKERS.values():
        for _ in range(40):
            host = make()
            host.do(some(generator))
            *_, entities, (_, queue, _), wakes = host.driver.scheduler.state()
            seen |= {entity[0] for entity in entities} | {bool(queue) and "queue", bool(wakes) and "wakes"}
    assert {"running", "waiting", "blocked", "queue", "wakes"} <= seen


# --- random numbers with a place ---


@given(st.integers(0, 2**70), st.lists(st.one_of(st.integers(1, 100), st.integers(1, 2**100)), max_size=40))
@STEADY
def test_draws_are_those_of_python(seed: int, limits: list[int]) -> None:
    draws, python = Draws(seed), Generator(seed)
    assert [draws.below(limit) for limit in limits] == [python.randrange(limit) for limit in limits]


def test_draws_can_be_taken_up_anywhere() -> None:
    one, fresh = Draws(5), Draws(5)
    early = one.state()
    for _ in range(1000):
        one.below(65)
    late = one.state()
    fresh.load(late)
    one.load(late)
    assert [fresh.below(65) for _ in range(9)] == [one.below(65) for _ in range(9)]
    one.load(early)
    python = Generator(5)
    assert [one.below(65) for _ in range(9)] == [python.randrange(65) for _ in range(9)]
