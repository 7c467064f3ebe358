"""Long runs, counted by blocks instead of one instruction at a time: the same count, several times as fast.

The engine's own count= calls a function before each instruction. Here one is called before each block, which is known
to have so many (native/counting.c). A block that would go beyond the budget is not begun; what is left of the budget
is then counted one by one in that block alone. Where the guest exits in mid-block, the instructions before that place
are found by reading the block.

Only the cost depends on which way is taken, never what is retired: runs that are short, or that somebody listens to,
are counted one by one, and so is what is rare. A hook is in translated code or not; so both are there all the time,
each for a range of addresses, and to change over is to set the ranges and to forget all translated code. They are never
taken away: the engine would look all their addresses up, in whatever address space it is just then.

In Linux: perf's PERF_COUNT_HW_INSTRUCTIONS overflows some instructions late, so record-and-replay debuggers let it come
early and single-step from there.
"""

import ctypes
from typing import TYPE_CHECKING, Any

from unicorn import unicorn_const, x86_const
from unicorn.unicorn_const import UC_ERR_FETCH_PROT, UC_ERR_FETCH_UNMAPPED

from emu.vcpu import native
from emu.vcpu.calibration import PLANTED_RANGE, find_range
from emu.vcpu.exit_codes import NO_EXIT, SYSCALL, SYSENTER, UNASSIGNED_FETCH, EngineError
from emu.vcpu.paging import read_linear
from emu.vcpu.registers import uclib

if TYPE_CHECKING:
    from emu.vcpu.engine import Engine, Hidden

LONG = 20_000  # instructions a run must typically have before this pays
_TOO_SHORT = 3_000
_LONGEST = 1 << 30  # instructions of one run by blocks: below what MANY is in counting.c
_BLOCKS = 1 << 16  # as in counting.c
_WARM, _SPINS = 64, 4  # calls of one block
_MOST_KNOWN = 4096
_MOST_FORGOTTEN = 2  # times in one run that all translated code is forgotten
_REACH = 16  # bytes from an instruction on; the next one begins in them
_EVERYWHERE, _NOWHERE = (1, 0), (1 << 63, 1 << 63)  # ranges of a hook; no canonical address is the second

BY_OTHERS, BY_BLOCKS, IN_BLOCK, ONE_BY_ONE = range(4)
NOT, AT_BUDGET, AT_UNKNOWN, AT_AGAIN, AT_PORT = range(5)

_i32, _u32, _u64, _address = ctypes.c_int32, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
_NO_BLOCK = 0xFFFFFFFF


class Block(ctypes.Structure):
    """A block that the engine has made: `insns` instructions of `size` bytes."""

    _fields_ = (
        ("key", _u64),
        *((name, _i32) for name in ("insns", "cost")),
        *((name, _u32) for name in ("size", "calls")),
    )

    @property
    def address(self) -> int:
        """The linear address, of which the key is made."""
        return int(self.key) ^ int(self.size) << 48


class Counting(ctypes.Structure):
    """`struct counting` of native/counting.h, where each field is explained."""

    _fields_ = (
        *(("left", ctypes.c_int64), ("last", _u32), ("fresh", _u32)),
        *((name, _address) for name in ("late", "probe", "engine", "stop", "get", "on_in", "on_out", "blocks")),
        *((name, _u64) for name in ("count", "stepped", "steps", "again", "rcx")),
        *(("mode", _u32), ("stopped", _u32), ("number_of_rcx", _i32), ("number_of_msr", _i32)),
        *(("check", _u64), ("request", _i32), ("inlined", _u32), ("warm", _u32), ("next", _u32)),
    )


