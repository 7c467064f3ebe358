"""A search that is wrong on purpose is caught by the comparison with the naive one."""

from collections.abc import Callable

import pytest

from emu import trace
from emu.explore.instance import Instance
from emu.explore.runner import Runner
from emu.explore.sides import Snapshot
from emu.guest import load_guest
from emu.package import Package
from emu.trace import Event
from emu.vcpu.watch import Access
from tests.explore.outcomes import Outcome, naive, reduced


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
    "states that differ in what a read has met are equal": _forgets("watched", ()),
    "states that differ in registers are equal": _forgets_registers,
}


@pytest.fixture(scope="module")
def instances() -> list[Instance]:
    return [Instance(load_guest(f"readers/{name}"), "kvm", 1) for name in ("seqlock", "halves", "no_check32")]


@pytest.fixture(scope="module")
def tried(instances: list[Instance]) -> list[tuple[set[Outcome], int]]:
    return [naive(instance) for instance in instances]


def test_right_search_comes_to_what_all_placements_come_to(
    instances: list[Instance], tried: list[tuple[set[Outcome], int]]
) -> None:
    assert [reduced(instance) for instance in instances] == tried
    assert all(len(outcomes) > 3 for outcomes, _ in tried)


@pytest.mark.parametrize("slip", SLIPS)
def test_slip_in_the_search_is_noticed(
    slip: str, instances: list[Instance], tried: list[tuple[set[Outcome], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    SLIPS[slip](monkeypatch)
    assert [reduced(instance) for instance in instances] != tried


def test_states_that_may_go_on_differently_have_different_keys() -> None:
    runner = Runner(Instance(load_guest("readers/seqlock")))
    while not runner.options():
        runner.advance()
    here = runner.snapshot()
    key = runner.key(here)
    own, vcpus, packages, parts = here.state
    page, content = next(iter(here.pages.items()))
    cpu = vcpus[0][0]

    def package(field: str, value: object) -> Snapshot:
        fields = list(packages[0])
        fields[Package.fields.index(field)] = value
        return here._replace(state=(own, vcpus, (tuple(fields),), parts))

    others = [
        here._replace(pages={**here.pages, page: bytes([content[0] ^ 1]) + content[1:]}),
        here._replace(pages={**here.pages, 1000: bytes(4095) + b"x"}),
        here._replace(watched=(here.watched[0]._replace(current=5),)),
        here._replace(made=(1,)),
        here._replace(switched=1),
        here._replace(jumped=1),
        here._replace(state=(own, ((cpu._replace(rip=cpu.rip + 1), *vcpus[0][1:]),), packages, parts)),
        here._replace(state=(own, ((cpu._replace(cr2=1), *vcpus[0][1:]),), packages, parts)),
        package("parked", True),
        package("update", "by-hand"),
        package("added_ns", 1),
    ]
    keys = [runner.key(other) for other in others]
    assert len({key, *keys}) == len(others) + 1
    # What has no influence on what follows is left out: how much was done so far, and when it is.
    later = here._replace(state=((own[0] + 5, own[1] + 5, own[2], own[3] + 5, *own[4:]), vcpus, packages, parts))
    assert runner.key(later) == key
    timed = Runner(runner.instance, time=True)
    assert timed.key(later) != timed.key(here)
