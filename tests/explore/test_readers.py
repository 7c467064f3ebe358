"""Readers right and wrong: each is proved or refuted under each host model, and what refutes it can be replayed."""

from pathlib import Path

import pytest

from emu import data
from emu.explore.instance import Instance
from emu.explore.layer import Start
from emu.explore.naive import Naive
from emu.explore.search import OPEN, PROVED, REFUTED, Report, Search
from emu.explore.story import MOST_LINES, story
from emu.guest import load_guest
from emu.history.history import History
from tests.explore.outcomes import naive, reduced
from tests.explore.readers import ALL, TABLE, cases, explore, violated


def test_the_table_has_every_reader() -> None:
    shipped = {name for name in data.guest_names() if name.startswith(f"{data.READERS}/")}
    assert shipped == {f"{data.READERS}/{name}{bits}" for name in TABLE for bits in ("", "32")}


def test_the_tutorial_shows_the_table() -> None:
    text = (Path(__file__).parent.parent.parent / "tutorials" / "history.md").read_text(encoding="utf-8")
    for name, line in TABLE.items():
        cells = " | ".join(f"`{one}`" if one else "holds" for one in line[:4])
        assert f"| {name} | {cells} |" in text


@pytest.mark.parametrize(("guest", "model", "expected", "burst"), cases())
def test_verdict_is_that_of_the_table(guest: str, model: str, expected: str | None, burst: int) -> None:
    # What holds with two updates is decided by `make prove-explore`, with three.
    reports = explore(guest, model, 1 if expected is None else 2, burst)
    assert violated(reports) == expected
    assert reports[-1].verdict == (PROVED if expected is None else REFUTED)
    assert reports[-1].cut == 0


@pytest.mark.parametrize("updates", [1, 2])
def test_the_right_reader_is_proved(updates: int) -> None:
    report = Search(Instance(load_guest("readers/seqlock"), updates=updates, properties=ALL)).run()
    assert report.verdict == PROVED and report.complete
    assert all(report.judged[name] for name in ALL)


REFUTED_CASES = [case for case in cases() if case[2] is not None]


@pytest.mark.parametrize(("guest", "model", "expected", "burst"), REFUTED_CASES[::5])
def test_what_refutes_is_a_run_that_replays_and_a_story(guest: str, model: str, expected: str, burst: int) -> None:
    reports = explore(guest, model, 2, burst)
    found = reports[-1].found
    assert found is not None
    withheld = ("steal-time",) if len(reports) > 1 else ()
    instance = Instance(load_guest(guest), model, 2, False, burst, withheld=withheld)
    histories = [History(instance.image, instance.config(), edits=found.way.steps) for _ in range(2)]
    lines = [story(history, found) for history in histories]
    assert lines[0] == lines[1]
    assert 2 <= len(lines[0]) <= MOST_LINES + 1 and lines[0][-1] == f"=> {found.violation.why}"
    assert histories[0].state() == histories[1].state()


def test_no_schedule_is_shorter_than_the_one_that_is_told() -> None:
    """A naive search of everything shorter finds nothing."""
    instance = Instance(load_guest("readers/odd_only"), properties=ALL)
    found = Search(instance).run().found
    assert found is not None and len(found.way.steps) == 2
    assert Search(instance._replace(updates=0)).run().verdict == PROVED
    assert OneStore(instance).run().verdict == PROVED


class OneStore(Search):
    """Searches schedules of one store at most."""

    def _starts(self) -> list[Start]:
        return super()._starts() if self.layers <= 1 else []


# --- with and without reduction ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guest", "model", "updates"),
    [
        ("seqlock", "kvm", 1),
        ("no_check", "kvm", 1),
        ("no_check32", "kvm", 1),
        ("halves", "kvm", 1),
        ("odd_only32", "kvm", 1),
        ("stale_version", "kvm", 1),
        ("stale_pointer", "kvm", 1),
        ("no_enable", "kvm", 1),
    ],
)
def test_naive_exploring_comes_to_the_same_verdict(guest: str, model: str, updates: int) -> None:
    instance = Instance(load_guest(f"readers/{guest}"), model, updates, properties=ALL)
    report, tried = Search(instance).run(), Naive(instance).run()
    assert tried.complete
    if report.found is None:
        assert not tried.violated
        assert report.placements == tried.schedules + tried.waiting
    elif report.found.violation.property == "ends":
        assert tried.waiting > 0  # it has no other way to tell
    else:
        assert report.found.violation.property in tried.violated


@pytest.mark.parametrize("guest", ["version_once", "change_only32", "stale_pointer"])
def test_both_come_to_the_same_outcomes(guest: str) -> None:
    """Every sequence of values that any schedule returns, with what was current meanwhile."""
    instance = Instance(load_guest(f"readers/{guest}"), "kvm", 1)
    assert reduced(instance) == naive(instance)


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_bound_that_is_met_is_no_proof() -> None:
    few = Search(Instance(load_guest("readers/seqlock"), state_limit=100, properties=ALL)).run()
    assert few.verdict == OPEN and not few.complete and few.placements == 0 and few.states == 100
    short = Search(Instance(load_guest("readers/seqlock"), updates=1, insn_limit=150, properties=ALL)).run()
    assert short.verdict == OPEN and short.cut > 0


def test_a_guest_that_reads_the_time_is_explored_with_it() -> None:
    report = Search(Instance(load_guest("kvmclock"), updates=0, insn_limit=300_000)).run()
    assert report.time_matters


def test_report_is_the_same_each_time() -> None:
    reports: list[Report] = []
    for _ in range(2):
        reports.append(Search(Instance(load_guest("readers/change_only32"), "kvm", 2, properties=ALL)).run())
    assert reports[0] == reports[1]


_ARMS_A_TIMER = """
#include "apic.h"
#include "steal.h"
int main(void)
{
    x2apic_on();
    {access}
    return EXIT_PASS;
}
"""


@pytest.mark.parametrize(
    ("access", "matters"),
    [
        ("(void)rdmsr(MSR_IA32_TSC);", True),
        ("wrmsr(APIC_TMICT, 100);", True),
        ("(void)rdmsr(APIC_TMCCT);", True),
        ("(void)rdtsc();", True),
        ("(void)rdmsr(APIC_ID);", False),
        ("wrmsr(APIC_TASKPRI, 0x10);", False),
    ],
)
def test_every_look_at_the_time_is_noticed(access: str, matters: bool, tmp_path: Path) -> None:
    source = tmp_path / "looks.c"
    source.write_text(_ARMS_A_TIMER.replace("{access}", access))
    assert Search(Instance(load_guest(source), updates=0)).run().time_matters is matters
