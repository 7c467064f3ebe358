"""A machine's packages, host and host model in the middle of real runs: taken, loaded, and nothing has happened."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from emu import clock, data
from emu.boot.elf import elf_image
from emu.host_model import Gaps
from emu.machine import Machine
from emu.package import BEGUN, PLANNED, Lie, Package
from emu.scenario import DEFAULT_STORE_GAP, Config
from emu.trace import to_json
from tests.programs import Recorded, run_guest
from tests.round_trip import attributes, leave_out, picture

US = clock.UNITS["us"]
OTHER_CPU = {"host_model": "other-cpu", "seed": 3, "tasks": ("busy",)}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "clock, from another CPU": ("clock", {**OTHER_CPU, "vcpus": 2}),
    "clock, halves at exact gaps": ("clock", {**OTHER_CPU, "steal_store": "halves", "store_gap": (0, 3, 40)}),
    "clock, fair": ("clock", {"vcpus": 2, "tasks": ("busy:weight=2",), "policy": "fair"}),
    "clock, random": ("clock", {"vcpus": 2, "tasks": ("busy",), "policy": "random", "seed": 5}),
    "smp, two pCPUs": ("smp", {"vcpus": 3, "pcpus": 2, "tasks": ("bursty:on=50us,off=20us",)}),
    "idle": ("idle", {"tasks": ("periodic:period=700us,run=200us",)}),
}
# What of a package is fixed when it is made, or has a state that is taken elsewhere.
FIXED = {"number", "entity", "hypercalls", "msrs", "cpuid"}


def parts(machine: Machine) -> tuple[Any, ...]:
    return machine._clocks, *machine.packages, machine.host, machine._model


def state(machine: Machine) -> tuple[Any, ...]:
    return tuple(part.state() for part in parts(machine))


def load(machine: Machine, states: tuple[Any, ...]) -> None:
    for part, of_part in zip(parts(machine), states, strict=True):
        part.load(of_part)


def made(name: str) -> Machine:
    guest, options = RUNS[name]
    return Machine(elf_image(data.guest_path(guest).read_bytes(), guest), Config(**options))


def seen(package: Package) -> Any:
    return [picture(getattr(package, name)) for name in (*Package.fields, *Package.parts) if name != "vcpu"]


def told(recorded: Recorded) -> list[str]:
    return [to_json(event) for event in recorded.events]


@pytest.mark.parametrize("name", RUNS)
def test_run_that_is_taken_and_loaded_at_every_turn_is_the_same_run(name: str) -> None:
    guest, options = RUNS[name]
    other = made(name)
    beginning = state(other)
    number = 0

    def reload(machine: Machine) -> None:
        nonlocal number
        number += 1
        taken = state(machine)
        assert hash(taken) == hash(state(machine))
        load(machine, beginning)
        load(machine, taken)
        assert state(machine) == taken
        if number % 10 == 0:
            load(other, taken)
            assert state(other) == taken
            assert [seen(package) for package in other.packages] == [seen(package) for package in machine.packages]

    assert told(run_guest(guest, each=reload, **options)) == told(run_guest(guest, **options))
    assert number > 30


def test_every_attribute_of_a_package_is_state_or_is_known_not_to_be() -> None:
    package = made("idle").packages[0]
    assert set(attributes(package)) == {*Package.fields, *Package.parts, "vcpu"} | FIXED


def until(machine: Machine, holds: Callable[[Package], bool]) -> Package:
    package = machine.packages[0]
    while not holds(package):
        machine.turn()
        assert machine.reason is None
    return package


@pytest.mark.parametrize("name", ["clock, from another CPU", "clock, halves at exact gaps"])
@pytest.mark.parametrize("at", [PLANNED, BEGUN])
@pytest.mark.parametrize("times", [2, 3])
def test_update_under_way_is_finished_the_same_way_twice(name: str, at: str, times: int) -> None:
    machine = made(name)
    package = until(machine, lambda package: package.update == at)
    taken, ram = state(machine), bytes(machine.ram.bytes)
    stores: list[list[Any]] = []
    for _ in range(times):
        load(machine, taken)
        machine.ram.write(0, ram)
        stores.append([])
        machine._model._stored = lambda package, area, step: stores[-1].append((area, step))
        while package.update is not None:
            package.store_in = 0
            machine._model.before_entry(package)
        machine._model.finish(package)
    assert stores[0] and all(one == stores[0] for one in stores)
    assert [step.step for _, step in stores[0]][-1] == "even"


@pytest.mark.parametrize("left_out", [*Package.fields, *Package.parts])
def test_part_of_a_package_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch, left_out: str) -> None:
    machine, other = made("smp, two pCPUs"), made("smp, two pCPUs")
    package = machine.packages[1]
    changes = {
        "exit": "E", "halting": True, "parked": True, "kicked": True, "waiting": True, "update": PLANNED, "store_in": 9,
        "added_ns": 5, "lies": (Lie("rdmsr", True, 0, 0, 0),),
        "tsc": "offset", "lapic": "irr", "steal": "updates", "pv_eoi": "pending", "poll": "msr_value",
        "async_pf": "int_value", "migration": "msr_value",
    }  # fmt: skip
    if left_out == "vcpu":
        pytest.skip("the CPU's own state has tests of its own")
    if left_out == "clock":
        assert package.clock is not None
        package.clock.time.value = 7
    elif left_out in Package.fields:
        setattr(package, left_out, changes[left_out])
    else:
        setattr(getattr(package, left_out), str(changes[left_out]), 7)
    other.packages[1].load(package.state())
    assert seen(other.packages[1]) == seen(package)
    leave_out(monkeypatch, Package, left_out)
    untouched = made("smp, two pCPUs").packages[1]
    untouched.load(package.state())
    monkeypatch.undo()
    assert seen(untouched) != seen(package)


def test_gaps_are_those_listed_over_and_over_and_can_be_taken_up_anywhere() -> None:
    gaps = Gaps((5, 0, 9), 1)
    assert [gaps.next() for _ in range(4)] == [5, 0, 9, 5]
    early = gaps.state()
    assert [gaps.next() for _ in range(3)] == [0, 9, 5]
    assert gaps.state() == early, "where the list has come round, nothing tells it from the round before"
    gaps.next()
    gaps.load(early)
    assert gaps.next() == 0


def test_drawn_gaps_are_those_of_the_seed_and_can_be_taken_up_anywhere() -> None:
    gaps, python = Gaps((), 12), Random(12)
    drawn = [python.randrange(DEFAULT_STORE_GAP + 1) for _ in range(60)]
    assert [gaps.next() for _ in range(20)] == drawn[:20]
    early = gaps.state()
    for _ in range(2):
        assert [gaps.next() for _ in range(40)] == drawn[20:]
        gaps.load(early)
    fresh = Gaps((), 12)
    fresh.load(early)
    assert fresh.next() == drawn[20]
    assert fresh.state() != early


def test_a_state_is_taken_in_microseconds() -> None:
    """Generous: what is meant is that nobody copies memory or logs, so many states more cost nothing to speak of."""
    import timeit

    guest, options = "smp", {"vcpus": 8, "pcpus": 2, "tasks": ("busy",)}
    machine = Machine(elf_image(data.guest_path(guest).read_bytes(), guest), Config(**options))
    for _ in range(200):
        machine.turn()
    for part, most in ((machine.host, 500), (machine.packages[0], 200), (machine._model, 100), (machine.console, 50)):
        microseconds = min(timeit.repeat(part.state, number=200, repeat=5)) / 200 * 1e6
        assert microseconds < most, (type(part).__name__, microseconds)
