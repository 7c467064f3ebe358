"""Reading and writing many registers in one call, through preallocated slots.

The engine's binding builds fresh objects for each register; an exit needs a handful of them, a hundred thousand times
a second. A `Batch` is one buffer with one slot per register, handed to the engine's public batch functions.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import unicorn.unicorn_py3.unicorn as binding
from unicorn import x86_const

uclib: Any = binding.uclib
SLOT = 32  # bytes per register: the widest value the engine exchanges here is 16
QUADS = SLOT // 8
_MASK64 = 2**64 - 1


def register_id(name: str) -> int:
    """The engine's number of a register, such as `RAX` or `XMM3`."""
    number: int = getattr(x86_const, f"UC_X86_REG_{name}")
    return number


class Batch:
    """Registers by name in one buffer; `read` and `write` exchange all of them with the engine at once."""

    def __init__(self, handle: Any, names: Sequence[str]) -> None:
        count = len(names)
        self._handle = handle
        self._count = ctypes.c_int(count)
        self._index = {name: QUADS * slot for slot, name in enumerate(names)}
        self.buffer = bytearray(SLOT * count)
        anchor = (ctypes.c_char * len(self.buffer)).from_buffer(self.buffer)
        base = ctypes.addressof(anchor)
        self._ids = (ctypes.c_int * count)(*map(register_id, names))
        self._slots = (ctypes.c_void_p * count)(*(base + SLOT * slot for slot in range(count)))
        self.quads = (ctypes.c_uint64 * (QUADS * count)).from_buffer(self.buffer)
        self._read = uclib.uc_reg_read_batch
        self._write = uclib.uc_reg_write_batch

    def read(self) -> None:
        self._read(self._handle, self._ids, self._slots, self._count)

    def write(self) -> None:
        self._write(self._handle, self._ids, self._slots, self._count)

    def __getitem__(self, name: str) -> int:
        return self.quads[self._index[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self.quads[self._index[name]] = value & _MASK64

    def wide(self, name: str) -> int:
        """A register of up to 128 bits, such as XMM0 or FP0."""
        at = self._index[name]
        return self.quads[at] | self.quads[at + 1] << 64

    def set_wide(self, name: str, value: int) -> None:
        at = self._index[name]
        self.quads[at], self.quads[at + 1] = value & _MASK64, value >> 64 & _MASK64
