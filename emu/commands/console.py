"""The guest's console on the user's terminal: live, and harmless."""

import codecs
from typing import TextIO


class ConsoleWriter:
    """Writes each byte at once. On a terminal, control characters other than newline and tab are shown, not obeyed: a
    guest must not move the user's cursor or retitle the window. `raw`, or output that is no terminal, passes them on.
    """

    def __init__(self, stream: TextIO, *, raw: bool) -> None:
        self._stream = stream
        self._verbatim = raw or not stream.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._at_line_start = True
        self._pending = bytearray()

    def __call__(self, byte: int) -> None:
        if self._verbatim:
            self._pending.append(byte)
            if byte == 10 or len(self._pending) >= 4096:
                self._flush_bytes()
            return
        for character in self._decoder.decode(bytes((byte,))):
            self._stream.write(character if character.isprintable() or character in "\n\t" else _shown(character))
            self._at_line_start = character == "\n"
        if self._at_line_start:
            self._stream.flush()

    def finish(self) -> None:
        """Show what is left; on a terminal, leave the cursor at the start of a line."""
        if self._verbatim:
            self._flush_bytes()
            return
        self._stream.write(self._decoder.decode(b"", final=True))
        if not self._at_line_start:
            self._stream.write("\n")
        self._stream.flush()

    def _flush_bytes(self) -> None:
        binary = getattr(self._stream, "buffer", None)
        if binary is None:
            self._stream.write(self._pending.decode("utf-8", "backslashreplace"))
        else:
            self._stream.flush()
            binary.write(self._pending)
        self._stream.flush()
        self._pending.clear()


def _shown(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
