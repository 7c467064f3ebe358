"""The table of promises: what is judged is in the documents, and every promise that is judged can be seen broken."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from emu import abi, data
from emu.conform import promises
from emu.conform.emulator import Devices
from emu.conform.specification import DOCUMENTS, Promised, read, specification
from emu.conform.text import parse_sequence
from emu.conform.verdict import Bench
from emu.devices.async_pf import AsyncPf
from emu.devices.kvmclock import SystemTime, WallClock
from emu.devices.migration_control import MigrationControl
from emu.devices.poll_control import PollControl
from emu.devices.pv_eoi import PvEoi
from emu.devices.steal_time import StealTime, Step
from emu.faults import HostError, general_protection
from tests.conform.test_slips import SLIPS, Plant, answers, patched

RAM = 8 << 20
ALL = {promised.number: promised for promised in specification()}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(kvm=False)


def test_every_judged_promise_is_in_a_document():
    assert set(promises.SEQUENCES) <= set(ALL)
    assert len(ALL) == len(specification()) > 150


@pytest.mark.parametrize("number", promises.SEQUENCES)
def test_sequences_are_text_that_can_be_used_and_no_two_are_the_same(number: str):
    texts = promises.SEQUENCES[number]
    assert texts and len(set(texts)) == len(texts)
    for text in texts:
        parse_sequence(text)


# --- planted slips: one for each promise that is judged ---


def wrong_wrmsr(owner: type, change: Callable[[int], int | None], msr: int | None = None) -> Plant:
    """WRMSR (to this register) takes another value than the one written; None refuses it."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = owner.wrmsr

        def wrong(self: Any, number: int, value: int) -> None:
            if msr in (None, number):
                changed = change(value)
                if changed is None:
                    raise general_protection()
                value = changed
            right(self, number, value)

        patch.setattr(owner, "wrmsr", wrong)

    return plant


def wrong_stores(owner: type, change: Callable[[list[Step]], Iterable[Step]]) -> Plant:
    """The steps of an update are others."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = owner.update

        def wrong(self: Any, *arguments: Any, **named: Any) -> Iterator[Step]:
            return iter(tuple(change(list(right(self, *arguments, **named)))))

        patch.setattr(owner, "update", wrong)

    return plant


def wrong_steal(change: Callable[[list[Step]], Iterable[Step]]) -> Plant:
    """The steps of an update of steal time are others."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        begin, step = StealTime.begin, StealTime.step
        planned: list[Step] = []

        def wrong_begin(self: StealTime, *arguments: Any, **named: Any) -> None:
            begin(self, *arguments, **named)
            planned.clear()

        def wrong_step(self: StealTime, load: Any) -> Step | None:
            if self.under_way is not None:
                planned.extend(change(list(iter(lambda: step(self, load), None))))
            return planned.pop(0) if planned else None

        patch.setattr(StealTime, "begin", wrong_begin)
        patch.setattr(StealTime, "step", wrong_step)

    return plant


def without(name: str) -> Callable[[list[Step]], Iterable[Step]]:
    return lambda steps: [step for step in steps if step.step != name]


def more(offset: int, size: int, value: int = 0) -> Callable[[list[Step]], Iterable[Step]]:
    """One more store, at `offset` from that of the odd version."""
    return lambda steps: [
        *steps, *(Step("more", step.gpa + offset, size, value) for step in steps if step.step == "odd")
    ]  # fmt: skip


def shifted(steps: list[Step]) -> Iterable[Step]:
    return [step._replace(gpa=step.gpa & ~3) for step in steps]


def unstored_where_cut(right: Any, self: Any, load: Any) -> Any:
    return right(self, load) if self._ram_holds(self.value, 12) else iter(())


def restores_nothing(self: Devices, other: Devices) -> None:
    pass


def restores_without_stores(self: Devices, other: Devices) -> None:
    """The registers are copied, and nothing that a WRMSR does is done."""
    self.steal.msr_value, self.clock.time.value = other.steal.msr_value, other.clock.time.value
    self.clock.time._told = self.clock.time._current()
    for mine, theirs in zip(self.paravirtual[1:3], other.paravirtual[1:3], strict=True):
        mine.msr_value = theirs.msr_value
    self.async_pf.int_value, self.poll.msr_value = other.async_pf.int_value, other.poll.msr_value
    self.migration.msr_value = other.migration.msr_value


