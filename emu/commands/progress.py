"""The progress line of a long run, on stderr, where a person is looking."""

import time
from typing import TextIO

from emu.machine import Machine

_FIRST_S, _EVERY_S = 0.8, 0.2


class Progress:
    """A heartbeat for `Machine.run`: after a moment, how far virtual time and instructions have come."""

    def __init__(self, stream: TextIO, *, enabled: bool) -> None:
        self._stream = stream
        self._enabled = enabled
        self._started = time.monotonic()
        self._next = self._started + _FIRST_S
        self._shown = False

    def __call__(self, machine: Machine) -> None:
        if not self._enabled:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        insns = machine.instructions
        speed = insns / (now - self._started) / 1e6
        line = (
            f"{machine.now_ns / 1e6:,.1f} ms virtual, {insns:,} instructions, {speed:.0f} MIPS  (Ctrl-C ends the run)"
        )
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()
        self._shown = True

    def clear(self) -> None:
        """Take the line away, before anything else is printed."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False
