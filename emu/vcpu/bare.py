"""A guest run over and over from one moment, with nothing around it but callbacks that count and play out a list.

No device is asked, no exit completed: what the guest does that needs one ends the run, and whoever runs it this way
has `emu.machine` for that. It is for asking one question of one stretch of code, tens of thousands of times a second.

In Linux: nothing like it; it is what a fuzzer's persistent mode does for a process.
"""

import ctypes
import mmap
from collections.abc import Iterable, Sequence
from typing import Any

from unicorn import unicorn_const, x86_const
from unicorn.unicorn_const import UC_ERR_OK

from emu import abi
from emu.ram import anonymous
from emu.vcpu import native, vmcb
from emu.vcpu.engine import EVERYWHERE, Engine
from emu.vcpu.exit_codes import NO_EXIT
from emu.vcpu.native import Play, Run
from emu.vcpu.native.plain import Plain
from emu.vcpu.paging import GIVEN_TABLES
from emu.vcpu.registers import uclib

MAP_SIZE = 1 << 13  # counters of edges; a guest of a few hundred blocks leaves most of them free
_MAX_PLAYS = 8192
_MOST_OWNED = 16
_FLUSH = unicorn_const.UC_CTL_TLB_FLUSH | unicorn_const.UC_CTL_IO_WRITE << 30  # as UC_CTL_WRITE encodes it, no argument
CURRENT_READS, READS_GO_ON = 1, 2
HALT, EXIT, BUDGET, OTHER = "halt", "exit", "budget", "other"


