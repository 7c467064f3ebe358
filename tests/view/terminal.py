"""The real program on a real terminal, whose screen can be read as text."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pyte

from tests import golden

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

    def quiet(self, seconds: float) -> float | None:
        """Drop what comes until nothing has come for so long; when the last of it came, by the monotonic clock."""
        last = None
        while select.select([self._main], [], [], seconds)[0]:
            os.read(self._main, 1 << 16)
            last = time.monotonic()
        return last

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
