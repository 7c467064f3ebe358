"""callbacks.c in Python, function by function: for machines without a C compiler, and to check the other against.

In Linux: lib/raid6 and the like keep a plain version beside the fast ones.
"""

import ctypes
from typing import Any

from emu import abi
from emu.vcpu.native import EVEN, MAX_CURRENT, MAX_READS, ODD, Play, Run

_MASK64 = (1 << 64) - 1


class Plain:
    """The callbacks, of one Run. Each method is the C function of that name."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._start = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, *4 * (ctypes.c_uint64,)
        )(run.start)  # fmt: skip
        self._stop = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(run.stop)
        self._restore = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(run.restore)
        self._get = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(run.get)
        self._control = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(run.control)
        self._counter = ctypes.c_uint64.from_address(run.counter)
        self.use_map()
        self._seen = (ctypes.c_uint8 * (run.map_mask + 1)).from_address(run.seen)
        self._blocks = (ctypes.c_uint64 * (run.blocks_mask + 1)).from_address(run.blocks)
        self._word = ctypes.c_uint64()

    def use_map(self) -> None:
        """Count edges where the run says now."""
        self._map = (ctypes.c_uint8 * (self._run.map_mask + 1)).from_address(self._run.map)

    def block(self, _engine: Any, address: int, size: int, _run: Any) -> None:
        run = self._run
        place = (address ^ address >> 4 ^ address << 9) & run.map_mask
        at = (place ^ run.previous) & run.map_mask
        if self._map[at] != 255:
            self._map[at] += 1
        if not self._seen[at]:
            self._seen[at] = 1
            run.edge_count += 1
            self._keep(place, address << 16 & _MASK64 | size & 0xFFFF)
        run.previous = place >> 1

    def _keep(self, at: int, block: int) -> None:
        run, blocks = self._run, self._blocks
        while blocks[at & run.blocks_mask] not in (0, block):
            at += 1
        if not blocks[at & run.blocks_mask] and run.block_count < run.blocks_mask // 2:
            blocks[at & run.blocks_mask] = block
            run.block_count += 1

    def _play(self, play: Play) -> None:
        run = self._run
        value = ctypes.c_uint64(play.value)
        ctypes.memmove(run.ram + run.area + play.offset, ctypes.byref(value), play.size)
        run.phase = 0 if play.flags & EVEN else 1 if play.flags & ODD else 2 if run.phase else 0
        if play.flags & ODD:
            run.has_current = 0
        if play.flags & EVEN:
            run.has_current = 1
            run.current = play.steal
            if run.in_read:
                if run.legal_count < MAX_CURRENT:
                    run.legal[run.legal_count] = play.steal
                    run.legal_count += 1
                else:
                    run.legal_many = 1

    def access(self, _engine: Any, _kind: int, address: int, _size: int, _value: int, _run: Any) -> None:
        run = self._run
        now = self._counter.value
        if now == run.last_access:
            return
        run.last_access = now
        run.accesses += 1
        while run.next_play < run.play_count and self._next().at <= run.accesses:
            self._play(self._next())
            run.next_play += 1
            run.last_play = now
        self._met(address - run.area)

    def _met(self, offset: int) -> None:
        run = self._run
        version = self._version()
        steps = min((((version - run.version) & 0xFFFFFFFF) >> 1).bit_length(), 15)
        run.version = version
        field = offset >> 2 if 0 <= offset < 12 else 3
        at = run.map_mask - (field << 6 | run.phase << 4 | steps)
        if self._map[at] != 255:
            self._map[at] += 1

    def _version(self) -> int:
        return ctypes.c_uint32.from_address(self._run.ram + self._run.area + abi.KVM_STEAL_TIME_VERSION).value

    def _next(self) -> Play:
        run = self._run
        return Play.from_address(run.plays + run.next_play * ctypes.sizeof(Play))

    def store(self, _engine: Any, _kind: int, address: int, size: int, _value: int, _run: Any) -> None:
        run = self._run
        for page in range(address >> 12, (address + size - 1 >> 12) + 1):
            dirty = ctypes.c_uint8.from_address(run.dirty_map + page) if page << 12 < run.ram_size else None
            if dirty is None or dirty.value:
                continue
            dirty.value = 1
            if run.dirty_count < run.dirty_max:
                ctypes.c_uint32.from_address(run.dirty + 4 * run.dirty_count).value = page
                run.dirty_count += 1
        if _inside(address, size, run.area, run.area_size):
            if not run.wrote and _inside(address, size, run.area, 16):
                run.wrote, run.wrote_offset, run.wrote_size = 1, max(address - run.area, 0), size
            return
        for number in range(run.owned_count):
            if address >= run.owned[2 * number] and address + size <= run.owned[2 * number + 1]:
                return
        if not run.wild:
            run.wild, run.wild_at = 1, address

    def _register(self, number: int) -> int:
        self._word.value = 0
        self._get(self._run.engine, number, ctypes.byref(self._word))
        return self._word.value if self._run.wide else self._word.value & 0xFFFFFFFF

    def _mark(self, number: int) -> None:
        run = self._run
        if number == run.mark_begin:
            area = self._register(run.rbx)
            self._read_begins(run.area if area == run.alias else area)
        elif number == run.mark_end:
            high = 0 if run.wide else self._register(run.rcx) << 32
            self._read_ends(high | self._register(run.rax))

    def read_begins(self, _engine: Any, _address: int, _size: int, _run: Any) -> None:
        self._read_begins(self._run.area)

    def read_ends(self, _engine: Any, _address: int, _size: int, _run: Any) -> None:
        run = self._run
        value = self._register(run.result)
        self._read_ends(self._register(run.result_high) << 32 | value & 0xFFFFFFFF if run.result_high else value)

    def _read_begins(self, area: int) -> None:
        run = self._run
        run.in_read = 1
        run.read_area = area
        run.legal_many = run.legal_count = 0
        if run.has_current:
            run.legal[0] = run.current
            run.legal_count = 1

    def _read_ends(self, value: int) -> None:
        run = self._run
        if not run.in_read:
            return
        run.in_read = 0
        if run.read_count >= MAX_READS:
            return
        read = run.reads[run.read_count]
        run.read_count += 1
        read.value, read.area, read.known = value, run.read_area, not run.legal_many
        read.access, read.count = run.accesses, run.legal_count
        read.legal = 0
        for at in range(run.legal_count):
            read.current[at] = run.legal[at]
            read.legal |= run.legal[at] == value

    def out(self, _engine: Any, port: int, size: int, value: int, _run: Any) -> None:
        run = self._run
        if port == run.port_mark:
            self._mark(value & 0xFF)
        elif port == run.port_exit:
            run.ended, run.exit_code = 1, value & 0xFF
            self._stop(run.engine)
        elif port in (run.port_console, run.port_uart):
            run.printed += size
        else:
            run.odd_port = 1
            self._stop(run.engine)

    def in_(self, _engine: Any, _port: int, _size: int, _run: Any) -> int:
        self._run.odd_port = 1
        self._stop(self._run.engine)
        return 0xFFFFFFFF

    def execute(self) -> int:
        run = self._run
        for number in range(run.dirty_count):
            page = ctypes.c_uint32.from_address(run.dirty + 4 * number).value
            self._clean(page)
            ctypes.c_uint8.from_address(run.dirty_map + page).value = 0
        run.dirty_count = 0
        for number in range(run.table_count):
            self._clean(ctypes.c_uint32.from_address(run.tables + 4 * number).value)
        if run.area_size:
            for page in range(run.area >> 12, (run.area + run.area_size - 1 >> 12) + 1):
                self._clean(page)
        for name in ("next_play", "accesses", "in_read", "read_count", "wrote", "wild", "ended", "exit_code"):
            setattr(run, name, 0)
        run.printed = run.odd_port = run.last_access = run.last_play = run.previous = 0
        run.current, run.has_current = run.begin_current, run.begin_has_current
        while run.next_play < run.play_count and self._next().at == 0:
            self._play(self._next())
            run.next_play += 1
        run.phase = 0
        if run.area_size:
            run.version = self._version()
        self._restore(run.engine, run.context)
        if run.table_count:
            self._control(run.engine, run.flush)
        return int(self._start(run.engine, run.rip, _MASK64, 0, run.insns))

    def _clean(self, page: int) -> None:
        at = page * abi.PAGE_SIZE
        ctypes.memmove(self._run.ram + at, self._run.clean + at, abi.PAGE_SIZE)


def _inside(address: int, size: int, first: int, count: int) -> bool:
    return address < first + count and address + size > first
