"""Files of ours: a line that names the format, its version and a checksum, then compressed JSON.

    emurec 2 1c291ca3
    ... deflate ...

The checksum is the CRC-32 of all that follows the line, so a file whose bytes were changed is told, also where the
change would unpack to the same content. Reading one executes nothing, unpickles nothing, and is bounded in memory.
"""

import json
import zlib
from typing import Any, NamedTuple

_HEAD_MAX = 64  # bytes within which the first line must end


class Format(NamedTuple):
    """`name` and `version` stand in the file's first line; what it unpacks to is at most `most` bytes."""

    name: str
    version: int
    most: int

    def to_bytes(self, data: Any) -> bytes:
        """A file's content: the same bytes for equal data."""
        text = json.dumps(data, separators=(",", ":"), sort_keys=True)
        body = zlib.compress(text.encode("ascii"), 9)
        return self._head(body) + body

    def version_of(self, content: bytes) -> int | None:
        """The version that the first line tells, or None where it is not of this format at all."""
        line, newline, _ = content[:_HEAD_MAX].partition(b"\n")
        words = line.split(b" ")
        if not newline or len(words) < 2 or words[0] != self.name.encode() or not words[1].isdigit():
            return None
        return int(words[1])

    def from_bytes(self, content: bytes) -> Any:
        """The data. Raises ValueError, with the reason, where the content is damaged."""
        body = content[content.index(b"\n") + 1 :]
        if content[: len(content) - len(body)] != self._head(body):
            raise ValueError("its checksum does not fit its content")
        unpack = zlib.decompressobj()
        try:
            text = unpack.decompress(body, self.most)
        except zlib.error:
            raise ValueError("it cannot be unpacked") from None
        if not unpack.eof or unpack.unused_data or unpack.unconsumed_tail:
            raise ValueError("it is cut off, or too large")
        return json.loads(text)

    def _head(self, body: bytes) -> bytes:
        return b"%s %d %08x\n" % (self.name.encode(), self.version, zlib.crc32(body))
