"""Memory with canaries: pages of a known pattern before and behind everything that the engine is given to write to."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from emu.ram import Ram

CANARY = 1 << 16  # bytes on either side
_PATTERN = bytes(range(1, 256)) * (CANARY // 255 + 1)


class Guards:
    """The areas made while they are in force; `broken` names those whose surroundings have changed."""

    def __init__(self) -> None:
        self.areas: list[tuple[mmap.mmap, int]] = []

    def anonymous(self, size: int) -> memoryview:
        """Stands in for emu.ram.anonymous."""
        whole = mmap.mmap(-1, CANARY + size + CANARY)
        whole[:CANARY] = whole[CANARY + size :] = _PATTERN[:CANARY]
        self.areas.append((whole, size))
        return memoryview(whole)[CANARY : CANARY + size]

    def broken(self) -> list[str]:
        found = []
        for whole, size in self.areas:
            for where, start in (("before", 0), ("behind", CANARY + size)):
                if whole[start : start + CANARY] != _PATTERN[:CANARY]:
                    found.append(f"{where} the {size:#x} bytes")
        return found


@contextmanager
def guarded() -> Iterator[Guards]:
    """Every machine made inside has canaries around its RAM, the host's window and the nested tables."""
    guards = Guards()
    read = Ram.read

    def read_bytes(ram: Ram, gpa: int, size: int) -> bytes:
        return bytes(read(ram, gpa, size))

    with (
        mock.patch("emu.ram.anonymous", guards.anonymous),
        mock.patch("emu.vcpu.host_window.anonymous", guards.anonymous),
        mock.patch("emu.vcpu.nested.anonymous", guards.anonymous),
        mock.patch.object(Ram, "read", read_bytes),
    ):
        yield guards
