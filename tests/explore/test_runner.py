"""A guest that prints what it has read can be explored: schedules print different things."""

from pathlib import Path

import pytest

from emu.explore.instance import Instance
from emu.explore.search import PROVED, Search
from emu.guest import load_guest

GUEST = """#include "steal.h"

int main(void)
{
    steal_register(&steal_areas[0]);
    for (int i = 0; i < 2; i++) {
        STEAL_MARK_BEGIN(&steal_areas[0]);
        const struct steal_reading r = steal_read(&steal_areas[0]);
        STEAL_MARK_END(&steal_areas[0], r.steal);
        put_dec(r.steal);
        put_char('\\n');
    }
    return EXIT_PASS;
}
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_guest_that_prints_is_explored(tmp_path: Path, jobs: int) -> None:
    path = tmp_path / "prints.c"
    path.write_text(GUEST, encoding="utf-8")
    instance = Instance(load_guest(path), updates=2, properties=frozenset({"current", "forward", "ends"}))
    report = Search(instance, jobs=jobs).run()
    assert report.verdict == PROVED and report.judged["current"] > 10


def test_bound_on_reads_ends_each_way_there() -> None:
    whole = Search(Instance(load_guest("readers/seqlock"), properties=frozenset({"current", "forward"}))).run()
    first = Search(Instance(load_guest("readers/seqlock"), properties=frozenset({"current", "forward"}), reads=1)).run()
    assert whole.verdict == first.verdict == PROVED
    assert first.states < whole.states and first.judged["current"] and not first.judged["forward"]


def test_bound_on_reads_finds_what_happens_in_the_first() -> None:
    report = Search(Instance(load_guest("readers/odd_only"), properties=frozenset({"current"}), reads=1)).run()
    assert report.found is not None and len(report.found.way.steps) == 2
