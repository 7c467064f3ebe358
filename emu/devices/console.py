"""What the guest prints: the console port of Bochs and QEMU, and the transmit half of a 16550 UART.

Both are always ready, so a guest that polls never waits. A guest that prints without end fills the cap and no more.

In Linux: drivers/tty/serial/8250/8250_early.c, which needs no more of a UART than this.
"""

from collections.abc import Callable

from emu import abi

DEFAULT_CAP = 1 << 20


class Console:
    """Collects at most `cap` bytes; `sink(byte, port)` is called for each of them as it arrives.

    `overflow` counts the bytes beyond the cap: neither collected nor passed on. Wide writes print their low byte.
    """

    ports = ((abi.PORT_CONSOLE, 1), (abi.PORT_UART, abi.UART_REGISTERS))

    def __init__(self, sink: Callable[[int, int], None] | None = None, cap: int = DEFAULT_CAP) -> None:
        self._sink = sink
        self._cap = cap
        self._output = bytearray()
        self._uart = [0] * abi.UART_REGISTERS
        self._divisor = [0, 0]
        self.overflow = 0

    @property
    def output(self) -> bytes:
        """Everything printed so far, on either port, in order."""
        return bytes(self._output)

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
        if len(self._output) >= self._cap:
            self.overflow += 1
            return
        self._output.append(byte)
        if self._sink is not None:
            self._sink(byte, port)
