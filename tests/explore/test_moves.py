"""A state that is put together of two sides is, to the last field, what a run comes to."""

from collections.abc import Callable

import pytest

from emu.explore import moves
from emu.explore.instance import Instance
from emu.explore.moves import Move, Moves, Step
from emu.explore.node import Node
from emu.explore.properties import PROPERTIES
from emu.explore.runner import SIDE
from emu.explore.search import Search
from emu.explore.sides import Snapshot
from emu.guest import load_guest
from emu.history.edits import Change
from emu.vcpu.watch import Access
from tests.effort import EFFORT

ALL = frozenset(PROPERTIES)
INSTANCES = {
    "seqlock, two updates in halves": Instance(load_guest("readers/seqlock"), updates=2, halves=True, properties=ALL),
    "seqlock32, bursts": Instance(load_guest("readers/seqlock32"), updates=min(EFFORT, 2), burst=127, properties=ALL),
    "low_byte, bursts": Instance(load_guest("readers/low_byte"), updates=min(EFFORT, 2), burst=128, properties=ALL),
    "seqlock, by a KVM": Instance(load_guest("readers/seqlock"), "kvm", 2, burst=2, properties=ALL),
    "gives_up, one read": Instance(load_guest("readers/gives_up"), updates=2, reads=1, properties=frozenset({"ends"})),
    "writes_back, unjudged": Instance(load_guest("readers/writes_back"), properties=frozenset({"no-fault"})),
    "clock, which looks at the time": Instance(load_guest("clock"), updates=1, insn_limit=3000, state_limit=300),
}


class Compared:
    """Whatever is known already is run all the same; `differing` are the parts in which the two are not the same."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.moves = self.steps = 0
        self.differing: set[str] = set()
        move, step, moved, stepped = Moves.move, Moves.step, Moves.moved, Moves.stepped
        expected: list[Move | Step] = []

        def look(moves: Moves, here: Snapshot) -> None:
            expected[:] = [one for one in [move(moves, here)] if one is not None]

        def look_for_step(moves: Moves, here: Snapshot, change: Change) -> None:
            expected[:] = [one for one in [step(moves, here, change)] if one is not None]

        def compare(moves: Moves, here: Snapshot, access: Access | None, found: Move) -> None:
            for one in expected:
                assert isinstance(one, Move)
                self.moves += 1
                self._compare(one, found, slice(SIDE))
            moved(moves, here, access, found)

        def compare_step(moves: Moves, here: Snapshot, change: Change, found: Step) -> None:
            for one in expected:
                assert isinstance(one, Step)
                self.steps += 1
                self._compare(one.move, found.move, slice(SIDE, None))
                if (one.options, one.rest) != (found.options, found.rest):
                    self.differing.add("options")
            stepped(moves, here, change, found)

        patch.setattr(Moves, "move", look)
        patch.setattr(Moves, "step", look_for_step)
        patch.setattr(Moves, "moved", compare)
        patch.setattr(Moves, "stepped", compare_step)

    def _compare(self, one: Move, other: Move, side: slice) -> None:
        parts = zip(Snapshot._fields, one.after, other.after, strict=True)
        self.differing |= {name for name, ours, theirs in parts if ours != theirs}
        if one.key[side] != other.key[side]:
            self.differing.add("key")
        if one.judged != other.judged:
            self.differing.add("judged")


@pytest.mark.parametrize("name", INSTANCES)
def test_what_is_put_together_is_what_a_run_comes_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Compared(monkeypatch)
    Search(INSTANCES[name]).run()
    assert not compared.differing
    assert compared.moves > 5 and compared.steps > 5


def told(instance: Instance) -> tuple[object, ...]:
    search = Search(instance)
    report = search.run()
    names = [name for name in Node.__slots__ if name not in ("snapshot", "ahead")]
    nodes = [{name: getattr(node, name) for name in names} for node in search.nodes.values()]
    return report, nodes


@pytest.mark.parametrize("name", INSTANCES)
def test_search_that_runs_everything_meets_the_same_states(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(INSTANCES[name])
    monkeypatch.setattr(Moves, "move", lambda self, here: None)
    monkeypatch.setattr(Moves, "step", lambda self, here, change: None)
    assert told(INSTANCES[name]) == found


def _area_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Moves, "_read", lambda self, here, read: b"")


def _registers_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    right = Moves._guest_side

    def wrong(self: Moves, here: Snapshot) -> tuple[object, ...] | None:
        own, _, *rest = here.state
        return right(self, here._replace(state=(own, (), *rest)))

    patch.setattr(Moves, "_guest_side", wrong)


def _area_is_not_the_hosts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(moves.sides, "joined", lambda guest, host, memory: guest)


def _reads_under_way_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    right = Moves._host_side
    patch.setattr(Moves, "_host_side", lambda self, here, change: right(self, here._replace(watched=()), change))


SLIPS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "what the guest finds in the area": (_area_is_not_looked_at, "state"),
    "what is in the guest's registers": (_registers_are_not_looked_at, "state"),
    "what the host has stored": (_area_is_not_the_hosts, "pages"),
    "what a read has met": (_reads_under_way_are_not_looked_at, "watched"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slip_in_what_a_side_goes_by_is_noticed(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, part = SLIPS[slip]
    plant(monkeypatch)
    compared = Compared(monkeypatch)
    Search(INSTANCES["seqlock, two updates in halves"]).run()
    assert part in compared.differing
