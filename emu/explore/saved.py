"""A search that was interrupted, as a file: the layers that are complete, so that it can go on with the next one.

A packed file, as a recording is. The states themselves are not in it, only the ways to them, which are gone again.
"""

import hashlib
from typing import Any

from emu.explore.instance import Instance
from emu.explore.node import Node, way_to
from emu.explore.runner import Runner
from emu.explore.search import Search
from emu.faults import HostError
from emu.history.edits import Edit, from_json, to_json
from emu.history.packed import Format

FORMAT = Format("emuexplore", 4, 1 << 30)


def to_bytes(search: Search) -> bytes:
    """What is known after the last complete layer."""
    data = {
        "instance": identity(search.instance),
        "time_matters": search.time_matters,
        "layers": search.layers,
        "nodes": [_told(node) for node in search.nodes.values()],
    }
    return FORMAT.to_bytes(data)


def take_up(search: Search, content: bytes, where: str) -> None:
    """Bring a new search to where a saved one was. Raises HostError where the file is none, or of another search."""
    if FORMAT.version_of(content) != FORMAT.version:
        raise HostError("this is no search that was saved", where, "name another file with --resume")
    try:
        data = FORMAT.from_bytes(content)
        if data["instance"] != identity(search.instance):
            raise HostError("another search is saved there", where, "give the same guest and options, or another file")
        nodes = {node.key: node for node in map(_node, data["nodes"])}
        layers, time_matters = int(data["layers"]), bool(data["time_matters"])
        frontier = [node for node in nodes.values() if node.layer == layers - 1]
        runner = Runner(search.instance, time=time_matters)
        for node in frontier:
            _go_again(runner, node, nodes)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise HostError("the saved search is damaged", where, "delete it, and begin again") from None
    search.resume(nodes, layers, frontier, time_matters=time_matters)


def identity(instance: Instance) -> str:
    """What makes two instances the same, as a hash."""
    own = [name for name, _ in instance.own]
    told = instance._replace(image=instance.image.sha256, properties=sorted(instance.properties), own=own)  # type: ignore[arg-type]
    return hashlib.sha256(repr(tuple(told)).encode()).hexdigest()


def _go_again(runner: Runner, node: Node, nodes: dict[bytes, Node]) -> None:
    runner.restore(runner.beginning)
    for step in way_to(node, nodes).steps:
        runner.run_to(step.position)
        runner.apply(step.change)
    runner.run_to(node.position)
    node.snapshot, node.options = runner.snapshot(), runner.options()
    if runner.key(node.snapshot) != node.key:
        raise ValueError("a way leads to another state than it did")


def _told(node: Node) -> list[Any]:
    return [
        node.key.hex(),
        None if node.parent is None else node.parent.hex(),
        None if node.change is None else to_json(Edit(node.position, node.change)),
        node.position,
        node.insns,
        node.trail,
        node.rest,
        None if node.next is None else node.next.hex(),
        node.gap,
        node.end,
        [child.hex() for child in node.children],
        node.judged,
        node.judged_before,
    ]


def _node(told: list[Any]) -> Node:
    key, parent, change, position, insns, trail, rest, following, gap, end, children, judged, before = told
    node = Node(
        bytes.fromhex(key),
        None if parent is None else bytes.fromhex(parent),
        None if change is None else from_json(change).change,
        tuple([(int(at), int(number)) for at, number in trail]),
    )
    node.position, node.insns, node.rest, node.gap, node.end = int(position), int(insns), bool(rest), int(gap), end
    node.next = None if following is None else bytes.fromhex(following)
    node.children = [bytes.fromhex(child) for child in children]
    node.judged = {str(name): int(count) for name, count in judged.items()}
    node.judged_before = {str(name): int(count) for name, count in before.items()}
    return node
