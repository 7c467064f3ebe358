"""The callbacks that are too frequent for Python, in C: what they share with Python, and the library if it was built.

`callbacks.c` is built when emu is installed and a compiler is at hand (emu/vcpu/native/build.py). Without it, or with
EMU_NATIVE=0 in the environment, emu.vcpu.native.plain does the same in Python: the same results, only later.

In Linux: kernel/kcov.c, and struct kcov as the place that both sides know.
"""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

MAX_READS, MAX_CURRENT = 256, 16
EVEN, ODD = 1, 2
LIBRARY = Path(__file__).with_name("_callbacks.so")

_u8, _u16, _u32, _u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
_address = ctypes.c_void_p


class Play(ctypes.Structure):
    """A store of the host, before the visible access of number `at` (0: at the beginning, the first access is 1)."""

    _fields_ = (
        *(("at", _u32), ("offset", _u16), ("size", _u8), ("flags", _u8)),
        *(("value", _u64), ("steal", _u64)),
    )


class Reading(ctypes.Structure):
    """A read between two marks that has ended: what it returned, and `current`, the values that were legal."""

    _fields_ = (
        *(("value", _u64), ("area", _u64), ("legal", _u8), ("known", _u8), ("count", _u16), ("access", _u32)),
        ("current", _u64 * MAX_CURRENT),
    )


class Run(ctypes.Structure):
    """`struct run` of callbacks.c, where each field is explained."""

    _fields_ = (
        *((name, _address) for name in ("engine", "context", "start", "stop", "restore", "get", "control", "counter")),
        *(("rip", _u64), ("insns", _u64)),
        *(("ram", _address), ("clean", _address), ("ram_size", _u64), ("dirty_map", _address), ("dirty", _address)),
        *(("dirty_count", _u32), ("dirty_max", _u32)),
        *(("tables", _address), ("table_count", _u32), ("flush", ctypes.c_int32)),
        *(("area", _u64), ("area_size", _u64), ("alias", _u64), ("plays", _address)),
        *((name, _u32) for name in ("play_count", "next_play", "accesses", "phase", "version", "wide")),
        *(("last_access", _u64), ("last_play", _u64)),
        *(("current", _u64), ("begin_current", _u64), ("has_current", _u32), ("begin_has_current", _u32)),
        *(("in_read", _u32), ("read_count", _u32), ("read_area", _u64), ("legal_count", _u32), ("legal_many", _u32)),
        *(("legal", _u64 * MAX_CURRENT), ("reads", Reading * MAX_READS)),
        *((name, _u32) for name in ("wrote", "wrote_offset", "wrote_size", "wild")),
        ("wild_at", _u64),
        *((name, _u32) for name in ("ended", "exit_code", "printed", "odd_port")),
        *((name, _u32) for name in ("port_console", "port_uart", "port_exit", "port_mark", "mark_begin", "mark_end")),
        *((name, ctypes.c_int32) for name in ("rax", "rbx", "rcx", "result", "result_high")),
        ("pad0", _u32),
        *(("owned_count", _u32), ("pad", _u32), ("owned", _u64 * 32)),
        *(("map", _address), ("seen", _address), ("map_mask", _u32), ("previous", _u32)),
        ("blocks", _address),
        *((name, _u32) for name in ("blocks_mask", "edge_count", "block_count")),
        *(("error", ctypes.c_int32), ("passes", ctypes.c_uint8 * 256)),
    )


@functools.cache
def library() -> Any:
    """The callbacks in C, or None where there are none or EMU_NATIVE=0 says so.

    Raises RuntimeError for a library that was built of another source.
    """
    if os.environ.get("EMU_NATIVE") == "0" or not LIBRARY.is_file():
        return None
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:  # built for another machine
        return None
    sizes = found.emu_run_size(), found.emu_reading_size(), found.emu_play_size()
    if sizes != tuple(map(ctypes.sizeof, (Run, Reading, Play))):
        raise RuntimeError(f"{LIBRARY} was built of another version of callbacks.c; install emu again")
    return found