class Bare:
    """`engine` holds a guest at `rip`, from where each `execute` begins, for at most `insns` instructions.

    `area` is the guest's, of `area_size` bytes (0: none is registered), `current` the value that is published in it.
    `owned` are ranges (first, end) of memory to which the guest may store. Without `covers` no edges are counted.
    `tables` are the pages of page tables of the guest's own, `alias` an address by which it calls its area. The engine
    is this object's from now on.
    """

    def __init__(
        self,
        engine: Engine,
        rip: int,
        *,
        insns: int,
        area: int,
        area_size: int,
        current: int | None,
        wide: bool,
        owned: Sequence[tuple[int, int]],
        covers: bool = True,
        tables: Sequence[int] = (),
        alias: int | None = None,
    ) -> None:
        if len(owned) > _MOST_OWNED:
            raise ValueError(f"at most {_MOST_OWNED} ranges can be watched")
        self._engine = engine
        ram = engine.ram
        self._clean = anonymous(ram.size)
        self._clean[:] = ram.bytes[:]
        pages = ram.size // abi.PAGE_SIZE
        self._dirty_map, self._dirty = (ctypes.c_uint8 * pages)(), (ctypes.c_uint32 * pages)()
        self._plays = (Play * _MAX_PLAYS)()
        self._context = engine.new_context()
        engine.lay_aside(self._context)
        self.map = (ctypes.c_uint8 * MAP_SIZE)()
        self.run = run = Run()
        run.engine = engine.handle.value
        run.context = self._context.context.value
        for name, function in (
            *(("start", "uc_emu_start"), ("stop", "uc_emu_stop")),
            *(("restore", "uc_context_restore"), ("get", "uc_reg_read"), ("control", "uc_ctl")),
        ):
            setattr(run, name, ctypes.cast(getattr(uclib, function), ctypes.c_void_p).value)
        run.counter = ctypes.addressof(engine.counter_place)
        run.rip, run.insns = rip, insns
        run.ram, run.clean = _address(ram.bytes), _address(self._clean)
        run.ram_size = ram.size
        run.dirty_map, run.dirty, run.dirty_max = _place(self._dirty_map), _place(self._dirty), pages
        self._tables = (ctypes.c_uint32 * len(tables))(*tables)
        run.tables, run.table_count, run.flush = _place(self._tables), len(tables), _FLUSH
        run.area, run.area_size, run.plays = area, area_size, _place(self._plays)
        run.alias = area if alias is None else alias
        run.begin_has_current, run.begin_current = current is not None, current or 0
        run.wide = wide
        run.port_console, run.port_uart = abi.PORT_CONSOLE, abi.PORT_UART
        run.port_exit, run.port_mark = abi.PORT_EXIT, abi.PORT_MARK
        run.mark_begin, run.mark_end = abi.MARK_BEGIN, abi.MARK_END
        run.rax, run.rbx, run.rcx = (getattr(x86_const, f"UC_X86_REG_{name}") for name in ("RAX", "RBX", "RCX"))
        run.owned_count = len(owned)
        for number, (first, end) in enumerate(owned):
            run.owned[2 * number], run.owned[2 * number + 1] = first, end
        self._seen, self._blocks = (ctypes.c_uint8 * MAP_SIZE)(), (ctypes.c_uint64 * MAP_SIZE)()
        run.map, run.seen, run.map_mask = _place(self.map), _place(self._seen), MAP_SIZE - 1
        run.blocks, run.blocks_mask = _place(self._blocks), MAP_SIZE - 1
        self._library = native.library()
        self._plain: Plain | None = None
        self._place, self._told = ctypes.byref(run), (ctypes.c_uint32 * 2)()
        self._hook(covers=covers)

    @property
    def is_native(self) -> bool:
        """Whether the callbacks are the ones in C."""
        return self._library is not None

    def _hook(self, *, covers: bool) -> None:
        engine, run = self._engine, self.run
        engine.hand_over()
        void, u64, i64 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64
        u32, i32 = ctypes.c_uint32, ctypes.c_int
        of_block = ctypes.CFUNCTYPE(None, void, u64, u32, void)
        of_memory = ctypes.CFUNCTYPE(None, void, i32, u64, i32, i64, void)
        of_out, of_in = ctypes.CFUNCTYPE(None, void, u32, i32, u32, void), ctypes.CFUNCTYPE(u32, void, u32, i32, void)
        library = self._library
        if library is None:
            plain = self._plain = Plain(run)
            self._execute: Any = plain.execute
            called: list[Any] = [
                of_block(plain.block),
                *(of_memory(plain.access), of_memory(plain.store)),
                *(of_out(plain.out), of_in(plain.in_)),
            ]
        else:
            self._execute = lambda execute=library.emu_execute, place=self._place: execute(place)
            called = [
                ctypes.cast(getattr(library, name), ctypes.c_void_p)
                for name in ("emu_block", "emu_access", "emu_store", "emu_out", "emu_in")
            ]
        self._called = called  # kept alive
        block, access, store, out, in_ = called
        const, user = unicorn_const, self._place
        if covers:
            engine.hook(const.UC_HOOK_BLOCK, block, *EVERYWHERE, user=user)
        if run.area_size:
            area = run.area, run.area + run.area_size - 1
            engine.hook(const.UC_HOOK_MEM_READ, access, *area, user=user)
            engine.hook(const.UC_HOOK_MEM_WRITE, access, *area, user=user)
        engine.hook(const.UC_HOOK_MEM_WRITE, store, *EVERYWHERE, user=user)
        engine.hook(const.UC_HOOK_INSN, out, *EVERYWHERE, x86_const.UC_X86_INS_OUT, user=user)
        engine.hook(const.UC_HOOK_INSN, in_, *EVERYWHERE, x86_const.UC_X86_INS_IN, user=user)
        engine.flush_code()

    def execute(self, plays: bytes) -> str:
        """Run once more, with these stores (Play after Play, in order of `at`); why it ended. The rest is in `run`.

        Counters of `map` are added to, never cleared.
        """
        count = len(plays) // ctypes.sizeof(Play)
        if count > _MAX_PLAYS:
            raise ValueError(f"more than {_MAX_PLAYS} stores")
        ctypes.memmove(self._plays, plays, len(plays))
        self.run.play_count = count
        return self._executed()

    def passes(self, data: bytes, kinds: int, judged: int) -> bool:
        """The same with the stores that `data` means (emu.fuzz.records) to a host of so many kinds of records: whether
        the guest exits with a status of `passing`, and nothing that it did is to be looked at more closely.

        `judged` is CURRENT_READS and READS_GO_ON, or neither. Only where the callbacks are the ones in C.
        """
        assert self._library is not None
        self._engine.exit_code = NO_EXIT
        run = self._library.emu_passes
        return bool(run(self._place, data, len(data), kinds, self._plays, self._told, judged))

    def passing(self, statuses: Iterable[int]) -> None:
        """With which of these a guest exits where all is well."""
        for status in statuses:
            self.run.passes[status] = 1

    def last(self) -> tuple[str, bool]:
        """Why the execution ended whose `passes` was asked last, and whether steal grows in it all the time."""
        return self._ended(self.run.error), bool(self._told[0])

    def suspicious(self, *, current: bool, forward: bool) -> bool:
        """Whether the last run may have done what it must not: it is to be looked at more closely."""
        if self._library is None:
            return True
        return bool(self._library.emu_suspicious(self._place, current, forward))

    def _executed(self) -> str:
        self._engine.exit_code = NO_EXIT
        return self._ended(self._execute())

    def _ended(self, error: int) -> str:
        run, engine = self.run, self._engine
        if run.ended:
            return EXIT
        if error == UC_ERR_OK and engine.exit_code == NO_EXIT and not run.odd_port:
            return BUDGET
        return HALT if engine.exit_code == vmcb.EXIT_HLT else OTHER

    def use_map(self, place: int) -> None:
        """Count edges at this address from now on, where MAP_SIZE bytes are."""
        self.map = (ctypes.c_uint8 * MAP_SIZE).from_address(place)
        self.run.map = place
        if self._plain is not None:
            self._plain.use_map()

    def declare_read(self, begins: Iterable[int], ends: Iterable[int], registers: tuple[str, ...]) -> None:
        """A read of the area begins where these instructions are executed and has ended where those are, with its value
        in one register, or in two of 32 bits, the upper half first."""
        of_code = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
        plain, library = self._plain, self._library
        if plain is not None:
            called: list[Any] = [of_code(plain.read_begins), of_code(plain.read_ends)]
        else:
            names = "emu_read_begins", "emu_read_ends"
            called = [ctypes.cast(getattr(library, name), ctypes.c_void_p) for name in names]
        self._called += called
        numbers = [getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in registers]
        self.run.result, self.run.result_high = numbers[-1], numbers[0] if len(numbers) > 1 else 0
        for callback, places in zip(called, (begins, ends), strict=True):
            for place in places:
                self._engine.hook(unicorn_const.UC_HOOK_CODE, callback, place, place, user=self._place)
        self._engine.flush_code()

    def cover(self, engine: Engine) -> None:
        """Count the edges that this engine's guest takes as well; `begin_covering` comes before each of its runs."""
        engine.hook(unicorn_const.UC_HOOK_BLOCK, self._called[0], *EVERYWHERE, user=self._place)
        engine.flush_code()

    def begin_covering(self) -> None:
        """A run of another engine begins."""
        self.run.previous = 0

    def blocks(self) -> list[tuple[int, int]]:
        """Address and size of each block that was ever begun."""
        return sorted((_canonical(one >> 16), one & 0xFFFF) for one in self._blocks if one)

    @property
    def counter(self) -> int:
        """Instructions of the last run, if something stopped it."""
        return self._engine.counter_place.value

    def changed_pages(self) -> list[int]:
        """Numbers of the pages that the guest has stored to in the last run."""
        return sorted(self._dirty[: self.run.dirty_count])

    def whole(self) -> bool:
        """Whether all of RAM but the pages that are known to have changed is what it was at the beginning.

        The page tables that a guest is given are left out: the engine marks an entry when it first goes by it.
        """
        ram, clean = memoryview(self._engine.ram.bytes), memoryview(self._clean)
        known = {*self.changed_pages(), *self._tables, *GIVEN_TABLES}
        if self.run.area_size:
            known |= {self.run.area >> 12, self.run.area + self.run.area_size - 1 >> 12}
        at = 0
        for page in (*sorted(known), len(ram) // abi.PAGE_SIZE):
            end = page * abi.PAGE_SIZE
            if ram[at:end] != clean[at:end]:
                return False
            at = end + abi.PAGE_SIZE
        return True


def _canonical(address: int) -> int:
    """An address of which 48 bits are known: the others are as the last of these."""
    return address | 0xFFFF << 48 if address >> 47 else address


def _place(array: Any) -> int:
    return ctypes.addressof(array)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
