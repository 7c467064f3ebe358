"""Guest-physical memory: one object, shared by every vCPU, open to the host without copying.

The bytes are one anonymous mapping that the engine maps too, so both sides see each store at once. Host writes go
through `write`, which remembers where they fell: translated guest code must be dropped where it was overwritten.

In Linux: struct kvm_memory_slot and kvm_write_guest() in virt/kvm/kvm_main.c.
"""

import mmap
from collections.abc import Callable

from emu import abi
from emu.faults import HostError


class Ram:
    """`size` bytes of zeroes at guest-physical address 0; a whole number of pages, MIN_RAM to MAX_RAM.

    Raises HostError where the size is out of these bounds, or more than the host can give.
    """

    def __init__(self, size: int) -> None:
        if not abi.MIN_RAM <= size <= abi.MAX_RAM or size % abi.PAGE_SIZE:
            raise HostError(
                f"{size} bytes of RAM cannot be had",
                remedy=f"give whole pages from {abi.MIN_RAM >> 20}M to {abi.MAX_RAM >> 20}M",
            )
        self.size = size
        try:
            self.bytes = anonymous(size)
        except (OSError, ValueError, OverflowError) as error:
            raise HostError(
                f"this computer does not give {size >> 20}M of memory ({error})", "RAM", "ask for less"
            ) from None
        self._listeners: list[Callable[[int, int], None]] = []

    def holds(self, gpa: int, size: int) -> bool:
        """Whether [gpa, gpa + size) is RAM throughout; any integers may be asked about."""
        return 0 <= gpa <= self.size - size

    def read(self, gpa: int, size: int) -> bytes:
        """`size` bytes at `gpa`; raises IndexError outside RAM."""
        self._check(gpa, size)
        return self.bytes[gpa : gpa + size]

    def load(self, gpa: int, size: int) -> int:
        """A little-endian unsigned integer of `size` bytes; raises IndexError outside RAM."""
        self._check(gpa, size)
        return int.from_bytes(self.bytes[gpa : gpa + size], "little")

    def write(self, gpa: int, data: bytes) -> None:
        """The host's store, seen by every vCPU from its next instruction on; raises IndexError outside RAM."""
        self._check(gpa, len(data))
        self.bytes[gpa : gpa + len(data)] = data
        for listener in self._listeners:
            listener(gpa, len(data))

    def store(self, gpa: int, size: int, value: int) -> None:
        """`write` of a little-endian unsigned integer of `size` bytes."""
        self.write(gpa, value.to_bytes(size, "little"))

    def on_write(self, listener: Callable[[int, int], None]) -> None:
        """Call `listener(gpa, size)` after each host write. For the engine and for who watches; never for a device."""
        self._listeners.append(listener)

    def no_longer(self, listener: Callable[[int, int], None]) -> None:
        """Do not call it any more."""
        self._listeners.remove(listener)

    def _check(self, gpa: int, size: int) -> None:
        if not self.holds(gpa, size):
            raise IndexError(f"guest-physical {gpa:#x}+{size:#x} is outside {self.size:#x} bytes of RAM")


def anonymous(size: int) -> mmap.mmap:
    """`size` bytes of zeroes of this process's own; raises what mmap does where they cannot be had."""
    # Private where the system knows the difference: shared, a forked child and its parent would have one memory.
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)
