"""Places of a history from which it can be taken up again: dense near the cursor, and thinning out behind it.

A checkpoint may be forgotten where the way from the one before it stays short beside the distance from the cursor: so
going back costs in proportion to how far, and there are only so many for each doubling of that distance.

In Linux: nothing like it; rr's checkpoints are the example, rr/src/ReplayTimeline.cc.
"""

import bisect
from typing import NamedTuple

from emu.history.memory import Pages
from emu.stateful import State

SHARE = 16  # the way to a checkpoint is at most this part of the distance from the cursor
NEAR = 64  # ways not longer than this are never worth a checkpoint


class Checkpoint(NamedTuple):
    """The machine at `position`: `state` is all of it but RAM, `pages` is RAM; `events` happened before.

    `effort` says how long a run to here takes, in instructions; `exits` and such count as many.
    """

    position: int
    effort: int
    instructions: int
    events: int
    state: State
    pages: Pages


class Checkpoints:
    """Sorted by position; the first of them is never forgotten."""

    def __init__(self, first: Checkpoint) -> None:
        self._kept = [first]

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(tuple(self._kept))

    def at(self, position: int) -> Checkpoint:
        """The last one at or before `position`."""
        return self._kept[self._index(position) - 1]

    def add(self, checkpoint: Checkpoint) -> None:
        """Keep one more, in place of one at the same position."""
        index = self._index(checkpoint.position)
        if index and self._kept[index - 1].position == checkpoint.position:
            self._kept[index - 1] = checkpoint
        else:
            self._kept.insert(index, checkpoint)

    def forget_after(self, position: int) -> None:
        """What lies behind `position` will not come to pass."""
        del self._kept[max(self._index(position), 1) :]

    def thin(self, effort: int) -> None:
        """Forget what the rule allows, for a cursor that is this far from the beginning."""
        kept = [self._kept[-1]]
        for number in range(len(self._kept) - 2, 0, -1):
            older, this, newer = self._kept[number - 1], self._kept[number], kept[-1]
            if newer.effort - older.effort > max(NEAR, abs(effort - this.effort) // SHARE):
                kept.append(this)
        if len(self._kept) > 1:
            kept.append(self._kept[0])
        self._kept = kept[::-1]

    def _index(self, position: int) -> int:
        return bisect.bisect_right(self._kept, position, key=lambda one: one.position)
