"""The port by which a guest ends the run; the byte written is the run's exit status.

In Linux: ucall_arch_do_ucall() in tools/testing/selftests/kvm/lib/x86/ucall.c, a port of the same kind.
"""

from emu import abi
from emu.stateful import Stateful


class ExitPort(Stateful):
    """`code` is None until the first write and then its low byte for good: a later write comes after the end."""

    ports = ((abi.PORT_EXIT, 1),)
    fields = ("code",)

    def __init__(self) -> None:
        self.code: int | None = None

    def read(self, port: int, size: int) -> int:
        """Nothing can be read here: all ones, as where nobody is home."""
        return (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        """End the run with the low byte, whatever the width of the OUT."""
        if self.code is None:
            self.code = value & 0xFF
