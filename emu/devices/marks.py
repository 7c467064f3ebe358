"""The port by which a guest marks where a read of its area begins and ends.

The port carries the mark's number alone; area and value stand in registers, which the machine adds.

In Linux: trace_marker in Documentation/trace/ftrace.rst, the same idea for user space.
"""

from emu import abi
from emu.stateful import Stateful


class Marks(Stateful):
    """`mark` is the last number written (MARK_BEGIN, MARK_END, or any byte) that has not been taken, or None."""

    ports = ((abi.PORT_MARK, 1),)
    fields = ("mark",)

    def __init__(self) -> None:
        self.mark: int | None = None

    def take(self) -> int | None:
        """The mark just set, once; None where there is none."""
        mark, self.mark = self.mark, None
        return mark

    def read(self, port: int, size: int) -> int:
        """Nothing can be read here: all ones, as where nobody is home."""
        return (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        """Set the mark to the low byte, whatever the width of the OUT."""
        self.mark = value & 0xFF
