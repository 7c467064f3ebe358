"""Bins hold what was added, however often they were merged."""

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.view.bins import BINS, Bins
from tests.effort import EFFORT

STEADY = settings(derandomize=True, deadline=None, database=None, max_examples=50 * EFFORT)
times = st.one_of(st.integers(0, 50), st.integers(0, 5 * BINS), st.integers(0, 10**12))
intervals = st.lists(st.tuples(st.sampled_from("ab"), times, times), max_size=20)


def overlap(begin: int, end: int, other_begin: int, other_end: int) -> int:
    return max(0, min(end, other_end) - max(begin, other_begin))


@STEADY
@given(intervals, st.integers(1, 7))
def test_cells_equal_the_sums_over_the_full_list_of_intervals(added: list[tuple[str, int, int]], per_cell: int) -> None:
    bins = Bins()
    for lane, begin, end in added:
        bins.add(lane, begin, end)
    cell = bins.width_ns * per_cell
    count = -(-BINS // per_cell)
    for lane in "ab":
        found = bins.cells(lane, per_cell, count)
        mine = [(begin, end) for name, begin, end in added if name == lane]
        for number in {0, 1, count - 1, *(min(end // cell, count - 1) for _, end in mine)}:
            expected = sum(overlap(begin, end, number * cell, (number + 1) * cell) for begin, end in mine)
            assert found[number] == expected
        assert sum(found) == sum(max(0, end - begin) for begin, end in mine)


@STEADY
@given(st.lists(times, max_size=30))
def test_counts_equal_the_full_list_of_moments(moments: list[int]) -> None:
    bins = Bins()
    for at in moments:
        bins.count("x", at)
    found = bins.cells("x", 1, BINS)
    expected = [0] * BINS
    for at in moments:
        expected[at // bins.width_ns] += 1
    assert found == expected


def test_width_stays_a_round_number() -> None:
    bins = Bins()
    widths = []
    for power in range(4, 12):
        bins.add("x", 0, 10**power)
        widths.append(bins.width_ns)
    assert widths == [5, 50, 500, 5_000, 50_000, 500_000, 5_000_000, 50_000_000]


def test_what_lies_past_the_last_cell_counts_as_in_it() -> None:
    bins = Bins()
    bins.count("x", 9)
    bins.count("x", 10)
    assert bins.cells("x", 5, 2) == [0, 2]


def test_an_empty_interval_leaves_no_trace() -> None:
    bins = Bins()
    bins.add("x", 10**9, 10**9)
    assert bins.width_ns == 1
    assert bins.cells("x", 1, 3) == [0, 0, 0]
