"""Packets of gdb's remote protocol: framing, checksums, escapes. It knows nothing of what they mean.

Source: the GDB manual, appendix "GDB Remote Serial Protocol", Overview and Packets.

In Linux: kernel/debug/gdbstub.c speaks the same protocol for kgdb.
"""

import select
import socket

_MOST = 1 << 20  # bytes of one packet; more is thrown away
INTERRUPT = b"\x03"


class Gone(Exception):
    """The client has closed the connection."""


class Packets:
    """Packets to and from one client. Whatever bytes come, it goes on."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self.acknowledges = True

    def receive(self) -> bytes:
        """The next packet's content, INTERRUPT for Ctrl-C between packets. Raises Gone."""
        while True:
            packet = self._next()
            if packet is not None:
                return packet
            self._fill()

    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed since; for looking at while the guest runs. Raises Gone."""
        ready, _, _ = select.select([self._connection], [], [], 0)
        if ready:
            self._fill()
        if INTERRUPT in self._buffer:
            self._buffer = self._buffer.replace(INTERRUPT, b"", 1)
            return True
        return False

    def send(self, content: str | bytes) -> None:
        """Send a packet. Raises Gone."""
        data = content.encode("latin-1") if isinstance(content, str) else content
        data = b"".join(b"}" + bytes([one ^ 0x20]) if one in b"#$}*" else bytes([one]) for one in data)
        self._write(b"$" + data + b"#%02x" % (sum(data) & 0xFF))

    def _next(self) -> bytes | None:
        """Take a packet out of what has come, if there is a whole one."""
        while self._buffer:
            if self._buffer[:1] == INTERRUPT:
                self._buffer = self._buffer[1:]
                return INTERRUPT
            if self._buffer[:1] != b"$":
                start = min(
                    (at for at in (self._buffer.find(b"$"), self._buffer.find(INTERRUPT)) if at >= 0), default=-1
                )
                self._buffer = self._buffer[start:] if start >= 0 else b""  # acknowledgements, and noise
                continue
            end = self._buffer.find(b"#")
            if end < 0 or len(self._buffer) < end + 3:
                if len(self._buffer) > _MOST:
                    self._buffer = b""
                return None
            content, digits = self._buffer[1:end], self._buffer[end + 1 : end + 3]
            self._buffer = self._buffer[end + 3 :]
            right = _hexadecimal(digits) == sum(content) & 0xFF
            if self.acknowledges:
                self._write(b"+" if right else b"-")
            if right:
                return _unescaped(content)
        return None

    def _fill(self) -> None:
        try:
            data = self._connection.recv(65536)
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        self._buffer += data

    def _write(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError:
            raise Gone from None


def _hexadecimal(digits: bytes) -> int:
    try:
        return int(digits, 16)
    except ValueError:
        return -1


def _unescaped(content: bytes) -> bytes:
    found, escaped = bytearray(), False
    for one in content:
        if escaped:
            found.append(one ^ 0x20)
            escaped = False
        elif one == ord("}"):
            escaped = True
        else:
            found.append(one)
    return bytes(found)
