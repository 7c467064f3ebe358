"""A search that is wrong on purpose is caught by the comparison with the naive one."""

from collections.abc import Callable

import pytest

from emu import trace
from emu.explore.instance import Instance
from emu.explore.naive import Naive
from emu.explore.runner import Runner, Snapshot
from emu.explore.search import Search
from emu.guest import load_guest
from emu.trace import Event
from emu.vcpu.watch import Access
from tests.explore.readers import ALL


def _marks_are_not_points(patch: pytest.MonkeyPatch) -> None:
    right = Runner._heard

    def wrong(self: Runner, event: Event) -> None:
        if self._looking is None or type(event) is not trace.Mark:
            right(self, event)

    patch.setattr(Runner, "_heard", wrong)


def _loads_are_not_points(patch: pytest.MonkeyPatch) -> None:
    right = Runner._accessed

    def wrong(self: Runner, access: Access) -> None:
        if access.write or self._looking is None:
            right(self, access)

    patch.setattr(Runner, "_accessed", wrong)


def _forgets(part: str, value: object) -> Callable[[pytest.MonkeyPatch], None]:
    """States are taken for equal that differ in this."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = Runner.key
        patch.setattr(Runner, "key", lambda self, snapshot: right(self, snapshot._replace(**{part: value})))

    return plant


def _forgets_registers(patch: pytest.MonkeyPatch) -> None:
    right = Runner.key

    def wrong(self: Runner, snapshot: Snapshot) -> bytes:
        own, vcpus, *rest = snapshot.state
        blank = [(whole[0]._replace(general=(0,) * 16), *whole[1:]) for whole in vcpus]
        return right(self, snapshot._replace(state=(own, blank, *rest)))

    patch.setattr(Runner, "key", wrong)


SLIPS = {
    "a mark is no visible point": _marks_are_not_points,
    "a load of the area is no visible point": _loads_are_not_points,
    "states that differ in memory are equal": _forgets("pages", {}),
    "states that differ in what a read has met are equal": _forgets("watched", ()),
    "states that differ in registers are equal": _forgets_registers,
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slip_in_the_search_is_noticed(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    instances = [
        Instance(load_guest(f"readers/{name}"), "kvm", 1, properties=ALL)
        for name in ("seqlock", "halves", "no_check32")
    ]
    right = [Naive(instance).run() for instance in instances]
    SLIPS[slip](monkeypatch)
    noticed = False
    for instance, naive in zip(instances, right, strict=True):
        report = Search(instance).run()
        if report.found is None:
            noticed |= bool(naive.violated) or report.placements != naive.schedules
        else:
            noticed |= report.found.violation.property not in naive.violated
    assert noticed
