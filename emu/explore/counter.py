"""How many schedules a finished search has decided: ways through its graph, from the beginning to the guest's end.

Steps of the host that fall into one gap between two visible points may be placed there at any of its positions, in
their order: k steps in a gap of g positions are (g + k - 1 over k) placements. A guest that waits in a loop for the
host goes round it once.
"""

import math
from collections.abc import Mapping

from emu.explore.node import Node


class Counter:
    """Over these nodes, whose search is complete."""

    def __init__(self, nodes: Mapping[bytes, Node]) -> None:
        self._nodes = nodes
        self._known: dict[bytes, int] = {}
        self._weigh = False

    def ways(self, root: Node, *, weigh: bool) -> int:
        """The schedules from `root` on: over visible points, or with `weigh` over all positions."""
        self._known, self._weigh = {}, weigh
        return self._ways(root.key)

    def _ways(self, key: bytes) -> int:
        if key not in self._known:
            self._along(self._nodes[key])  # no deeper than there are host steps: each call is one step further
        return self._known[key]

    def _along(self, node: Node) -> None:
        """Count for `node`, and for all that the guest reaches from it by itself."""
        known = self._known
        chain: list[Node] = []
        places: dict[bytes, int] = {}
        one: Node | None = node
        while one is not None and one.key not in known and one.key not in places:
            places[one.key] = len(chain)
            chain.append(one)
            one = self._following(one)
        if one is not None and one.key in places:
            first = places[one.key]
            loop, chain = chain[first:], chain[:first]
            for number, entered in enumerate(loop):
                # Whoever enters the loop here leaves it, at the latest, where it would come here again.
                ways = 0
                for here, there in zip(
                    reversed(round_ := loop[number:] + loop[:number]), [None, *reversed(round_[1:])], strict=True
                ):
                    ways = 0 if there is None else self._from(here, there, ways)
                known[entered.key] = ways
        for here in reversed(chain):
            following = self._following(here)
            known[here.key] = 1 if following is None else self._from(here, following, known[following.key])

    def _following(self, node: Node) -> Node | None:
        return None if node.next is None else self._nodes[node.next]

    def _from(self, before: Node, node: Node, ways: int) -> int:
        """Any number of host steps between `before` and `node`, then the guest's way on; without any it is `ways`."""
        gap = before.gap if self._weigh else 1
        total, steps, level = ways, 1, _counted({}, node.children, 1)
        while level:
            placed = math.comb(gap + steps - 1, steps)
            total += placed * sum(times * self._ways(key) for key, times in level.items())
            following: dict[bytes, int] = {}
            for key, times in level.items():
                _counted(following, self._nodes[key].children, times)
            level, steps = following, steps + 1
        return total


def _counted(level: dict[bytes, int], keys: list[bytes], times: int) -> dict[bytes, int]:
    for key in keys:
        level[key] = level.get(key, 0) + times
    return level
