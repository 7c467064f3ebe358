"""What being stateful promises, for any part: taken, loaded and gone on with, nothing tells the difference.

A rig is one or more parts, the world around them, and operations by which both change. `check` holds it to the promise
and looks at every attribute, so that one that is added later cannot be forgotten in a state.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st

from emu import stateful
from emu.stateful import Stateful

Operation = tuple[int, int]  # which of the rig's operations, and a number for it to make of what it likes

# Attributes that may differ between two parts in the same state, and why.
NOT_STATE = {
    ("WallClock", "_generation"): "tells apart updates that are being handed out; loading ends them all",
    ("SystemTime", "_generation"): "tells apart updates that are being handed out; loading ends them all",
    ("Console", "_log"): "beyond the length, what one may come forward to again",
    ("Draws", "_words"): "how far somebody has looked",
    ("Draws", "_generator"): "how far somebody has looked",
    ("Scheduler", "_wakes"): "tie-breakers are counted anew, in the same order; the state itself tells it",
    ("Scheduler", "_wakes_made"): "tie-breakers are counted anew, in the same order",
    ("Scheduler", "_plan"): "made of the script when the host starts",
}


def leave_out(monkeypatch: pytest.MonkeyPatch, kind: type[Stateful], name: str) -> None:
    """Make a class forget one of its attributes."""
    for names in ("fields", "parts"):
        monkeypatch.setattr(kind, names, tuple(one for one in getattr(kind, names) if one != name))
    monkeypatch.setattr(stateful, "_ways", {})  # made of the lists as they were


class Rig:
    """Subclasses fill `parts` and list `operations`: functions of the rig and a number, whose results are compared."""

    parts: tuple[Any, ...]
    operations: tuple[Callable[[Any, int], object], ...]

    def do(self, operations: Iterable[Operation]) -> list[object]:
        return [self.operations[which % len(self.operations)](self, number) for which, number in operations]

    def state(self) -> tuple[Any, ...]:
        return tuple(part.state() for part in self.parts)

    def load(self, state: tuple[Any, ...]) -> None:
        for part, of_part in zip(self.parts, state, strict=True):
            part.load(of_part)

    def world(self) -> Any:
        """All that is not the parts', frozen."""

    def restore(self, world: Any) -> None:
        """Make the world that again."""


def check(
    make: Callable[[], Rig],
    before: list[Operation],
    after: list[Operation],
    other: list[Operation],
    *,
    anew: bool = True,
) -> None:
    """`anew`: also one that has just been made becomes what the state says."""
    rig = make()
    rig.do(before)
    state, world, seen = rig.state(), rig.world(), picture(rig.parts)
    assert rig.state() == state and picture(rig.parts) == seen, "looking changes nothing"
    assert_frozen(state)
    outcomes, end = rig.do(after), (rig.state(), picture(rig.parts))
    rig.do(other)
    for one in (rig, make()) if anew else (rig,):
        one.load(state)
        one.restore(world)
        assert one.state() == state
        assert hash(one.state()) == hash(state)
        assert picture(one.parts) == seen
        assert one.do(after) == outcomes
        assert (one.state(), picture(one.parts)) == end


def assert_frozen(state: object) -> None:
    """Plain data all through: what could be written to a file and read again without executing anything."""
    if isinstance(state, tuple):
        for value in state:
            assert_frozen(value)
    else:
        assert state is None or type(state) in (int, str, bytes, bool), type(state)


def picture(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Everything that can be seen of a part: its attributes, and theirs; functions are wiring."""
    if value is None or isinstance(value, int | str | bytes):
        return value
    if isinstance(value, bytearray | array):
        return bytes(value)
    if isinstance(value, tuple | list | deque):
        return [picture(one, above) for one in value]
    if isinstance(value, dict):
        items = [(picture(key, above), picture(one, above)) for key, one in value.items()]
        return sorted(items) if all(isinstance(key, int | str) for key in value) else items
    if isinstance(value, type) or not type(value).__module__.startswith("emu."):
        return "wiring"
    if id(value) in above:
        return "above"
    kind = type(value).__name__
    names = attributes(value)
    shown = {
        name: picture(getattr(value, name), (*above, id(value))) for name in names if (kind, name) not in NOT_STATE
    }
    return kind, shown


def attributes(value: object) -> list[str]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return sorted({*slots, *getattr(value, "__dict__", {})})


def stateful_within(value: Any) -> Iterator[Stateful]:
    """The part and those inside it."""
    if isinstance(value, Stateful):
        yield value
        for name in type(value).parts:
            yield from stateful_within(getattr(value, name))


OPERATIONS = st.lists(st.tuples(st.integers(0, 63), st.integers(0, 2**64 - 1)), max_size=30)


def some(random: Random) -> list[Operation]:
    return [(random.randrange(64), random.getrandbits(64)) for _ in range(random.randrange(40))]


def is_caught(make: Callable[[], Rig], *, rounds: int = 400, anew: bool = True) -> bool:
    """Whether `check` fails for this rig, on some of the operations it is given."""
    random = Random(1)
    for _ in range(rounds):
        try:
            check(make, some(random), some(random), some(random), anew=anew)
        except AssertionError:
            return True
    return False
