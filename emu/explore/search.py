"""The search: all schedules of the host's steps over the guest's visible points, with equal states met once.

It goes by layers, one for each number of host steps, and within a layer by instructions of the guest. So the first
violation that it meets has the fewest host steps, and of those the fewest instructions. A layer may be shared out to
several processes; what it comes to is the same.
"""

from collections.abc import Callable
from typing import NamedTuple

from emu.explore import team
from emu.explore.counter import Counter
from emu.explore.instance import Instance
from emu.explore.layer import Explorer, Found, Layer, Start
from emu.explore.node import CUT, ENDED, Node, Way, way_to
from emu.explore.properties import PROPERTIES, Violation
from emu.explore.runner import Runner, TimeMatters

PROVED, REFUTED, OPEN = "proved", "refuted", "open"
_WORTH_SHARING = 24  # beginnings of a layer; fewer are gone through sooner than others could be told of them


class Counterexample(NamedTuple):
    """A violation, the way to it, and the position by which it has happened."""

    violation: Violation
    way: Way
    position: int


class Report(NamedTuple):
    """What a search came to.

    `states` at `points` positions were met, with `layers` complete layers; `ends` of them lead to the end of the run,
    `cut` to a limit. `schedules` counts the orders of host steps and visible points that were decided, `placements` the
    placements between instructions that they stand for; both are 0 where the search is not complete. `judged` tells how
    often each property was. `time_matters` says that the guest reads the time.
    """

    verdict: str
    found: Counterexample | None
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
    """The search of one instance by so many `jobs`. `progress` is called now and then, and may raise to end it.

    `layer_done` is called after each complete layer; what is known by then is in `nodes`.
    """

    def __init__(
        self,
        instance: Instance,
        progress: Callable[["Search"], None] = lambda search: None,
        *,
        jobs: int = 1,
        layer_done: Callable[["Search"], None] = lambda search: None,
    ) -> None:
        self.instance = instance
        self.nodes: dict[bytes, Node] = {}
        self.layers = 0
        self.met = 0  # states, those of the layer under way included
        self.time_matters = False
        self._progress = progress
        self._layer_done = layer_done
        self._jobs = jobs
        self._root: Node | None = None
        self._frontier: list[Node] = []

    def resume(self, nodes: dict[bytes, Node], layers: int, frontier: list[Node], *, time_matters: bool) -> None:
        """Go on from these complete layers, the last of which is `frontier`."""
        self.nodes, self.layers, self.time_matters = nodes, layers, time_matters
        self._root = next(node for node in nodes.values() if node.parent is None)
        self._frontier = sorted(frontier, key=lambda node: (node.insns, node.trail))

    def run(self) -> Report:
        """Search until a shortest violation is found, nothing is left, or a bound is met."""
        while True:
            try:
                return self._run()
            except TimeMatters:
                # States that differ in time alone were taken for the same: from the beginning.
                self.time_matters = True
                self.nodes, self.layers, self._root, self._frontier = {}, 0, None, []

    def _run(self) -> Report:
        explorer = Explorer(Runner(self.instance, time=self.time_matters))
        if self._root is None:
            self._root = explorer.root()
            layer = self._search(explorer, [], self._root)
        else:
            starts = self._starts()
            if not starts:
                return self._report(None, complete=True)
            layer = self._search(explorer, starts, None)
        while not layer.full and layer.found is None:
            self._add(layer)
            self._layer_done(self)
            starts = self._starts()
            if not starts:
                return self._report(None, complete=True)
            layer = self._search(explorer, starts, None)
        if layer.found is not None:
            # A process that had not heard of it may have gone further.
            last = layer.found.insns
            nodes = {key: node for key, node in layer.nodes.items() if node.insns <= last}
            children = [one for one in layer.children if self.nodes[one[0]].insns <= last]
            self._add(layer._replace(nodes=nodes, children=children))
        elif layer.full:
            self._add(self._first_of(layer))
            self.layers -= 1
        return self._report(layer.found, complete=False)

    def _first_of(self, layer: Layer) -> Layer:
        """What there was room for, in the order in which a single process meets states."""
        room = max(self.instance.state_limit - len(self.nodes), 0)
        nodes = sorted(layer.nodes.values(), key=lambda node: (node.insns, node.trail))[:room]
        last = nodes[-1].insns if nodes else 0
        children = [one for one in layer.children if self.nodes[one[0]].insns < last]
        return layer._replace(nodes={node.key: node for node in nodes}, children=children)

    def _starts(self) -> list[Start]:
        return [(node, number, step) for node in self._frontier for number, step in enumerate(node.options)]

    def _search(self, explorer: Explorer, starts: list[Start], root: Node | None) -> Layer:
        limit = self.instance.state_limit - len(self.nodes)

        def heartbeat(met: int) -> None:
            self.met = len(self.nodes) + met
            self._progress(self)

        if self._jobs > 1 and len(starts) >= _WORTH_SHARING:
            layer = team.search(self.instance, starts, self.nodes, limit, self._jobs, heartbeat, self.time_matters)
        else:
            layer = explorer.search(starts, root, self.nodes, limit, heartbeat)
        return layer._replace(full=layer.full or len(layer.nodes) > limit)

    def _add(self, layer: Layer) -> None:
        for node in self._frontier:
            node.snapshot = None
        for before, after, judged in sorted(layer.children, key=lambda one: (one[0], one[1] or b"")):
            parent = self.nodes[before]
            if after is not None:
                parent.children.append(after)
            for name, count in judged.items():
                parent.judged_before[name] = parent.judged_before.get(name, 0) + count
        self.nodes.update(layer.nodes)
        self._frontier = sorted(layer.nodes.values(), key=lambda node: (node.insns, node.trail))
        self.layers += 1

    def _report(self, found: Found | None, *, complete: bool) -> Report:
        nodes = self.nodes
        cut = sum(node.end == CUT for node in nodes.values())
        judged = dict.fromkeys((*PROPERTIES, *(name for name, _ in self.instance.own)), 0)
        for node in nodes.values():
            for counts in (node.judged, node.judged_before):
                for name, count in counts.items():
                    judged[name] += count
        counter = Counter(nodes)
        root = self._root
        assert root is not None
        return Report(
            verdict=REFUTED if found is not None else PROVED if complete and not cut else OPEN,
            found=None if found is None else _counterexample(found, nodes),
            states=len(nodes),
            points=len({node.position for node in nodes.values()}),
            layers=self.layers,
            ends=sum(node.end == ENDED for node in nodes.values()),
            cut=cut,
            schedules=counter.ways(root, weigh=False) if complete else 0,
            placements=counter.ways(root, weigh=True) if complete else 0,
            judged=judged,
            time_matters=self.time_matters,
            complete=complete,
        )


def _counterexample(found: Found, nodes: dict[bytes, Node]) -> Counterexample:
    last = found.node
    if found.change is not None:
        last = Node(b"", found.node.key, found.change, found.trail)
        last.position = found.node.position
    return Counterexample(found.violation, way_to(last, nodes), found.position)