class Blocks:
    """Counts for `engine`, whose IN and OUT are heard of through here.

    `long` is how many instructions its runs must have had lately to be counted this way, `counts` whether they are.
    """

    def __init__(self, engine: "Engine", on_in: Any, on_out: Any) -> None:
        """`on_in` and `on_out` are the engine's own callbacks."""
        library = native.library()
        assert library is not None and library.emu_counting_size() == ctypes.sizeof(Counting)
        self.long = LONG
        self.counts = False
        self.lazy = False  # the engine has the flags in its own form, and says so
        self._engine = engine
        self._typical = 0
        self._table = (Block * _BLOCKS)()
        self._now = now = Counting()
        now.engine = engine.handle.value
        now.stop, now.get = (_callback(uclib, name).value for name in ("uc_emu_stop", "uc_reg_read"))
        now.on_in, now.on_out = (ctypes.cast(one, _address).value for one in (on_in, on_out))
        now.blocks = ctypes.addressof(self._table)
        now.late, now.probe = (_callback(library, name).value for name in ("emu_late", "emu_probe"))
        now.last = _NO_BLOCK
        now.number_of_rcx, now.number_of_msr = x86_const.UC_X86_REG_RCX, x86_const.UC_X86_REG_MSR
        self.stepped = _u64.from_buffer(now, Counting.stepped.offset)
        self.port_callbacks = [_callback(library, name) for name in ("emu_counted_in", "emu_counted_out")]
        self._callbacks = [_callback(library, name) for name in ("emu_begun", "emu_made", "emu_stepped")]
        self.user = ctypes.byref(now)
        self._hooks: list[ctypes.c_size_t] = []
        self._each_block: Any = None
        self._each_insn: Any = None
        self._known: dict[tuple[bytes, int], int | None] = {}

    def learn(self, spin: int) -> None:
        """Find out how blocks can be counted in place, by a run, in the host, of a jump to itself at `spin`."""
        self.count_in_place(1)
        self.begin()
        self._run(spin, _SPINS)
        self.end()
        self.count_in_place(_WARM if self._now.request else 0)

    def count_in_place(self, calls: int) -> None:
        """Count where a block begins, in the engine's own code, once it has called so many times: a power of two; 0 for
        never. Code that counts so already stays."""
        self._now.warm = (calls - 1) & 0xFFFFFFFF

    @property
    def in_place(self) -> int:
        """How many calls have been replaced so."""
        return int(self._now.inlined)

    # --- which way to count ------------------------------------------------------------------------------------------

    def wanted(self, insns: int) -> bool:
        """Whether a run of at most so many is to be counted by blocks."""
        if self.counts:
            return self._typical >= min(_TOO_SHORT, self.long)
        return insns >= self.long and self._typical >= self.long

    def expect_long_runs(self) -> None:
        """As long as nothing is known of them."""
        self._typical = LONG

    def ran(self, insns: int) -> None:
        """A run has retired so many."""
        self._typical += (insns - self._typical) // 2

    def attach(self) -> None:
        """From now on instructions are counted here, not by the engine's count=."""
        begun, made, stepped = self._callbacks
        add = self._engine.own_hook
        self._hooks = [
            add(unicorn_const.UC_HOOK_BLOCK, begun, *PLANTED_RANGE, user=self.user),
            add(unicorn_const.UC_HOOK_CODE, stepped, *PLANTED_RANGE, user=self.user),
            add(unicorn_const.UC_HOOK_EDGE_GENERATED, made, *_EVERYWHERE, user=self.user),
        ]
        self._each_block, self._each_insn = (find_range(number) for number in self._hooks[:2])
        self.counts = True
        self.end()

    def detach(self) -> None:
        """Somebody else counts from now on."""
        self.end()
        self._engine.remove_own(self._hooks)

    def begin(self) -> None:
        """From now on runs are counted by blocks."""
        if not self.counts:
            self.counts = True
            self._each_block[:], self._each_insn[:] = _EVERYWHERE, _NOWHERE
            self._forget()

    def end(self) -> None:
        """From now on they are counted one by one."""
        if self.counts:
            self.counts = self.lazy = False
            self._each_block[:], self._each_insn[:] = _NOWHERE, _EVERYWHERE
            self._forget()

    def _forget(self) -> None:
        """Forget all translated code, and what is known of it."""
        if self._now.count:
            ctypes.memset(self._table, 0, ctypes.sizeof(self._table))
            self._now.count = 0
        self._now.last = _NO_BLOCK
        self._engine.flush_code()

    def start(self, rip: int, insns: int) -> int:
        """Run for so many instructions, counted one by one; the engine's error."""
        now = self._now
        now.stepped, now.steps, now.stopped, now.mode = 0, insns, NOT, ONE_BY_ONE
        error = self._engine.start(rip)
        now.mode = BY_OTHERS
        return error

    # --- running -----------------------------------------------------------------------------------------------------

    def emulate(self, rip: int, insns: int, before: int) -> int:
        """Run for `insns` of the guest's instructions after `before` that are not; how many were retired.

        What stopped it stands in the engine's `exit_code`, `port`, `counter` and `fetching`, as after a counted run.
        """
        engine, now = self._engine, self._now
        count, done, forgotten = insns + before, 0, 0
        while done < count:
            error, begun = self._run(rip, count - done)
            done += begun
            if now.stopped == AT_PORT:
                return self._use_port(insns, count, done, before)
            if error or engine.exit_code != NO_EXIT:
                return self._exited(error, done) - before
            rip = engine.read_rip()
            again = now.stopped == AT_AGAIN and self._given_up()
            if again:
                done -= self._last().insns - self._place()
            elif now.stopped == AT_BUDGET and done < count < done + self._table[now.next].insns:
                now.last = now.next
                block = self._last()
                error, begun = self._step(rip, block.address, block.size, count - done)
                if engine.port is not None:
                    return done + engine.counter - before
                if error or engine.exit_code != NO_EXIT:
                    return self._exited_step(error, done + begun, begun) - before
                rip = engine.read_rip()
                again = now.stopped == AT_AGAIN and self._given_up()
                done += begun - 1 if again else begun
            if now.stopped == NOT:
                raise EngineError(f"the engine retired {done} of {count} instructions and gave no reason")
            if now.stopped == AT_UNKNOWN:
                self._forget()
                forgotten += 1
            if again or forgotten > _MOST_FORGOTTEN:
                return self._one_by_one(rip, insns, count - done, before - done)
        return insns

    def _run(self, rip: int, insns: int) -> tuple[int, int]:
        """At most so many by blocks: the engine's error, and how many were begun, whole blocks."""
        now = self._now
        now.left = budget = min(insns, _LONGEST)
        now.last = _NO_BLOCK
        now.stopped = NOT
        now.mode = BY_BLOCKS
        self.lazy = True
        error = self._engine.start(rip)
        now.mode = BY_OTHERS
        begun = budget - int(now.left)
        now.left = 0
        return error, begun

    def _step(self, rip: int, linear: int, size: int, insns: int) -> tuple[int, int]:
        """So many one by one, of code that stands in these bytes: the engine's error, and how many were begun."""
        engine, now = self._engine, self._now
        self._each_insn[:] = linear, linear + size - 1
        engine.uc.ctl_remove_cache(linear, linear + size)
        now.left = now.stepped = now.fresh = 0
        now.steps, now.stopped, now.mode = insns, NOT, IN_BLOCK
        self.lazy = False
        error = engine.start(rip)
        now.mode = BY_OTHERS
        self._each_insn[:] = _NOWHERE
        engine.uc.ctl_remove_cache(linear, linear + size)
        return error, min(int(now.stepped), insns)

    def _one_by_one(self, rip: int, insns: int, count: int, before: int) -> int:
        """The rest, counted one by one."""
        self.end()
        return self._engine.one_by_one.emulate(rip, insns, count, before) if count else insns

    def _use_port(self, insns: int, count: int, done: int, before: int) -> int:
        """An instruction that uses a port was given up, in the last of `done` instructions begun: do it by itself."""
        engine, now = self._engine, self._now
        engine.exit_code = NO_EXIT
        engine.write_register("RCX", now.rcx)
        rip, linear = engine.read_rip(), self._linear()[0]
        done += self._place() - self._last().insns
        error, begun = self._step(rip, linear, _REACH, 1)
        if engine.port is not None:
            return done + engine.counter - before
        if error or engine.exit_code != NO_EXIT:
            return self._exited_step(error, done + begun, begun) - before
        if begun and not (now.stopped == AT_AGAIN and self._given_up()):
            done += 1
        return self._one_by_one(engine.read_rip(), insns, count - done, before - done)

    # --- what ended it -----------------------------------------------------------------------------------------------

    def _exited(self, error: int, begun: int) -> int:
        """How many instructions were retired of those begun, whole blocks; one too few where one was only fetched."""
        engine = self._engine
        if self._at_an_end(error):
            return begun
        place = self._in_block()
        engine.fetching = place is None
        if place is not None:
            begun += place + 1 - self._last().insns
        return begun - 1

    def _exited_step(self, error: int, done: int, begun: int) -> int:
        """The same where the last `begun` were begun one by one."""
        if self._at_an_end(error):
            return done
        self._engine.fetching = self._in_block() == begun
        return done - 1

    def _at_an_end(self, error: int) -> bool:
        engine = self._engine
        if error:
            if error not in (UC_ERR_FETCH_PROT, UC_ERR_FETCH_UNMAPPED):
                raise EngineError(f"the engine stopped with error {error} at {engine.read_rip():#x}")
            engine.exit_code = UNASSIGNED_FETCH
        return engine.exit_code in (UNASSIGNED_FETCH, SYSCALL, SYSENTER)

    def _given_up(self) -> bool:
        """Whether the block of one that was made anew is a part of the last one, whose store has hit it itself."""
        return bool(self._engine.uc.ctl_request_cache(self._now.again)[1] != 1)

    def _linear(self) -> tuple[int, "Hidden"]:
        hidden = self._engine.hidden()
        return self._engine.read_rip() + (0 if hidden.long else hidden.cs_base), hidden

    def _in_block(self) -> int | None:
        """How many instructions of the block begun last stand before RIP; None where RIP is not in it."""
        if self._now.last == _NO_BLOCK:
            return None
        block = self._last()
        linear, hidden = self._linear()
        offset = linear - block.address
        if not 0 <= offset < block.size:
            return None
        if not offset:
            return 0
        engine = self._engine
        start = block.address if hidden.long else block.address & 0xFFFFFFFF
        code = read_linear(engine.ram, engine.paging(hidden), start, offset)
        key = code, hidden.bits
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = _count(code, start, hidden.bits)
        found = self._known[key] if len(code) == offset else None
        if found is None:  # bytes that capstone reads differently
            found = block.insns - int(engine.uc.ctl_request_cache(linear)[1])
        if not 0 <= found < block.insns:
            raise EngineError(f"{linear:#x} is no instruction of the block at {block.address:#x}")
        return found

    def _last(self) -> Block:
        """The block begun last."""
        block: Block = self._table[self._now.last]
        return block

    def _place(self) -> int:
        place = self._in_block()
        if place is None:
            raise EngineError(f"the engine stopped at {self._engine.read_rip():#x}, outside the block it was in")
        return place


def _count(code: bytes, address: int, bits: int) -> int | None:
    """The instructions of `code`; None where it is not whole ones."""
    import capstone  # most runs need it never

    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    reader = capstone.Cs(capstone.CS_ARCH_X86, modes[bits])  # type: ignore[no-untyped-call]
    sizes = [one[1] for one in reader.disasm_lite(code, address)]  # type: ignore[no-untyped-call]
    return len(sizes) if sum(sizes) == len(code) else None


def _callback(library: Any, name: str) -> ctypes.c_void_p:
    return ctypes.cast(getattr(library, name), _address)
