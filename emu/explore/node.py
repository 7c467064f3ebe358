"""A state that a search has met, and how it hangs together with others."""

from emu.explore.runner import Snapshot
from emu.history.edits import Change, Edit


class Node:
    """A state at a visible point: how it was reached first, and where it leads.

    `next` is the node that the guest reaches from here, None where its run ends; `gap` is how many positions lie on
    the way there at which a host step has the same effect as there. `rest` says that the host is inside no update.
    """

    __slots__ = (
        "number",
        "parent",
        "change",
        "position",
        "insns",
        "layer",
        "snapshot",
        "next",
        "gap",
        "children",
        "rest",
    )

    def __init__(self, number: int, parent: "Node | None", change: Change | None, layer: int) -> None:
        self.number = number
        self.parent = parent
        self.change = change
        self.layer = layer
        self.position = 0
        self.insns = 0
        self.snapshot: Snapshot | None = None
        self.next: Node | None = None
        self.gap = 1
        self.children: list[Node] = []
        self.rest = True

    def schedule(self) -> tuple[Edit, ...]:
        """The host's steps on the way here, each with its position."""
        found: list[Edit] = []
        node: Node | None = self
        while node is not None:
            if node.change is not None:
                found.append(Edit(node.position, node.change))
            node = node.parent
        return tuple(reversed(found))

    def points(self) -> list[int]:
        """The positions of the visible points on the way here, this one included."""
        found: list[int] = []
        node: Node | None = self
        while node is not None:
            if not found or found[-1] != node.position:
                found.append(node.position)
            node = node.parent
        return found[::-1]
