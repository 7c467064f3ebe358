"""A state that the engine is given in its own form, and late, is the state that was described."""

import random

import pytest

from emu.guest import load_guest
from emu.history.memory import Memory
from emu.machine import Config, Machine
from emu.vcpu.vcpu import Vcpu

_AHEAD = 25


def went_on(
    machine: Machine, memory: Memory, moments: list[tuple], order: list[int], *, described: bool
) -> list[tuple]:
    """What follows each of the moments, visited in this order."""
    found = {}
    for number in order:
        state, pages = moments[number]
        memory.restore(pages)
        machine.load(state)
        if described:
            for package in machine.packages:
                package.vcpu._lately.clear()
        machine.run_to(machine.position + _AHEAD)
        found[number] = machine.state(), memory.keep()
    return [found[number] for number in range(len(moments))]


@pytest.mark.parametrize("name", ["torn", "torn32", "smp", "async_pf", "bad_msr"])
def test_state_in_the_engines_own_form_goes_on_like_the_one_described(name: str) -> None:
    machine = Machine(load_guest(name), Config(vcpus=2 if name == "smp" else 1, insn_limit=5000))
    memory = Memory(machine.ram)
    moments = []
    while machine.reason is None and len(moments) < 40:
        machine.run_to(machine.position + 41)
        moments.append((machine.state(), memory.keep()))
    order = [number for number in range(len(moments)) for _ in range(2)]
    random.Random(0).shuffle(order)
    assert went_on(machine, memory, moments, order, described=False) == went_on(
        machine, memory, moments, order, described=True
    )


def test_wrong_form_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Vcpu, "_remember", lambda self, new: self._lately.setdefault((new, self.engine.nests), self._context)
    )
    with pytest.raises(AssertionError):
        test_state_in_the_engines_own_form_goes_on_like_the_one_described("torn")
