"""Going back in a run of 100 million instructions, and trying every schedule of a small one."""

import statistics
import time

from emu.explore.instance import Instance
from emu.explore.naive import Naive
from emu.explore.search import Search
from emu.guest import load_guest
from emu.history.history import History
from emu.machine import Machine
from emu.scenario import Config
from tests.explore.readers import ALL

INSNS = 100_000_000
NAIVE_SCHEDULES = 400


def _timed(action) -> float:  # type: ignore[no-untyped-def]
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def walking() -> dict[str, float]:
    """Seconds: the run itself, the same as a history, and steps back from its end, median and worst of five."""
    config = Config(insn_limit=INSNS)
    image = load_guest("hog")
    plain = _timed(Machine(image, config).run)
    history = History(image, config)
    forward = _timed(history.end)
    near, far = [], []
    for number in range(5):
        near.append(_timed(history.back))
        far.append(_timed(lambda at=INSNS // 7 * (number + 1): history.go(at)))
        history.end()
    pages = len(history._memory._first)
    return {
        "run": plain,
        "history": forward,
        "near": max(near),
        "far": max(far),
        "checkpoints": history.checkpoints,
        "pages": pages,
    }


def exploring() -> dict[str, float]:
    """Two updates of four stores over the right reader: seconds, and placements decided per second; the naive rate."""
    instance = Instance(load_guest("readers/seqlock"), "other-cpu", 2, True, properties=ALL)
    seconds = [0.0] * 3
    for number in range(3):
        begun = time.perf_counter()
        report = Search(instance).run()
        seconds[number] = time.perf_counter() - begun
    took = statistics.median(seconds)
    begun = time.perf_counter()
    naive = Naive(instance, NAIVE_SCHEDULES).run()
    rate = (naive.schedules + naive.waiting) / (time.perf_counter() - begun)
    two = _timed(Search(instance, jobs=2).run)
    return {
        "seconds": took,
        "states": report.states,
        "placements": report.placements,
        "rate": report.placements / took,
        "schedules_rate": report.schedules / took,
        "naive_rate": rate,
        "two_jobs": two,
    }
