"""What a strip looks like, to the character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.trace import Event, Switch, Wake
from emu.view.strip import ASCII, BLOCKS, Row, close_up, from_afar, glyphs_for, share
from emu.view.timeline import IDLE, Timeline
from tests.effort import EFFORT
from tests.host.test_properties import Workload, workloads
from tests.view.test_timeline import replayed, turns, update

STEADY = settings(derandomize=True, deadline=None, database=None, max_examples=30 * EFFORT)
US = 1000


def drawn(rows: list[Row]) -> str:
    return "\n".join("".join(text for text, _ in row).rstrip() for row in rows)


def timeline_of(events: list[Event], end_ns: int, *shape: int) -> Timeline:
    timeline = Timeline(*shape)
    for event in events:
        timeline(event)
    timeline.finish(end_ns)
    return timeline


def sleeper() -> Timeline:
    """vcpu0 runs, waits for the task, runs, sleeps; wakes for a moment and sleeps again."""
    events = [
        *turns(3),
        Switch(240 * US, 0, "vcpu0", IDLE, "blocked"),
        Wake(400 * US, "vcpu0"),
        Switch(400 * US, 0, IDLE, "vcpu0", "wake"),
        Switch(401 * US, 0, "vcpu0", IDLE, "blocked"),
        Wake(500 * US, "vcpu0"),
        Switch(500 * US, 0, IDLE, "vcpu0", "wake"),
        *update(500 * US, value=6),
        Switch(501 * US, 0, "vcpu0", "task0", "blocked"),
    ]
    return timeline_of(events, 600 * US, 1, 1, 1)


def test_close_up_in_blocks() -> None:
    assert drawn(close_up(sleeper().opening(36), 6, 60, BLOCKS)) == (
        "       ╷0        ╷200us    ╷400us\n"
        " vcpu0 ▲████░░░░░▲█        ▪    ▲\n"
        " task0 ░░░░░█████░░░░░░░░░░░░░░░█████\n"
        "       █ runs   ▪ runs, briefly   ░ waits: stolen\n"
        "       blank sleeps   ▲ update   one column: 20 us"
    )


def test_close_up_in_ascii() -> None:
    text = drawn(close_up(sleeper().opening(36), 6, 80, ASCII))
    assert text.isascii()
    assert text == (
        "       |0        |200us    |400us\n"
        " vcpu0 ^####.....^#        +    ^\n"
        " task0 .....#####...............#####\n"
        "       # runs   + runs, briefly   . waits: stolen   blank sleeps   ^ update\n"
        "       one column: 20 us"
    )


def test_close_up_shows_on_which_of_several_pcpus_it_runs() -> None:
    events: list[Event] = [
        Switch(0, 0, IDLE, "vcpu0", "start"),
        Switch(0, 1, IDLE, "vcpu1", "start"),
        Switch(50 * US, 1, "vcpu1", IDLE, "blocked"),
        Switch(50 * US, 0, "vcpu0", IDLE, "blocked"),
        Wake(60 * US, "vcpu0"),
        Switch(60 * US, 1, IDLE, "vcpu0", "wake"),
    ]
    assert drawn(close_up(timeline_of(events, 100 * US, 2, 2).opening(20), 6, 80, BLOCKS)) == (
        "       ╷0        ╷50us\n"
        " vcpu0 0000000000  11111111\n"
        " vcpu1 1111111111\n"
        "       0 to 1 runs, on that pCPU   blank sleeps   one column: 5 us"
    )


def test_from_afar_shows_shares_and_counts() -> None:
    timeline = timeline_of(turns(800, 25 * US), 20_000 * US, 1, 1, 1)
    assert drawn(from_afar(timeline.strip(20), 10, 72, BLOCKS)) == (
        "           ╷0        ╷10ms\n"
        " vcpu0 ran ▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄\n"
        "    stolen ▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄\n"
        "   updates ++++++++++++++++++++\n"
        " task0 ran ▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄\n"
        "           ▁ to █: share of the column, in eighths\n"
        "           updates: how many, + above 9   one column: 1 ms"
    )
    assert " vcpu0 ran 55555" in drawn(from_afar(timeline.strip(20), 10, 72, ASCII))


def test_lanes_that_are_not_drawn_are_counted() -> None:
    timeline = timeline_of([Switch(0, 0, IDLE, "vcpu0", "start")], 100, 64)
    assert "... and 52 more, not drawn" in drawn(close_up(timeline.opening(40), 7, 80, BLOCKS))


@STEADY
@given(workloads(), st.integers(60, 140), st.sampled_from((ASCII, BLOCKS)))
def test_no_row_is_wider_than_asked(workload: Workload, width: int, glyphs: object) -> None:
    timeline, _ = replayed(workload.drive())
    if not timeline.end_ns:
        return
    columns = width - 11
    for rows in (
        close_up(timeline.opening(columns), 10, width, glyphs),
        from_afar(timeline.strip(columns), 10, width, glyphs),
    ):
        assert max(len(line) for line in drawn(rows).split("\n")) <= width


@STEADY
@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_share_is_blank_only_for_nothing(span: int, part: int) -> None:
    part = min(part, span)
    for glyphs in (ASCII, BLOCKS):
        assert (share(part, span, glyphs) == " ") == (part == 0)
        assert share(span, span, glyphs) == glyphs.shares[-1]
        if 0 < part * len(glyphs.shares) <= span:
            assert share(part, span, glyphs) == glyphs.shares[0]


@pytest.mark.parametrize(
    ("encoding", "glyphs"), [("utf-8", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII), ("no-such", ASCII)]
)
def test_ascii_stands_in_where_the_encoding_has_no_blocks(encoding: str, glyphs: object) -> None:
    assert glyphs_for(encoding) is glyphs
