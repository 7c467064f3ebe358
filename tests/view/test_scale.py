"""Round durations are near what they round, and durations as text are exact."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.view.scale import readable, round_down, round_up, tick_ns
from tests.effort import EFFORT

STEADY = settings(derandomize=True, deadline=None, database=None, max_examples=100 * EFFORT)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1320, "1.32 us"),
        (66_179_300, "66.1793 ms"),
        (10**9, "1 s"),
        (10**9 + 1, "1.000000001 s"),
    ],
)
def test_durations_are_exact(ns: int, text: str) -> None:
    assert readable(ns) == text


@STEADY
@given(st.integers(1, 10**12))
def test_ticks_leave_room_for_their_labels(cell_ns: int) -> None:
    assert 10 * cell_ns <= tick_ns(cell_ns) <= 25 * cell_ns + 1


@STEADY
@given(st.integers(0, 10**14))
def test_round_durations_bracket_what_they_round(ns: int) -> None:
    assert max(ns, 1) <= round_up(ns) <= max(2, ns * 4 // 3 + 1)
    assert max(ns, 1) >= round_down(ns) >= max(1, ns * 2 // 5)


@STEADY
@given(st.integers(1, 10**14))
def test_even_columns_divide_a_quantum_or_fill_the_width_better(ns: int) -> None:
    even = round_up(ns, even=True)
    assert round_up(ns) <= even <= max(ns * 3 // 2, round_up(ns))
