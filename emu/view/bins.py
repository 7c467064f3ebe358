"""Sums over time in bounded memory: a fixed number of bins that become wider as time goes on.

Nothing needs to be known of how long a run will be. Where time goes past the last bin, neighbours are merged; sums are
whole nanoseconds, so a merged bin holds exactly what its parts held. Merging five, then two, then five again keeps the
width a round number: 1, 5, 10, 50, 100 ns and so on.
"""

from array import array
from collections.abc import Hashable

BINS = 2000  # divisible by five and by two


class Bins:
    """Lanes of BINS bins each, from time 0 on; a lane exists from the first time it is added to.

    All lanes have bins of `width_ns`.
    """

    __slots__ = ("width_ns", "_lanes")

    def __init__(self, width_ns: int = 1) -> None:
        self.width_ns = width_ns
        self._lanes: dict[Hashable, array[int]] = {}

    def add(self, lane: Hashable, begin_ns: int, end_ns: int) -> None:
        """Add the duration of [begin_ns, end_ns) to the bins it lies in."""
        if begin_ns >= end_ns:
            return
        bins = self._reach(lane, end_ns)
        width = self.width_ns
        first, last = begin_ns // width, (end_ns - 1) // width
        if first == last:
            bins[first] += end_ns - begin_ns
            return
        bins[first] += (first + 1) * width - begin_ns
        for number in range(first + 1, last):
            bins[number] += width
        bins[last] += end_ns - last * width

    def count(self, lane: Hashable, at_ns: int) -> None:
        """Add one to the bin of this moment."""
        self._reach(lane, at_ns + 1)[at_ns // self.width_ns] += 1

    def cells(self, lane: Hashable, bins_per_cell: int, cells: int) -> list[int]:
        """The lane in `cells` cells of so many bins; what lies past the last cell counts as in it."""
        bins = self._lanes.get(lane)
        if bins is None or not cells:
            return [0] * cells
        found = [sum(bins[at : at + bins_per_cell]) for at in range(0, cells * bins_per_cell, bins_per_cell)]
        found[-1] += sum(bins[cells * bins_per_cell :])
        return found

    def _reach(self, lane: Hashable, end_ns: int) -> "array[int]":
        while end_ns > BINS * self.width_ns:
            factor = 5 if str(self.width_ns).startswith("1") else 2
            self.width_ns *= factor
            for name, bins in self._lanes.items():
                merged = [sum(bins[at : at + factor]) for at in range(0, BINS, factor)]
                self._lanes[name] = array("q", merged + [0] * (BINS - len(merged)))
        if lane not in self._lanes:
            self._lanes[lane] = array("q", bytes(8 * BINS))
        return self._lanes[lane]
