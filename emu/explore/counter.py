"""How many schedules a finished search has decided: ways through its graph, from the beginning to the guest's end.

Steps of the host that fall into one gap between two visible points may be placed there at any of its positions, in
their order: k steps in a gap of g positions are (g + k - 1 over k) placements. A guest that waits in a loop for the
host goes round it once.
"""

import math
from collections.abc import Iterable

from emu.explore.node import Node


class Counter:
    """Over these nodes, whose search is complete."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._layers: dict[int, list[Node]] = {}
        for node in nodes:
            self._layers.setdefault(node.layer, []).append(node)

    def ways(self, root: Node, *, weigh: bool) -> int:
        """The schedules from `root` on: over visible points, or with `weigh` over all positions."""
        known: dict[int, int] = {}
        for layer in sorted(self._layers, reverse=True):
            for node in self._layers[layer]:
                self._along(node, known, weigh=weigh)
        self._along(root, known, weigh=weigh)
        return known[root.number]

    def _along(self, node: Node, known: dict[int, int], *, weigh: bool) -> None:
        """Count for `node`, and for all that the guest reaches from it by itself; later layers are known."""
        chain: list[Node] = []
        places: dict[int, int] = {}
        one: Node | None = node
        while one is not None and one.number not in known and one.number not in places:
            places[one.number] = len(chain)
            chain.append(one)
            one = one.next
        if one is not None and one.number in places:
            first = places[one.number]
            loop = chain[first:]
            for number in range(len(loop)):
                # Whoever enters the loop here leaves it, at the latest, where it would come here again.
                round_ = loop[number:] + loop[:number]
                ways = 0
                for here, there in zip(reversed(round_), [None, *reversed(round_[1:])], strict=True):
                    ways = 0 if there is None else self._from(here, there, ways, known, weigh=weigh)
                    if here is loop[number]:
                        known_here = ways
                known[loop[number].number] = known_here
            chain = chain[:first]
        for here in reversed(chain):
            there = here.next
            known[here.number] = (
                1 if there is None else self._from(here, there, known[there.number], known, weigh=weigh)
            )

    def _from(self, before: Node, node: Node, ways: int, known: dict[int, int], *, weigh: bool) -> int:
        """Any number of host steps between `before` and `node`, then the guest's way on; without any it is `ways`."""
        gap = before.gap if weigh else 1
        total, steps = ways, 1
        level = {child.number: (child, node.children.count(child)) for child in node.children}
        while level:
            placed = math.comb(gap + steps - 1, steps)
            total += placed * sum(times * known[number] for number, (_, times) in level.items())
            following: dict[int, tuple[Node, int]] = {}
            for one, times in level.values():
                for child in one.children:
                    following[child.number] = child, following.get(child.number, (child, 0))[1] + times
            level, steps = following, steps + 1
        return total