def keeps_what_was_delivered(patch: pytest.MonkeyPatch) -> None:
    right = Devices.restore_from

    def wrong(self: Devices, other: Devices) -> None:
        right(self, other)
        self.steal.last_steal = other.steal.last_steal

    patch.setattr(Devices, "restore_from", wrong)


def forgets_time_at_wrmsr(patch: pytest.MonkeyPatch) -> None:
    """What was waited before a registration is not delivered."""
    right = StealTime._take_delta

    def wrong(self: StealTime, run_delay: int) -> int:
        delta = right(self, run_delay)
        first, self._first = getattr(self, "_first", None) != self.msr_value, self.msr_value
        return 0 if first else delta

    patch.setattr(StealTime, "_take_delta", wrong)


def total_at_new_place(patch: pytest.MonkeyPatch) -> None:
    right = StealTime.wrmsr

    def wrong(self: StealTime, msr: int, value: int) -> None:
        moved = value & ~63 != self.area_gpa
        right(self, msr, value)
        self.last_steal = 0 if moved else self.last_steal

    patch.setattr(StealTime, "wrmsr", wrong)


def does_not_ask(patch: pytest.MonkeyPatch) -> None:
    right = StealTime.wrmsr

    def wrong(self: StealTime, msr: int, value: int) -> None:
        right(self, msr, value)
        self.requested = False

    patch.setattr(StealTime, "wrmsr", wrong)


def one_msr_more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PollControl, "msrs", (abi.MSR_KVM_POLL_CONTROL, 0x4B564D09))


def begins_as(owner: type, name: str, value: int) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        right = owner.__init__

        def wrong(self: Any, *arguments: Any, **named: Any) -> None:
            right(self, *arguments, **named)
            setattr(self, name, value)

        patch.setattr(owner, "__init__", wrong)

    return plant


def adds_to_nothing(steps: list[Step]) -> Iterable[Step]:
    return [step._replace(value=step.value % (1 << 32)) if step.step == "steal" else step for step in steps]


def clock_stays_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SystemTime, "enabled", property(lambda self: self.value != 0))
    patch.setattr(SystemTime, "requested", property(lambda self: self.enabled))


def wall_does_not_settle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("emu.devices.kvmclock._odd", lambda found: (found + 1) % (1 << 32))


def wall_takes_zero(patch: pytest.MonkeyPatch) -> None:
    right = WallClock.write

    def wrong(self: WallClock, value: int) -> None:
        right(self, value)
        self.requested = True

    def update(self: WallClock, load: Any) -> Iterator[Step]:
        self.requested = False
        return self._stores(self.value, load) if self._ram_holds(self.value, 4) else iter(())

    patch.setattr(WallClock, "write", wrong)
    patch.setattr(WallClock, "update", update)


def wall_all_or_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WallClock, "update", functools.partialmethod(_cut, WallClock.update))


def _cut(self: WallClock, right: Any, load: Any) -> Any:
    return unstored_where_cut(right, self, load)


