"""What the host takes away of a guest's memory, and when: one line of a configuration as times.

A page is taken at `at`, and again every `every` after that where it is back by then. The guest does not notice before
it touches it: then the host begins to read it from its disk, which takes `in`.

In Linux: mm/vmscan.c takes pages away, do_swap_page() in mm/memory.c brings them back.
"""

from typing import NamedTuple

from emu import clock
from emu.faults import HostError

GRAMMAR = "PAGE:at=TIME,in=TIME, and ,every=TIME where it is to happen again; PAGE is an address or a symbol"


class Swap(NamedTuple):
    """`page` as it was written; times in picoseconds, `every_ps` 0 for once."""

    page: str
    at_ps: int
    in_ps: int
    every_ps: int = 0

    def next_ps(self, after_ps: int) -> int | None:
        """When the page is taken next, strictly after `after_ps`."""
        if after_ps < self.at_ps:
            return self.at_ps
        if not self.every_ps:
            return None
        return self.at_ps + ((after_ps - self.at_ps) // self.every_ps + 1) * self.every_ps


def parse_swap(text: str, where: str) -> Swap:
    """`buffer:at=1ms,in=200us,every=5ms`. Raises HostError with `where` and the grammar."""
    page, colon, rest = text.partition(":")
    times: dict[str, int] = {}
    for part in rest.split(",") if colon else ():
        key, _, value = part.partition("=")
        try:
            if key not in ("at", "in", "every") or key in times:
                raise ValueError
            times[key] = clock.parse_duration(value)
        except ValueError:
            raise HostError(f"{part!r} cannot be used", where, f"write {GRAMMAR}") from None
    if not page or "at" not in times or not times.get("in") or times.get("every", 1) == 0:
        lacking = f"{text!r} does not say what is taken, and when, and how long it takes to come back"
        raise HostError(lacking, where, f"write {GRAMMAR}")
    return Swap(page, times["at"], times["in"], times.get("every", 0))
