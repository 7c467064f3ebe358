"""What the guest prints: the console port of Bochs and QEMU, and the transmit half of a 16550 UART.

Both are always ready, so a guest that polls never waits. A guest that prints without end fills the cap and no more.

What was printed only grows, so of it a state holds the length and a checksum. To go back is to take the end away; it is
kept until the guest prints something else there, so that one can come forward again.

In Linux: drivers/tty/serial/8250/8250_early.c, which needs no more of a UART than this.
"""

import zlib
from collections.abc import Callable

from emu import abi
from emu.stateful import State, Stateful

DEFAULT_CAP = 1 << 20


class Console(Stateful):
    """Collects at most `cap` bytes; `sink(byte, port)` is called for each of them as it arrives.

    `overflow` counts the bytes beyond the cap: neither collected nor passed on. Wide writes print their low byte.
    """

    ports = ((abi.PORT_CONSOLE, 1), (abi.PORT_UART, abi.UART_REGISTERS))
    fields = ("overflow", "_length", "_checksum")

    def __init__(self, sink: Callable[[int, int], None] | None = None, cap: int = DEFAULT_CAP) -> None:
        self._sink = sink
        self._cap = cap
        self._log = bytearray()  # all that was printed, and what may follow where one has gone back
        self._length = 0
        self._checksum = 0  # of the first `_length` bytes
        self._uart = [0] * abi.UART_REGISTERS
        self._divisor = [0, 0]
        self.overflow = 0

    @property
    def output(self) -> bytes:
        """Everything printed so far, on either port, in order."""
        return bytes(self._log[: self._length])

    def remember(self, output: bytes) -> None:
        """Have printed this, so that a state in which that was so can be loaded; what was printed else is forgotten."""
        if self._log[: len(output)] != output:
            self._log = bytearray(output)

    def state(self) -> State:
        return (*super().state(), tuple(self._uart), tuple(self._divisor))

    def load(self, state: State) -> None:
        """Become what `state` says; raises ValueError, and changes nothing, where this was never printed here."""
        *own, uart, divisor = state
        _, length, checksum = own
        if length > len(self._log) or zlib.crc32(self._log[:length]) != checksum:
            raise ValueError(f"these are not the {length} bytes that this console has printed")
        super().load(tuple(own))
        self._uart, self._divisor = list(uart), list(divisor)

    def read(self, port: int, size: int) -> int:
        """The console port answers with its own number, by which a guest can tell that it is there, as in Bochs."""
        if port == abi.PORT_CONSOLE:
            return abi.PORT_CONSOLE
        register = port - abi.PORT_UART
        if self._divisor_selected(register):
            return self._divisor[register]
        if register == abi.UART_TX:
            return 0  # the receiver's side of this register: nothing is ever received
        if register == abi.UART_IIR:
            return abi.UART_IIR_NO_INT
        if register == abi.UART_LSR:
            return abi.UART_LSR_IDLE
        return self._uart[register]

    def write(self, port: int, size: int, value: int) -> None:
        """Print the low byte, or keep it where the port is one of the UART's other registers."""
        byte = value & 0xFF
        register = port - abi.PORT_UART
        if port == abi.PORT_CONSOLE:
            self._print(byte, port)
        elif self._divisor_selected(register):
            self._divisor[register] = byte
        elif register == abi.UART_TX:
            self._print(byte, port)
        else:
            self._uart[register] = byte

    def _divisor_selected(self, register: int) -> bool:
        return register in (abi.UART_TX, abi.UART_IER) and bool(self._uart[abi.UART_LCR] & abi.UART_LCR_DLAB)

    def _print(self, byte: int, port: int) -> None:
        at = self._length
        if at >= self._cap:
            self.overflow += 1
            return
        if self._log[at : at + 1] != byte.to_bytes():
            del self._log[at:]
            self._log.append(byte)
        self._length = at + 1
        self._checksum = zlib.crc32(self._log[at : at + 1], self._checksum)
        if self._sink is not None:
            self._sink(byte, port)
