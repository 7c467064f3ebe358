"""Random walks through a run, forward and back, with jumps: no position is ever met in two states.

`python -m tests.history` walks 10,000 steps over every guest.
"""

import random
import sys
import time

from emu import data
from emu.guest import load_guest
from emu.history.history import History
from emu.scenario import Config
from tests.test_determinism import MIXED

# What some guests need to show what they are about; every other one runs on the plain machine, and on the busy one.
OPTIONS = {
    "smp": Config(**MIXED),
    "clock": Config(vcpus=2, tasks=("busy",)),
    "kvmclock": Config(vcpus=2, tasks=("busy",)),
    "idle": Config(tasks=("periodic:period=1ms,run=300us",), policy="fair"),
    "async_pf": Config(swap=("page:at=50us,in=200us,every=1ms",)),
    "conformance/steal": Config(host_model="other-cpu"),
    "torn": Config(tasks=("busy",), host_model="other-cpu"),
    "torn32": Config(tasks=("busy",), host_model="other-cpu", steal_store="halves"),
    "hog": Config(insn_limit=20_000_000),
}


def walk(guest: str, steps: int, seed: int) -> tuple[int, int]:
    """How many positions were met more than once, and how many of those meetings were in another state."""
    drawn = random.Random(seed)
    history = History(load_guest(guest), OPTIONS.get(guest, Config()))
    history.end()
    last = history.position
    met: dict[int, int] = {}
    again = different = 0
    for _ in range(steps):
        way = drawn.random()
        if way < 0.6:
            history.step() if drawn.random() < 0.5 else history.back()
        elif way < 0.97:
            history.go(min(max(history.position + drawn.randrange(-300, 301), 0), last))
        else:
            history.go(drawn.randrange(last + 1))
        state, pages = history.state()
        found = hash((state, frozenset(pages.items())))
        again += history.position in met
        different += met.setdefault(history.position, found) != found
    return again, different


def main() -> int:
    """All guests, with progress; status 1 where a state differed."""
    failed = 0
    for guest in data.guest_names():
        begun = time.perf_counter()
        again, different = walk(guest, 10_000, 1)
        failed += different
        print(
            f"{guest:24} met again {again:6}, differing {different}, {time.perf_counter() - begun:6.1f} s", flush=True
        )
    print(f"differing states     {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
