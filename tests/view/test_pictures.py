"""The real program in a real terminal, driven through lesson 7 by its keys: what is on the screen is what is kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from emu import data
from emu.faults import HostError
from tests import golden, shown
from tests.view.terminal import Terminal

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=[(80, 24), (200, 50)], ids=["80x24", "200x50"])
def terminal(request: pytest.FixtureRequest) -> Iterator[tuple[Terminal, str]]:
    columns, rows = request.param
    try:
        with shown.reference_guests():
            guest = str(data.guest_path("readers/halves32"))
            one = Terminal([guest, "--time-limit", "10s"], columns, rows)
            try:
                yield one, f"{columns}x{rows}"
            finally:
                one.close()
    except HostError as error:
        pytest.skip(f"the reference guests cannot be built here: {error}")


def test_screens_on_the_way_through_lesson_7(terminal: tuple[Terminal, str]) -> None:
    screen, size = terminal
    moments = [
        ("begins", ""),
        ("lower_half", "nrs"),
        ("torn", ":wait 4300000000\rssss"),
        ("back", "bbbbb"),
        ("guess", "g"),
    ]
    for name, keys in moments:
        screen.press(keys)
        path = GOLDEN / f"torn_{size}_{name}.txt"
        golden.same(path, screen.until("" if golden.writing() else path.read_text(encoding="utf-8")))
