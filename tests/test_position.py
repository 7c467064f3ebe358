"""Position: wherever a run is cut nothing changes, and a machine becomes again what it was at any place it stood."""

import random

import pytest

from emu.guest import load_guest
from emu.machine import Machine
from emu.scenario import Config
from emu.stateful import State
from emu.trace import Event
from tests.test_determinism import MIXED

CUT = {
    "clock": Config(vcpus=2, tasks=("busy",)),
    "smp": Config(**MIXED),
    "idle": Config(tasks=("periodic:period=1ms,run=300us",), policy="fair"),
    "async_pf": Config(swap=("page:at=50us,in=200us,every=1ms",)),
    "conformance/eoi": Config(),
    "conformance/steal": Config(host_model="other-cpu"),
}


CUT = {guest: config._replace(ram=4 << 20) for guest, config in CUT.items()}  # which is compared again and again


def whole(machine: Machine) -> tuple[State, bytes]:
    return machine.state(), machine.ram.read(0, machine.ram.size)


@pytest.mark.parametrize("guest", CUT)
def test_cutting_a_run_anywhere_leaves_no_mark(guest: str) -> None:
    image, drawn = load_guest(guest), random.Random(1)
    uncut_events: list[Event] = []
    uncut = Machine(image, CUT[guest], trace=uncut_events.append)
    uncut.run()
    cut_events: list[Event] = []
    cut = Machine(image, CUT[guest], trace=cut_events.append)
    while cut.reason is None:
        wanted = cut.position + drawn.choice((1, 1, 2, 3, 50, 1000, 30_000))
        cut.run_to(wanted)
        assert cut.position == wanted or cut.reason is not None
    assert cut_events == uncut_events
    assert whole(cut) == whole(uncut)


@pytest.mark.parametrize("guest", CUT)
def test_a_machine_becomes_what_it_was_and_goes_on_alike(guest: str) -> None:
    drawn = random.Random(3)
    machine = Machine(load_guest(guest), CUT[guest])
    seen = {0: whole(machine)}
    while machine.reason is None and len(seen) < 40:
        machine.run_to(machine.position + drawn.choice((1, 1, 2, 3, 50, 1000)))
        seen[machine.position] = whole(machine)
    marks = sorted(seen)
    for _ in range(100):
        state, ram = seen[drawn.choice(marks)]
        machine.ram.write(0, ram)
        machine.load(state)
        for position in [mark for mark in marks if mark > machine.position][: drawn.randrange(4)]:
            machine.run_to(position)
            assert whole(machine) == seen[position]


def test_every_position_is_met_one_by_one() -> None:
    machine = Machine(load_guest("conformance/steal"), Config(host_model="other-cpu"))
    for position in range(1, 3000):
        if machine.reason is not None:
            break
        machine.run_to(position)
        assert machine.position == position
