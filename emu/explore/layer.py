"""One layer of a search: all that the guest reaches by itself after one more step of the host, shortest ways first.

The guest alone moves here, and where it goes is determined: each state has one next state. A state that is met again
is not gone on from. Where it is met on the guest's own way with the host at rest, the guest goes round for ever.

What a layer comes to does not depend on how its beginnings are shared out: of each state the shortest way is kept.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from emu.explore.moves import Move, Moves, Step
from emu.explore.node import CUT, ENDED, Node, Trail
from emu.explore.properties import ENDS, Violation
from emu.explore.runner import SIDE, Runner
from emu.explore.sides import Snapshot
from emu.history.edits import Change

Start = tuple[Node, int, Change]  # a state of the layer before, and the step made there: its number and itself
Heartbeat = Callable[[int], None]  # called with how many states were met so far


class Found(NamedTuple):
    """A violation: the last state before it, the host's step that brought it about or None, and when it happened."""

    insns: int
    trail: Trail
    violation: Violation
    node: Node
    change: Change | None
    position: int


class Layer(NamedTuple):
    """The states that were met, by their keys; what the host's steps led to; and the first violation, if any.

    `children` are (state before, state after, what was judged on the way). `full` tells that there were too many.
    """

    nodes: dict[bytes, Node]
    children: list[tuple[bytes, bytes | None, dict[str, int]]]
    found: Found | None
    full: bool


class Explorer:
    """Goes through one layer after the other with one runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._moves = Moves(runner.instance, runner.memory)
        self._at: Node | None = None

    def root(self) -> Node:
        """The state at the beginning."""
        root = Node(b"", None, None, ())
        self._settle(root)
        return root

    def search(
        self, starts: Sequence[Start], root: Node | None, known: Mapping[bytes, Node], limit: int, heartbeat: Heartbeat
    ) -> Layer:
        """All that follows from these steps, or from `root`; states that are `known` are not gone on from."""
        layer = Layer({}, [], None, False)
        best: Found | None = None
        heap: list[tuple[int, Trail, int, Node, Change | None]] = []
        if root is not None:
            heap.append((root.insns, root.trail, 0, root, None))
        for start, number, step in starts:
            heap.append((start.insns, (*start.trail, (start.position, number)), number, start, step))
        heapq.heapify(heap)
        self._at = None
        while heap:
            insns, trail, _, node, change = heapq.heappop(heap)
            if best is not None and insns > best.insns:
                break
            if len(layer.nodes) > limit:
                return layer._replace(full=True)
            heartbeat(len(layer.nodes))
            if change is not None:
                before = node
                child, judged, found = self._after_step(before, change, trail)
                layer.children.append((before.key, None if found else child.key, judged))
                if found is not None:
                    best = found if best is None else min(best, found, key=lambda one: one[:2])
                    continue
                node = child
            if node.key in layer.nodes or node.key in known:
                continue
            layer.nodes[node.key] = node
            following, found = self._go_on(node)
            if found is None and node.end is None:
                assert following is not None
                node.next = following.key
                if following.key in layer.nodes:
                    found = self._loop(node, layer.nodes)
                else:
                    heapq.heappush(heap, (following.insns, trail, 0, following, None))
            if found is not None:
                best = found if best is None else min(best, found, key=lambda one: one[:2])
        return layer._replace(found=best)

    def _after_step(self, node: Node, change: Change, trail: Trail) -> tuple[Node, dict[str, int], Found | None]:
        """Make the host's step in a state: the state after it, what was judged, and what was violated."""
        here, child = node.snapshot, Node(b"", node.key, change, trail)
        assert here is not None
        known = self._moves.step(here, change)
        if known is not None:
            child.options, child.rest = known.options, known.rest
            _place(child, known.move.after, node.key[:SIDE] + known.move.key[SIDE:])
            return child, dict(known.move.judged), None
        self._stand_at(node)
        self._runner.apply(change)
        self._settle(child)
        judged, found = self._take_judged(), self._violated(node, trail, change)
        if found is None:
            assert child.snapshot is not None
            self._moves.stepped(here, change, Step(Move(child.snapshot, child.key, judged), child.options, child.rest))
        return child, judged, found

    def _go_on(self, node: Node) -> tuple[Node | None, Found | None]:
        """Let the guest go on from a state to its next visible point: the state there, None at its end, and what was
        violated."""
        here, following = node.snapshot, Node(b"", node.key, None, node.trail)
        assert here is not None
        known = self._moves.move(here)
        if known is not None:
            following.options, following.rest = node.options, node.rest
            _place(following, known.after, known.key[:SIDE] + node.key[SIDE:])
            node.judged = dict(known.judged)
            node.gap = max(following.position - node.position, 1)
            return following, None
        runner = self._runner
        self._stand_at(node)
        runner.advance(here)
        self._at = None
        if runner.ended:
            node.end = CUT if runner.cut else ENDED
            if node.end == ENDED and node.rest:
                runner.monitor.came_to_an_end()
            node.judged = self._take_judged()
            return None, self._violated(node, node.trail, None)
        access = runner.one_access
        self._settle(following)
        node.gap = max(following.position - node.position, 1)
        node.judged, found = self._take_judged(), self._violated(node, node.trail, None)
        if found is None:
            assert following.snapshot is not None
            self._moves.moved(here, access, Move(following.snapshot, following.key, node.judged))
        return following, found

    def _loop(self, node: Node, nodes: Mapping[bytes, Node]) -> Found | None:
        """Whether the guest, by itself and with the host at rest, comes back to this state for ever."""
        if not node.rest:
            return None
        turns, key = 1, node.next
        while key is not None and key in nodes and key != node.key and turns <= len(nodes):
            key = nodes[key].next
            turns += 1
        if key != node.key:
            return None
        monitor = self._runner.monitor
        monitor.violations.clear()
        monitor.livelock(turns)
        self._take_judged()
        return self._violated(node, node.trail, None)

    def _violated(self, node: Node, trail: Trail, change: Change | None) -> Found | None:
        monitor = self._runner.monitor
        if not monitor.violations:
            return None
        machine = self._runner.machine
        violation = monitor.violations[0]
        if violation.property == ENDS:
            return Found(node.insns, trail, violation, node, change, node.position)
        return Found(machine.instructions, trail, violation, node, change, machine.position)

    def _take_judged(self) -> dict[str, int]:
        monitor = self._runner.monitor
        judged = {name: count for name, count in monitor.judged.items() if count}
        for name in judged:
            monitor.judged[name] = 0
        return judged

    def _settle(self, node: Node) -> None:
        runner = self._runner
        here = runner.snapshot()
        _place(node, here, runner.key(here))
        node.ahead = runner.ahead
        node.rest = runner.at_rest
        node.options = runner.options()
        self._at = node

    def _stand_at(self, node: Node) -> None:
        if self._at is not node:
            assert node.snapshot is not None
            self._runner.restore(node.snapshot, node.ahead)
            self._at = node


def _place(node: Node, here: Snapshot, key: bytes) -> None:
    node.snapshot, node.key = here, key
    node.position, node.insns = here.state[0][:2]
