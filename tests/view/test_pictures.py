"""The real program in a real terminal, driven through lesson 7 by its keys: what is on the screen is what is kept."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
import pytest

from emu import data
from emu.faults import HostError
from tests import golden, shown

GOLDEN = Path(__file__).parent / "golden"
PATIENCE_S = 40
QUIET_S = 1.5  # written anew: nothing more has come for so long


class Terminal:
    """`emu step` with these words on a terminal of this size."""

    def __init__(self, words: list[str], columns: int, rows: int) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._main, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "emu", "step", *words]
        self._process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=env)
        os.close(child)

    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.screen.display).rstrip() + "\n"

    def press(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def until(self, done: str, seconds: float = PATIENCE_S) -> str:
        """The screen as soon as it is this one, or has been quiet; as it is when patience ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.text() != done:
            ready = select.select([self._main], [], [], QUIET_S)[0]
            if ready:
                self._stream.feed(os.read(self._main, 1 << 16))
            elif golden.writing() and "position" in self.text():
                break
        return self.text()

    def close(self) -> None:
        self.press("q")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.close(self._main)


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
