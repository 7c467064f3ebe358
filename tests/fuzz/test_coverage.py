"""What a campaign says was executed is what was executed, in each of its forms."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.__main__ import main
from emu.code.lines import line_addresses
from emu.fuzz.coverage import Covered, as_page
from emu.fuzz.target import Target, beginning, bounded, target_of
from emu.machine import Machine

SEQLOCK, START, HEADER = "guests/readers/seqlock.c", "guests/start.S", "guests/include/guest.h"


@pytest.fixture(scope="module")
def target() -> Target:
    return bounded(target_of({"guest": "readers/seqlock"}), 1000)


@pytest.fixture(scope="module")
def lcov(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("campaign")
    assert main(["fuzz", "guest", "readers/seqlock", "--engine", "sweep", "--quiet", "--out", str(out)]) == 0
    return (out / "coverage.info").read_text()


def records(text: str) -> Iterator[tuple[str, dict[int, int], list[int]]]:
    """By geninfo(1): of each record the source, the counts of its lines, and the sums that it gives."""
    assert text.startswith("TN:\n") and text.endswith("end_of_record\n")
    for record in text.split("end_of_record\n")[:-1]:
        (source,) = re.findall(r"^SF:(.+)$", record, re.MULTILINE)
        counts = {int(line): int(count) for line, count in re.findall(r"^DA:(\d+),(\d+)$", record, re.MULTILINE)}
        yield source, counts, [int(sum_) for sum_ in re.findall(r"^L[FH]:(\d+)$", record, re.MULTILINE)]


def stepped(target: Target) -> set[tuple[str, int]]:
    """The lines that a run executes whose host does nothing, seen one instruction at a time."""
    lines = {one: place for place, every in line_addresses(target.image.source).items() for one in every}
    machine = Machine(target.image, target.config())
    machine.run_to(beginning(target).position)
    found = set()
    while machine.reason is None:
        found.add(lines.get(machine.packages[0].vcpu.rip))
        machine.run_to(machine.position + 1)
    return {one for one in found if one is not None}


def test_every_line_that_is_stepped_through_is_covered(target: Target, lcov: str) -> None:
    hit = {(source, line) for source, counts, _ in records(lcov) for line, count in counts.items() if count}
    executed = stepped(target)
    assert executed and executed <= hit
    assert {line for source, line in executed if source == SEQLOCK} == {line for s, line in hit if s == SEQLOCK}


def test_what_runs_before_an_execution_begins_or_never_is_not_covered(lcov: str) -> None:
    of = {source: counts for source, counts, _ in records(lcov)}
    text = Path(START).read_text().splitlines()
    for never in ("call main", "jmp park"):
        (line,) = (number for number, one in enumerate(text, 1) if one.strip().startswith(never))
        assert of[START][line] == 0
    assert not any(of[HEADER].values())


def test_sums_of_a_tracefile_are_those_of_its_lines(lcov: str) -> None:
    for _, counts, sums in records(lcov):
        assert sums == [len(counts), sum(counts.values())]


def test_page_begins_with_the_programs_own_source_and_folds_what_never_ran() -> None:
    found = Covered({"a/lib.c": {1: True, 2: True}, "b/mine.c": {1: True, 2: False}, "c/unused.h": {1: False}})
    page = as_page(
        found, "b/mine.elf", "at <main>", lambda file: f"{file}: {{}}\nx < y\n" if file != "a/lib.c" else None
    )
    files = re.findall(r"<details( open)?><summary><b>(.*?)</b><span>(.*?)</span>", page)
    assert files == [
        (" open", "b/mine.c", "1 of 2 lines"),
        (" open", "a/lib.c", "2 of 2 lines"),
        ("", "c/unused.h", "0 of 1 lines"),
    ]
    assert "3 of 5 lines" in page and "at &lt;main&gt;" in page and "x &lt; y" in page
    assert page.count('class="hit"') == 1 and page.count('class="miss"') == 2
