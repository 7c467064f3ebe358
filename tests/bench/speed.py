"""Guest speed: the machine against raw Unicorn, and against Unicorn's own counted run, for several quanta.

All run the same bytes in the same page tables on the same CPU model. *raw* is one uncounted `emu_start`, which a HLT
ends that is patched in behind the loop; *hooked* is the same with a callback in C for each block that does nothing, the
least that counting by blocks can cost; *counted* is `emu_start(count=quantum)` over and over; *machine* is
`emu.Machine` with a host task that takes the pCPU away after every quantum.
"""

import ctypes
import time
from statistics import median
from typing import NamedTuple

from unicorn import Uc, unicorn_const, x86_const

from emu import abi
from emu.boot.entry import initial_state, prepare
from emu.machine import Machine
from emu.ram import Ram
from emu.scenario import Config
from emu.vcpu import native
from emu.vcpu.registers import uclib
from tests.bench.programs import ENTRY, PROGRAMS, image

QUANTA = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
ROUNDS = 5
LONG_QUANTUM = 1_000_000
BARS = {"tight": 0.45, "memory": 0.85, "branchy": 0.85}  # of raw, at that quantum


class Row(NamedTuple):
    """Millions of instructions a second; `hooked` is 0 where there are no callbacks in C."""

    program: str
    quantum: int
    raw: float
    hooked: float
    counted: float
    machine: float


_LOOPS_RAW = 3_000_000


def raw_engine(code: bytes) -> tuple[Uc, Ram]:
    """Unicorn by itself, in long mode with the page tables the machine would lay out."""
    program = image(code)
    ram = Ram(16 << 20)
    for piece in program.pieces:
        ram.write(piece.gpa, piece.data)
    prepare(ram, program.entry, program.rights, 1)
    state = initial_state(ram, program.entry, 0, 1)
    uc = Uc(unicorn_const.UC_ARCH_X86, unicorn_const.UC_MODE_64)
    uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_OPTERON_G5)
    uc.mem_map_ptr(0, ram.size, unicorn_const.UC_PROT_ALL, ctypes.addressof(ctypes.c_char.from_buffer(ram.bytes)))
    uc.msr_write(abi.MSR_EFER, uc.msr_read(abi.MSR_EFER) | abi.EFER_NXE)
    uc.reg_write(x86_const.UC_X86_REG_CR4, state.cr4)
    uc.reg_write(x86_const.UC_X86_REG_CR3, state.cr3)
    uc.reg_write(x86_const.UC_X86_REG_CR0, state.cr0)
    uc.reg_write(x86_const.UC_X86_REG_RSP, ram.size)
    return uc, ram


def _insns_per_loop(code: bytes) -> float:
    """Instructions per `dec rcx`, counted by the engine itself."""
    uc, ram = raw_engine(code)
    uc.emu_start(ENTRY, 2**64 - 1, count=100_000)
    loops = -uc.reg_read(x86_const.UC_X86_REG_RCX) % 2**64
    del ram  # the engine runs on it
    return 100_000 / loops


def raw_rates(code: bytes) -> tuple[float, float]:
    """Instructions per second without a count, and with a callback for each block that does nothing.

    `dec rcx; jmp` becomes `dec rcx; jnz`, and falls into a HLT. The two take turns.
    """
    finite = _finite(code)
    per_loop = _insns_per_loop(code)
    engines = [raw_engine(finite)]
    library = native.library()
    if library is not None:
        hooked = raw_engine(finite)
        nothing = ctypes.cast(library.emu_run_size, ctypes.c_void_p)
        uclib.uc_hook_add(
            *(hooked[0]._uch, ctypes.byref(ctypes.c_size_t()), unicorn_const.UC_HOOK_BLOCK, nothing, None),
            *(ctypes.c_uint64(1), ctypes.c_uint64(0)),
        )
        engines.append(hooked)
    times: list[list[float]] = [[], []]
    for loops in (1000, *[_LOOPS_RAW] * 5):
        for (uc, _), spent in zip(engines, times, strict=False):
            uc.reg_write(x86_const.UC_X86_REG_RCX, loops)
            start = time.perf_counter()
            uc.emu_start(ENTRY, 2**64 - 1)
            spent.append(time.perf_counter() - start)
    raw, hooked_rate = (_LOOPS_RAW * per_loop / median(spent[1:]) if spent else 0.0 for spent in times)
    return raw, hooked_rate


def _finite(code: bytes) -> bytes:
    at = code.index(b"\x48\xff\xc9\xeb") + 3
    after = code[at + 2 :]
    shift = 1 if after else 0
    # The bytes behind the jump move up by the HLT; the one call over them must reach as far.
    head = code[:at]
    if after:
        call = head.rindex(b"\xe8\x05\x00\x00\x00")
        head = head[:call] + bytes((0xE8, 5 + shift)) + head[call + 2 :]
    return head + b"\x75" + code[at + 1 : at + 2] + b"\xf4" + after


def counted_rate(code: bytes, quantum: int, insns: int) -> float:
    """Instructions per second of `emu_start(count=quantum)`, over and over."""
    uc, ram = raw_engine(code)
    uc.emu_start(ENTRY, 2**64 - 1, count=1000)
    rip = uc.reg_read(x86_const.UC_X86_REG_RIP)
    slices = max(1, insns // quantum)
    start = time.perf_counter()
    for _ in range(slices):
        uc.emu_start(rip, 2**64 - 1, count=quantum)
        rip = uc.reg_read(x86_const.UC_X86_REG_RIP)
    spent = time.perf_counter() - start
    del ram
    return slices * quantum / spent


def machine_rate(code: bytes, quantum: int, insns: int) -> float:
    """Instructions per second of the machine, preempted after each quantum."""
    insns = max(quantum, insns // quantum * quantum)
    config = Config(tasks=("busy",), quantum_ps=quantum * 1000, insn_limit=insns, time_limit_ps=10**15)
    machine = Machine(image(code), config)
    start = time.perf_counter()
    machine.run()
    return machine.instructions / (time.perf_counter() - start)


def rows() -> list[Row]:
    """Each program with each quantum, medians of rounds taken in turn."""
    found = []
    for name, code in PROGRAMS.items():
        for quantum in QUANTA:
            insns = min(max(5 * quantum, 3_000_000), 2000 * quantum)
            rounds = [
                (*raw_rates(code), counted_rate(code, quantum, insns), machine_rate(code, quantum, 10 * insns))
                for _ in range(ROUNDS)
            ]
            found.append(Row(name, quantum, *(median(one[side] for one in rounds) / 1e6 for side in range(4))))
    return found
