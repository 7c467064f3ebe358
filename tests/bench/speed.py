"""Guest speed: the machine against raw Unicorn, and against Unicorn's own counted run, for several quanta.

All three run the same bytes in the same page tables on the same CPU model. *raw* is one uncounted `emu_start`, which
a HLT ends that is patched in behind the loop; *counted* is `emu_start(count=quantum)` over and over; *machine*
is `emu.Machine` with a host task that takes the pCPU away after every quantum.
"""

import time
from statistics import median

from unicorn import Uc, unicorn_const, x86_const

from emu import abi
from emu.boot.entry import initial_state, prepare
from emu.machine import Machine
from emu.ram import Ram
from emu.scenario import Config
from tests.bench.programs import ENTRY, PROGRAMS, image

QUANTA = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
ROUNDS = 5
_LOOPS_RAW = 3_000_000


def raw_engine(code: bytes) -> tuple[Uc, Ram]:
    """Unicorn by itself, in long mode with the page tables the machine would lay out."""
    import ctypes

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


def raw_rate(code: bytes) -> float:
    """Instructions per second without a count: `dec rcx; jmp` becomes `dec rcx; jnz`, and falls into a HLT."""
    finite = _finite(code)
    uc, ram = raw_engine(finite)
    per_loop = _insns_per_loop(code)
    uc.reg_write(x86_const.UC_X86_REG_RCX, 1000)
    uc.emu_start(ENTRY, 2**64 - 1)
    times = []
    for _ in range(3):
        uc.reg_write(x86_const.UC_X86_REG_RCX, _LOOPS_RAW)
        start = time.perf_counter()
        uc.emu_start(ENTRY, 2**64 - 1)
        times.append(time.perf_counter() - start)
    del ram
    return _LOOPS_RAW * per_loop / median(times)


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


def rows() -> list[tuple[str, int, float, float, float]]:
    """(program, quantum, MIPS raw, MIPS counted, MIPS machine), medians of rounds taken in turn."""
    found = []
    for name, code in PROGRAMS.items():
        raw = median(raw_rate(code) for _ in range(3))
        for quantum in QUANTA:
            insns = min(max(quantum, 3_000_000), 2000 * quantum)
            pairs = [(counted_rate(code, quantum, insns), machine_rate(code, quantum, insns)) for _ in range(ROUNDS)]
            counted, machine = (median(pair[side] for pair in pairs) for side in (0, 1))
            found.append((name, quantum, raw / 1e6, counted / 1e6, machine / 1e6))
    return found
