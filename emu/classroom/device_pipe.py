"""The pipe to the process in which a student's device lives: lines of JSON go out and come back, in order, in time.

In Linux: fs/fuse/dev.c has the kernel's end of such a pipe, and gives up on a server that has gone.
"""

import json
import os
import selectors
from collections.abc import Mapping
from typing import IO, Any

CLASS = "StealTime"
DEADLINE_S = 10
_MAX_LINE = 1 << 20
UNASKED = "the device answers what nobody has asked"


def line_of(told: Mapping[str, Any]) -> str:
    """How it goes through the pipe."""
    return json.dumps(told) + "\n"


class Silent(Exception):
    """The device has not answered, or has ended."""


class Failed(Exception):
    """The device raised something; with the line of its file, or 0."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


class Host:
    """The process with the device, behind two pipes. Raises Silent and Failed."""

    def __init__(self, source: IO[str], sink: IO[str], deadline_s: float = DEADLINE_S) -> None:
        self._source, self._sink = source, sink
        self._deadline_s = deadline_s
        self._selector = selectors.DefaultSelector()
        self._room = selectors.DefaultSelector()
        try:
            self._selector.register(source, selectors.EVENT_READ)
            self._room.register(sink, selectors.EVENT_WRITE)
            os.set_blocking(sink.fileno(), False)
        except (AttributeError, ValueError, OSError):  # pipes cannot be waited for on Windows
            self._deadline_s = 0
        self._buffer = ""
        self._why = ""

    def ask(self, *lines: str) -> None:
        """Send these lines, each of which asks for an answer."""
        if self._why:
            raise Silent(self._why)
        left = "".join(lines).encode("ascii")
        while left:
            try:
                left = left[os.write(self._sink.fileno(), left) :]
            except BlockingIOError:
                if not self._room.select(self._deadline_s):
                    raise self._silent(
                        f"the device has not answered for {self._deadline_s:g} seconds, nor read"
                    ) from None
            except OSError:
                raise self._silent("the device has ended") from None

    def answer(self) -> dict[str, Any]:
        """What the next line says."""
        return self.understood(self.line())

    def line(self) -> str:
        """The next line, whatever it says."""
        while "\n" not in self._buffer:
            if self._deadline_s and not self._selector.select(self._deadline_s):
                raise self._silent(f"the device has not answered for {self._deadline_s:g} seconds")
            block = self._source.buffer.read1(1 << 16)  # type: ignore[attr-defined]
            if not block:
                raise self._silent("the device has ended: it used too much CPU time or memory, or left")
            self._buffer += block.decode("ascii", "replace")
            if len(self._buffer) > _MAX_LINE:
                raise self._silent("the device answers without end")
        line, _, self._buffer = self._buffer.partition("\n")
        return line

    def understood(self, line: str) -> dict[str, Any]:
        """What a line says that `line` has returned."""
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            raise self._silent(UNASKED) from None
        if type(told) is not dict:
            raise self._silent(UNASKED)
        if "error" in told:
            raise Failed(str(told["error"])[:300], told["line"] if type(told.get("line")) is int else 0)
        return told

    def _silent(self, why: str) -> Silent:
        """For good: what comes later would be taken for the answer to another question."""
        self._why = why
        return Silent(why)


def loaded(host: Host, modules: Mapping[str, str]) -> Host:
    """The host with these modules in it, by their names, the device's last. Raises Silent and Failed."""
    host.ask(line_of({"do": "load", "modules": list(modules.items()), "class": CLASS}))
    host.answer()
    return host
