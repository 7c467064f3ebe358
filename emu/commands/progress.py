"""The progress line of a long run, on stderr, where a person is looking."""

import os
import stat
import time
from collections.abc import Callable
from typing import TextIO

from emu.commands.console import ConsoleWriter
from emu.machine import Machine

_FIRST_S, _EVERY_S = 0.8, 0.2


def wanted(stream: TextIO, output: TextIO) -> bool:
    """Whether a progress line on `stream` can be seen and disturbs nobody.

    Where `output` is a pipe, its reader may draw on the same terminal, as a pager does.
    """
    if not stream.isatty():
        return False
    try:
        mode = os.fstat(output.fileno()).st_mode
    except (OSError, ValueError):
        return True
    return not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))


class _Line:
    """A line of text that is overwritten with blanks when it goes, so that no terminal needs to understand escape
    sequences."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._width = 0

    def clear(self) -> None:
        """Take the line away, before anything else is printed."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0

    def _draw(self, line: str) -> None:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        # Some terminals do not know their width and say 0.
        line = line[: (columns or 80) - 1]  # a line that wraps could not be taken away
        # The cursor stays right behind the line, so that it is known where a ^C is echoed.
        self._stream.write("\r" + " " * self._width + "\r" + line)
        self._stream.flush()
        # With room for the ^C that a terminal echoes behind it.
        self._width = min(len(line) + 2, (columns or 80) - 1)


class Progress(_Line):
    """A heartbeat for `Machine.run`: shows what the guest has printed, and after a moment how far the run has come.

    The line stays away while the guest is in the middle of a line of its own.
    """

    def __init__(self, stream: TextIO, writer: ConsoleWriter, *, enabled: bool) -> None:
        super().__init__(stream)
        self._writer = writer
        self._enabled = enabled
        self._started = time.monotonic()
        self._next = self._started + _EVERY_S

    def __call__(self, machine: Machine) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        self._writer.flush()
        if not self._enabled or now < self._started + _FIRST_S or self._writer.mid_line:
            return
        insns = machine.instructions
        speed = insns / (now - self._started) / 1e6
        self._draw(f"{machine.now_ns / 1e6:,.1f} ms virtual, {insns:,} instructions, {speed:,.0f} MIPS; Ctrl-C ends it")


class Ticker(_Line):
    """A line of text on `stream` that changes now and then, for work that is no run."""

    def __init__(self, stream: TextIO, *, enabled: bool) -> None:
        super().__init__(stream)
        self._enabled = enabled
        self._next = time.monotonic() + _FIRST_S

    def __call__(self, text: Callable[[], str]) -> None:
        """Show `text()` if it is time to."""
        if not self._enabled or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_S
        self._draw(text())