BREAKS: dict[str, Plant] = {
    "ST-1": answers(StealTime, abi.MSR_KVM_STEAL_TIME, lambda value: value % (1 << 52)),
    "ST-2": SLIPS["STEAL_TIME reserves one bit less"],
    "ST-3": wrong_wrmsr(StealTime, lambda value: value if value >> 12 or not value & 1 else None),
    "ST-4": wrong_wrmsr(StealTime, lambda value: value if value < RAM else None),
    "ST-7": SLIPS["STEAL_TIME does not step over junk"],
    "ST-8": wrong_steal(adds_to_nothing),
    "ST-9": SLIPS["STEAL_TIME delivers all time again"],
    "ST-10": wrong_steal(more(4, 4)),
    "ST-12": does_not_ask,
    "ST-17": wrong_steal(without("preempted")),
    "ST-19": patched(StealTime, "enabled", property(lambda self: self.msr_value != 0)),
    "ST-20": forgets_time_at_wrmsr,
    "ST-21": total_at_new_place,
    "ST-23": SLIPS["STEAL_TIME forgets what INIT found"],
    "CP-1": lambda patch: patch.setattr(abi, "KVM_SIGNATURE", b"KVMKVMKVM\0\0\1"),
    "CP-2": patched(PvEoi, "features", ()),
    "CP-4": one_msr_more,
    "WC-1": SLIPS["WALL_CLOCK loses its lowest bit"],
    "WC-2": wrong_stores(WallClock, without("even")),
    "WC-3": wall_does_not_settle,
    "WC-4": wrong_stores(WallClock, shifted),
    "WC-5": wall_takes_zero,
    "WC-6": wall_all_or_nothing,
    "CK-1": SLIPS["SYSTEM_TIME answers its address"],
    "CK-2": wrong_stores(SystemTime, without("pad")),
    "CK-3": wrong_stores(SystemTime, without("even")),
    "CK-4": wrong_stores(SystemTime, shifted),
    "CK-5": patched(abi, "PAGE_SIZE", 1 << 13),
    "CK-6": clock_stays_on,
    "AP-1": wrong_wrmsr(AsyncPf, lambda value: value & ~4, abi.MSR_KVM_ASYNC_PF_EN),
    "AP-2": SLIPS["ASYNC_PF_EN reserves one bit less"],
    "AP-3": wrong_wrmsr(AsyncPf, lambda value: value if value < RAM else None, abi.MSR_KVM_ASYNC_PF_EN),
    "AP-4": SLIPS["ASYNC_PF_EN remembers what it refused"],
    "AP-6": SLIPS["ASYNC_PF_INT takes any vector"],
    "AP-7": SLIPS["ASYNC_PF_ACK can be read"],
    "EO-1": SLIPS["PV_EOI_EN takes any alignment"],
    "EO-2": wrong_wrmsr(PvEoi, lambda value: value if value < RAM else None),
    "PC-1": begins_as(PollControl, "msr_value", 0),
    "PC-2": SLIPS["POLL_CONTROL takes any bit"],
    "PC-3": SLIPS["POLL_CONTROL is powered up by INIT"],
    "MC-1": begins_as(MigrationControl, "msr_value", 0),
    "MC-2": SLIPS["MIGRATION_CONTROL takes any bit"],
    "MC-3": SLIPS["MIGRATION_CONTROL is ready again after INIT"],
    "EF-2": patched(PollControl, "features", ()),
    "EF-4": SLIPS["PV_EOI_EN takes any alignment"],
    "RS-1": begins_as(AsyncPf, "int_value", 0x20),
    "RS-2": SLIPS["PV_EOI_EN survives INIT"],
    "RS-3": SLIPS["WALL_CLOCK is forgotten by INIT"],
    "RS-4": patched(Devices, "restore_from", restores_nothing),
    "RS-5": patched(Devices, "restore_from", restores_without_stores),
    "RS-6": keeps_what_was_delivered,
}


def test_every_judged_promise_has_a_slip():
    assert set(BREAKS) == set(promises.SEQUENCES)


@pytest.mark.parametrize("number", promises.SEQUENCES)
def test_promise_that_is_broken_is_shown_broken(number: str, monkeypatch: pytest.MonkeyPatch):
    BREAKS[number](monkeypatch)
    (row,) = promises.rows(Bench(kvm=False), [ALL[number]], kvm=False)
    assert (row.emulator, row.agree) == ("broken", False)


def test_nothing_is_broken_without_a_slip(bench: Bench):
    rows = promises.rows(bench, specification(), kvm=False)
    assert [row.promised.number for row in rows if row.agree is False] == []
    assert {row.emulator for row in rows} == {"kept", "test"} and {row.kvm for row in rows} == {"-"}


# --- the documents as the command reads them ---


def test_promise_is_read_with_its_group_and_tests():
    tests = ("tests/a.py::test_a", "tests/b.py::test_b[c]")
    shown = ", ".join(f"`{test}`" for test in tests)
    text = f"# T\n\n## XY: a group\n\n### XY-1 It holds\n\nSo.\n\n- Source: s.\n- Tests: {shown}\n"
    assert read("d.md", text) == [Promised("XY-1", "It holds", "a group", "d.md", tests)]


def test_missing_document_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.setattr(data, "__file__", str(tmp_path / "emu" / "data.py"))
    with pytest.raises(HostError, match="missing from this installation"):
        specification()


def test_documents_of_the_specification_and_all_lessons_are_shipped_in_the_wheel():
    import tomllib
    from pathlib import Path

    root = Path(__file__).parent.parent.parent
    wheel = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    shipped = {one for one in wheel["wheel"]["only-include"] if one.startswith("tutorials/")}
    lessons = {f"tutorials/{path.name}" for path in (root / "tutorials").iterdir() if path.is_dir()}
    assert len(lessons) > 1
    assert shipped == {f"tutorials/{name}" for name in DOCUMENTS} | lessons
    assert wheel["wheel"]["sources"]["tutorials"] == "emu/_data/tutorials"
