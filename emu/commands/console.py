"""The guest's console on the user's terminal: live, and harmless."""

import codecs
from typing import TextIO

_BLOCK = 4096


class ConsoleWriter:
    """Writes what the guest prints, a byte at a time, to a text stream. Lines appear at once, the rest on `flush`.

    On a terminal, control characters other than newline and tab are shown, not obeyed: a guest must not move the user's
    cursor or retitle the window. With `raw`, or where the stream is no terminal, the bytes pass as they are.
    """

    def __init__(self, stream: TextIO, *, raw: bool) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._verbatim = raw or not self._terminal
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._pending = bytearray()
        self._mid_line = False

    def __call__(self, byte: int) -> None:
        self._pending.append(byte)
        self._mid_line = byte != 0x0A
        if not self._mid_line or len(self._pending) >= _BLOCK:
            self.flush()

    @property
    def mid_line(self) -> bool:
        """Whether the cursor of a terminal stands behind an unfinished line of the guest."""
        return self._terminal and self._mid_line

    def flush(self) -> None:
        """Show what has been printed so far."""
        if self._pending:
            self._show(final=False)

    def finish(self, *, more: bool = False) -> None:
        """Show all that is left. An unfinished line is ended where something follows: on a terminal, or if `more`."""
        self._show(final=True)
        if self._mid_line and (more or self._terminal):
            self._stream.write("\n")
            self._mid_line = False
        self._stream.flush()

    def _show(self, *, final: bool) -> None:
        raw = bytes(self._pending)
        self._pending.clear()
        binary = getattr(self._stream, "buffer", None)
        if not self._verbatim:
            self._stream.write("".join(map(_shown, self._decoder.decode(raw, final))))
        elif binary is None:
            self._stream.write(self._decoder.decode(raw, final))
        else:
            self._stream.flush()
            binary.write(raw)
        self._stream.flush()


def _shown(character: str) -> str:
    if character.isprintable() or character in "\n\t":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
