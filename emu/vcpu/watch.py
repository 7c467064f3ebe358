"""Watching a guest from outside: where it executes, and what it reads and writes, without its noticing.

A watch is a list of hooks in the engine, there for as long as somebody looks back over a stretch of a run or explores
it, and never in an ordinary run: each hit costs a call into Python. The hooks only tell; what is told goes to the
one who watches. Code is where the guest sees it, memory is where it is: the address of an instruction is linear, that
of a load or a store guest-physical, by whatever page tables the guest came to it.

In Linux: perf_event_open(2) with PERF_TYPE_BREAKPOINT is the same offer, made by debug registers.
"""

import ctypes
from collections.abc import Callable, Iterable
from typing import NamedTuple

from unicorn import unicorn_const

from emu.vcpu.engine import Engine

_MEM_WRITE = unicorn_const.UC_MEM_WRITE


class Access(NamedTuple):
    """One load or store by the instruction under way; `value` is what is stored, and 0 for a load."""

    gpa: int
    size: int
    write: bool
    value: int


class Watch:
    """Hooks on `engine` until `close`. `executed(linear)` is called before an instruction, `accessed` with an access.

    `code` are ranges of linear addresses (first, last), `reads` and `writes` of guest-physical ones. All translated
    code is dropped before and after, for code translated without a hook never calls it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        code: Iterable[tuple[int, int]] = (),
        executed: Callable[[int], None] | None = None,
        reads: Iterable[tuple[int, int]] = (),
        writes: Iterable[tuple[int, int]] = (),
        accessed: Callable[[Access], None] | None = None,
    ) -> None:
        self._engine = engine
        self._executed = executed
        self._accessed = accessed
        self._numbers: list[ctypes.c_size_t] = []
        void, u64, i64, i32, u32 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int, ctypes.c_uint32
        self._on_code = ctypes.CFUNCTYPE(None, void, u64, u32, void)(self._code)
        self._on_memory = ctypes.CFUNCTYPE(None, void, i32, u64, i32, i64, void)(self._memory)
        for first, last in code:
            self._numbers.append(engine.hook(unicorn_const.UC_HOOK_CODE, self._on_code, first, last))
        for first, last in reads:
            self._numbers.append(engine.hook(unicorn_const.UC_HOOK_MEM_READ, self._on_memory, first, last))
        for first, last in writes:
            self._numbers.append(engine.hook(unicorn_const.UC_HOOK_MEM_WRITE, self._on_memory, first, last))
        engine.flush_code()

    def close(self) -> None:
        """Take the hooks away."""
        self._engine.unhook(self._numbers)

    def _code(self, _uc: int, linear: int, _size: int, _data: int) -> None:
        assert self._executed is not None
        self._executed(linear)

    def _memory(self, _uc: int, kind: int, gpa: int, size: int, value: int, _data: int) -> None:
        assert self._accessed is not None
        write = kind == _MEM_WRITE
        self._accessed(Access(gpa, size, write, value & (1 << 8 * size) - 1 if write else 0))
