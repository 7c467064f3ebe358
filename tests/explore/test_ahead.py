"""A load that is read before it is executed is executed; and the search comes to the same without reading ahead."""

import pytest

from emu.explore.ahead import Loads
from emu.explore.runner import Runner
from emu.guest import load_guest
from emu.machine import Machine
from emu.scenario import Config
from emu.vcpu.watch import Watch
from tests.explore.test_moves import INSTANCES, told


@pytest.mark.parametrize(
    "name", ["readers/seqlock", "readers/seqlock32", "readers/halves32", "clock", "torn32", "conformance/steal"]
)
def test_whatever_is_said_to_load_next_does(name: str) -> None:
    machine = Machine(load_guest(name), Config(insn_limit=6000))
    loads, everywhere = Loads(), [(0, machine.ram.size - 1)]
    heard: list[tuple[int, int]] = []
    watch = Watch(
        machine.engine,
        reads=everywhere,
        accessed=lambda access: heard.append((machine.arriving() - 1, access.gpa)),
    )
    said = executed = 0
    while machine.reason is None:
        package, here, insns = machine.packages[0], machine.position, machine.instructions
        cpu = package.vcpu.state()
        inside = machine.state()[0][5] is not None and package.exit is None
        yes = inside and loads.next_loads_from(package, cpu, everywhere)
        heard.clear()
        machine.run_to(here + 1)
        # A visit of the host, or an exit that is completed, may come first.
        if machine.instructions > insns and yes:
            said += 1
            executed += any(at == here for at, _ in heard)
    watch.close()
    assert said == executed > 20


@pytest.mark.parametrize("name", INSTANCES)
def test_search_that_always_looks_ahead_meets_the_same_states(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(INSTANCES[name])
    monkeypatch.setattr(Runner, "_went_as_before", lambda self, begun, here: False)
    assert told(INSTANCES[name]) == found


def test_saying_yes_to_everything_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(INSTANCES["seqlock, two updates in halves"])
    monkeypatch.setattr(Loads, "next_loads_from", lambda *_: True)
    assert told(INSTANCES["seqlock, two updates in halves"]) != found
