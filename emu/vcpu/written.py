"""Which pages a guest with flat addresses has stored to, and which the host has.

What the engine itself stores, the accessed and dirty bits of page tables, no hook hears of. In the tables that a guest
is given, whoever asks must look for that; once a guest has had tables of its own, or has stored to those, it may be
anywhere.

In Linux: KVM_GET_DIRTY_LOG, Documentation/virt/kvm/api.rst.
"""

import ctypes

from unicorn import unicorn_const

from emu import abi
from emu.vcpu import native
from emu.vcpu.engine import Engine
from emu.vcpu.paging import GIVEN_TABLES

_u64, _address = ctypes.c_uint64, ctypes.c_void_p


class _Written(ctypes.Structure):
    """`struct written` of native/written.c."""

    _fields_ = (("map", _address), ("pages", _address), ("size", _u64), ("count", _u64))


class Written:
    """Keeps the pages of `engine`'s RAM that are stored to. `is_native`: it hears of the guest's stores."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        library = native.library()
        count = engine.ram.size // abi.PAGE_SIZE
        self._map, self._pages = (ctypes.c_uint8 * count)(), (ctypes.c_uint32 * count)()
        self._now = _Written(ctypes.addressof(self._map), ctypes.addressof(self._pages), count, 0)
        self._host: set[int] = set()
        self.is_native = library is not None
        if library is None:
            return
        if library.emu_written_size() != ctypes.sizeof(_Written):
            raise RuntimeError("the callbacks were built of another version of written.c; install emu again")
        callback = ctypes.cast(library.emu_written, _address)
        everywhere = 1, 0
        engine.own_hook(unicorn_const.UC_HOOK_MEM_WRITE, callback, *everywhere, user=ctypes.byref(self._now))
        engine.flush_code()
        engine.ram.on_write(self._host_wrote)

    def _host_wrote(self, gpa: int, size: int) -> None:
        self._host.update(range(gpa // abi.PAGE_SIZE, (gpa + size - 1) // abi.PAGE_SIZE + 1))

    def take(self) -> set[int] | None:
        """The numbers of the pages stored to since this was asked last; None where it may be any."""
        now = self._now
        found = {*self._pages[: now.count]}
        if not found.isdisjoint(GIVEN_TABLES):  # they lead to tables elsewhere from now on, as far as can be known
            self._engine.own_tables = True
        found |= self._host
        for page in self._pages[: now.count]:
            self._map[page] = 0
        now.count = 0
        self._host.clear()
        return None if self._engine.own_tables else found
