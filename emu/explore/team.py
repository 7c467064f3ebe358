"""A layer shared out to several processes: each goes through a part of its beginnings, and the states are put together.

Processes are forked, so that they need not be told what is known already; what they send back is their own. Two of them
may meet the same state: the shorter way is kept, which is the one that a single process would have kept.
"""

import multiprocessing
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from emu.explore.instance import Instance
from emu.explore.layer import Explorer, Heartbeat, Layer, Start
from emu.explore.node import Node
from emu.explore.runner import Runner, TimeMatters

_EVERY = 64  # states between two words on how far it is


def available() -> bool:
    """Whether this system can fork."""
    return "fork" in multiprocessing.get_all_start_methods()


def search(
    instance: Instance,
    starts: Sequence[Start],
    known: Mapping[bytes, Node],
    limit: int,
    jobs: int,
    heartbeat: Heartbeat,
    time: bool,
) -> Layer:
    """What Explorer.search comes to, by `jobs` processes. Raises what happens in any of them."""
    context: Any = multiprocessing.get_context("fork")
    pipes: list[Connection] = []
    workers = []
    try:
        for number in range(jobs):
            ours, theirs = context.Pipe(duplex=False)
            part = starts[len(starts) * number // jobs : len(starts) * (number + 1) // jobs]
            worker = context.Process(target=_work, args=(theirs, instance, part, known, limit, time), daemon=True)
            worker.start()
            theirs.close()
            pipes.append(ours)
            workers.append(worker)
        return _together(_collect(pipes, heartbeat))
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        for pipe in pipes:
            pipe.close()


def _work(
    pipe: Connection, instance: Instance, starts: Sequence[Start], known: Mapping[bytes, Node], limit: int, time: bool
) -> None:
    def heartbeat(met: int) -> None:
        if met % _EVERY == 0:
            pipe.send(met)

    try:
        pipe.send(Explorer(Runner(instance, time=time)).search(starts, None, known, limit, heartbeat))
    except TimeMatters:
        pipe.send(TimeMatters())
    except KeyboardInterrupt:
        pass
    except Exception as error:
        pipe.send(error)


def _collect(pipes: list[Connection], heartbeat: Heartbeat) -> list[Layer]:
    met = dict.fromkeys(range(len(pipes)), 0)
    layers: dict[int, Layer] = {}
    while len(layers) < len(pipes):
        for ready in wait([pipe for number, pipe in enumerate(pipes) if number not in layers]):
            number = pipes.index(ready)  # type: ignore[arg-type]
            try:
                told = pipes[number].recv()
            except EOFError:
                raise RuntimeError("a process of the search has died") from None
            if isinstance(told, int):
                met[number] = told
                heartbeat(sum(met.values()))
            elif isinstance(told, Layer):
                layers[number] = told
            else:
                raise told
    return [layers[number] for number in range(len(pipes))]


def _together(layers: list[Layer]) -> Layer:
    nodes: dict[bytes, Node] = {}
    for layer in layers:
        for key, node in layer.nodes.items():
            other = nodes.get(key)
            if other is None or (node.insns, node.trail) < (other.insns, other.trail):
                nodes[key] = node
    found = [layer.found for layer in layers if layer.found is not None]
    best = min(found, key=lambda one: one[:2], default=None)
    children = [child for layer in layers for child in layer.children]
    return Layer(nodes, children, best, any(layer.full for layer in layers))
