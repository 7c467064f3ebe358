"""The search: all schedules of the host's steps over the guest's visible points, with equal states met once.

It goes by layers, one for each number of host steps, and within a layer by instructions of the guest. So the first
violation that it meets has the fewest host steps, and of those the fewest instructions.

In a layer the guest alone moves, and where it goes is determined: each state has one next state. A state that is met
again is not gone on from; where it is met on the guest's own way with the host at rest, the guest goes round for ever.
"""

import heapq
from collections.abc import Callable
from typing import NamedTuple

from emu.explore.counter import Counter
from emu.explore.instance import Instance
from emu.explore.node import Node
from emu.explore.properties import PROPERTIES, Violation
from emu.explore.runner import Runner, TimeMatters
from emu.history.edits import Change

Progress = Callable[["Search"], None]
PROVED, REFUTED, OPEN = "proved", "refuted", "open"


class Found(NamedTuple):
    """A violation: the node after which it happens, and the position by which it has."""

    violation: Violation
    node: Node
    position: int
    insns: int


class Report(NamedTuple):
    """What a search came to.

    `schedules` counts placements of the host's steps over visible points, `placements` those over all instruction
    boundaries that they stand for; both count a loop in which the guest waits once. `judged` tells how often each
    property was, `cut` how many runs a limit ended, `complete` whether nothing is left.
    """

    verdict: str
    found: Found | None
    states: int
    points: int
    layers: int
    ends: int
    cut: int
    schedules: int
    placements: int
    judged: dict[str, int]
    time_matters: bool
    complete: bool


