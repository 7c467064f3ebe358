"""What all schedules of a guest come to: the values read in each, in order, with what was current meanwhile.

A monitor that remembers all reads is part of the state, so that a search merges no two schedules that differ in them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from emu import trace
from emu.explore.instance import Instance
from emu.explore.naive import Naive
from emu.explore.properties import Monitor
from emu.explore.search import Search
from emu.machine import Machine
from emu.trace import Event

Outcome = tuple[tuple[int, tuple[int, ...]], ...]


@contextmanager
def _remembering() -> Iterator[set[Outcome]]:
    found: set[Outcome] = set()
    ends, heard = Monitor.ends, Monitor.heard

    def remembered_ends(self: Monitor, machine: Machine, vcpu: int, value: int) -> None:
        before: Any = self.state[vcpu].last or ()
        self._remember(vcpu, last=None)
        ends(self, machine, vcpu, value)
        if self.reads:
            self._remember(vcpu, last=(*before, (value, tuple(sorted(self.reads[-1][2])))))

    def remembered_heard(self: Monitor, machine: Machine, event: Event) -> None:
        heard(self, machine, event)
        if type(event) is trace.End:
            last: Any = self.state[0].last
            found.add(last or ())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "ends", remembered_ends)
        patch.setattr(Monitor, "heard", remembered_heard)
        yield found


def reduced(instance: Instance) -> tuple[set[Outcome], int]:
    """By the search: the outcomes, and how many placements it says it has decided."""
    with _remembering() as found:
        report = Search(instance._replace(properties=frozenset())).run()
    return found, report.placements


def naive(instance: Instance) -> tuple[set[Outcome], int]:
    """By trying every placement."""
    with _remembering() as found:
        report = Naive(instance._replace(properties=frozenset())).run()
    return found, report.schedules + report.waiting
