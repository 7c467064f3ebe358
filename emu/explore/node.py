"""A state that a search has met: how it was reached first, and where it leads."""

from collections.abc import Mapping
from typing import NamedTuple

from emu.explore.runner import NOTHING_AHEAD
from emu.explore.sides import Snapshot
from emu.history.edits import Change, Edit

# (position, which of the host's possible steps): of two schedules the lexicographically smaller is told.
Trail = tuple[tuple[int, int], ...]
ENDED, CUT = "ended", "cut"


class Node:
    """A state at a visible point, known by `key`, on the shortest way to it.

    `parent` is the key of the state before: the host's `change` led here, or without one the guest's next instructions.
    `next` is the state that the guest reaches from here, `gap` how many positions lie on the way there at which a host
    step has the same effect as there; `end` tells that there is none, ENDED or CUT. `children` are the states that the
    host reaches by its `options`, `rest` says that it is inside no update. `judged` counts what was judged on the way
    to `next`, and `judged_before` on the host's way here. `snapshot` is kept for as long as the search needs it;
    `ahead` is what the runner knew there.
    """

    __slots__ = (
        *("key", "parent", "change", "position", "insns", "trail", "snapshot", "ahead", "rest", "options"),
        *("next", "gap", "end", "children", "judged", "judged_before"),
    )

    def __init__(self, key: bytes, parent: bytes | None, change: Change | None, trail: Trail) -> None:
        self.key = key
        self.parent = parent
        self.change = change
        self.trail = trail
        self.position = 0
        self.insns = 0
        self.snapshot: Snapshot | None = None
        self.ahead = NOTHING_AHEAD
        self.rest = True
        self.options: list[Change] = []
        self.next: bytes | None = None
        self.gap = 1
        self.end: str | None = None
        self.children: list[bytes] = []
        self.judged: dict[str, int] = {}
        self.judged_before: dict[str, int] = {}

    @property
    def layer(self) -> int:
        """How many steps of the host led here."""
        return len(self.trail)


class Way(NamedTuple):
    """How a state was reached: the host's steps, and the visible points passed, each with its position."""

    steps: tuple[Edit, ...]
    points: tuple[int, ...]


def way_to(node: Node, nodes: Mapping[bytes, Node]) -> Way:
    """The way from the beginning to `node`, whose ancestors are in `nodes`."""
    steps: list[Edit] = []
    points: list[int] = []
    one: Node | None = node
    while one is not None:
        before = None if one.parent is None else nodes[one.parent]
        if one.change is not None and before is not None:
            steps.append(Edit(before.position, one.change))
        if not points or points[-1] != one.position:
            points.append(one.position)
        one = before
    return Way(tuple(reversed(steps)), tuple(reversed(points)))