class Search:
    """The search of one instance. `run` it; `progress` is called now and then, and may raise to end it."""

    def __init__(self, instance: Instance, progress: Progress | None = None) -> None:
        self.instance = instance
        self.nodes: dict[bytes, Node] = {}
        self.layer = 0
        self.ends = 0
        self.cut = 0
        self.judged = dict.fromkeys(PROPERTIES, 0)
        self._progress = progress
        self._best: Found | None = None
        self._at: Node | None = None
        self._numbers = 0

    def run(self) -> Report:
        """Search until a shortest violation is found, nothing is left, or a bound is met."""
        try:
            return self._run(time=False)
        except TimeMatters:
            self.__init__(self.instance, self._progress)  # type: ignore[misc]
            return self._run(time=True)

    def _run(self, *, time: bool) -> Report:
        runner = self.runner = Runner(self.instance, time=time)
        root = self._node(None, None, 0)
        self._settle(root)
        starts: list[tuple[Node, Change | None]] = [(root, None)]
        complete = True
        while starts and self._best is None:
            level: list[Node] = []
            complete = self._search_layer(starts, level)
            if not complete:
                break
            following: list[tuple[Node, Change | None]] = []
            for node in sorted(level, key=lambda one: (one.insns, one.number)):
                assert node.snapshot is not None
                runner.restore(node.snapshot)
                following += [(node, change) for change in runner.options()]
            self._at = None
            for node in level:
                if not any(parent is node for parent, _ in following):
                    node.snapshot = None
            starts = following
            self.layer += 1
        return self._report(root, time=time, complete=complete and self._best is None)

    def _search_layer(self, starts: list[tuple[Node, Change | None]], level: list[Node]) -> bool:
        """All that the guest reaches from these starts; whether nothing was left out for want of room."""
        heap: list[tuple[int, int, Node, Change | None]] = []
        for order, (node, change) in enumerate(starts):
            heap.append((node.insns, order, node, change))
        heapq.heapify(heap)
        order = len(heap)
        while heap:
            insns, _, node, change = heapq.heappop(heap)
            if self._best is not None and insns >= self._best.insns:
                break
            if len(self.nodes) >= self.instance.state_limit:
                return False
            if self._progress is not None:
                self._progress(self)
            if change is not None:
                child = self._make_step(node, change)
                if child is None:
                    continue
                node = child
            level.append(node)
            following = self._go_on(node)
            if following is not None:
                order += 1
                heapq.heappush(heap, (following.insns, order, following, None))
        return True

    def _make_step(self, node: Node, change: Change) -> Node | None:
        """The host's step from a node; the state it leads to, if that is new."""
        runner = self.runner
        self._stand_at(node)
        runner.apply(change)
        self._at = None
        child = self._node(node, change, node.layer + 1)
        if self._judge(node, runner.machine.position, change):
            return None
        return self._settled(child, node, by_host=True)

    def _go_on(self, node: Node) -> Node | None:
        """The guest's way from a node to its next point; the state there, if it is new."""
        runner = self.runner
        self._stand_at(node)
        runner.advance()
        self._at = None
        machine = runner.machine
        if self._judge(node, machine.position, None):
            return None
        if runner.ended:
            if runner.cut:
                self.cut += 1
            else:
                self.ends += 1
                if node.rest:
                    self.judged["ends"] += "ends" in self.instance.properties
            return None
        following = self._node(node, None, node.layer)
        node.gap = max(machine.position - node.position, 1)
        known = self._settled(following, node, by_host=False)
        if known is None:
            self._look_for_loop(node)
        return known

    def _settled(self, node: Node, parent: Node, *, by_host: bool) -> Node | None:
        """Give a node its state; None where that was met before, and then `parent` leads to the one that is known."""
        self._settle(node)
        assert node.snapshot is not None
        key = self.runner.key(node.snapshot)
        known = self.nodes.get(key)
        target = node if known is None else known
        if by_host:
            parent.children.append(target)
        else:
            parent.next = target
        if known is not None:
            return None
        self.nodes[key] = node
        self._at = node
        return node

    def _settle(self, node: Node) -> None:
        runner = self.runner
        node.snapshot = runner.snapshot()
        node.position = runner.machine.position
        node.insns = runner.machine.instructions
        node.rest = runner.at_rest

    def _look_for_loop(self, node: Node) -> None:
        """Whether the guest comes back to `node` by itself while the host rests."""
        if not node.rest:
            return
        turns, one = 1, node.next
        while one is not None and one is not node and one.layer == node.layer and turns <= len(self.nodes):
            one = one.next
            turns += 1
        if one is node:
            monitor = self.runner.monitor
            monitor.violations.clear()
            monitor.livelock(turns)
            self._judge(node, node.position, None)

    def _judge(self, node: Node, position: int, change: Change | None) -> bool:
        """Count what the monitor has judged; whether something did not hold."""
        monitor = self.runner.monitor
        for name, count in monitor.judged.items():
            self.judged[name] = self.judged.get(name, 0) + count
            monitor.judged[name] = 0
        if not monitor.violations:
            return False
        insns = self.runner.machine.instructions
        if self._best is None or insns < self._best.insns:
            culprit = node
            if change is not None:
                culprit = self._node(node, change, node.layer + 1)
                culprit.position = node.position
            self._best = Found(monitor.violations[0], culprit, position, insns)
        return True

    def _stand_at(self, node: Node) -> None:
        if self._at is not node:
            assert node.snapshot is not None
            self.runner.restore(node.snapshot)
            self._at = node

    def _node(self, parent: Node | None, change: Change | None, layer: int) -> Node:
        self._numbers += 1
        return Node(self._numbers, parent, change, layer)

    def _report(self, root: Node, *, time: bool, complete: bool) -> Report:
        verdict = REFUTED if self._best is not None else PROVED if complete and not self.cut else OPEN
        counter = Counter(self.nodes.values())
        return Report(
            verdict=verdict,
            found=self._best,
            states=len(self.nodes),
            points=len({node.position for node in self.nodes.values()}),
            layers=self.layer,
            ends=self.ends,
            cut=self.cut,
            schedules=counter.ways(root, weigh=False) if complete else 0,
            placements=counter.ways(root, weigh=True) if complete else 0,
            judged=dict(self.judged),
            time_matters=time,
            complete=complete,
        )
