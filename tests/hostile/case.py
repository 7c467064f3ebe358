"""One run of a hostile guest, drawn from its number: configuration, programs, tables, memory."""

import random
from typing import Any, NamedTuple

from emu import abi, clock, state
from emu.boot.entry import LONG, PROTECTED, REAL, Entry, Rights
from emu.boot.image import Image, Piece
from emu.machine import Machine
from emu.scenario import FEATURES, HOST_MODELS, PROFILES, STEAL_STORES, Config
from emu.state import CpuState, Table
from emu.trace import Event
from tests.hostile import program
from tests.vcpu.board import gate32, gate64

BITS = {LONG: 64, PROTECTED: 32, REAL: 16}
IDT, DIRECTORY = 0x90000, 0x7F000
IST_TOP = 0xA0000
MICROSECOND = clock.UNITS["us"]


class Case(NamedTuple):
    """What is run: `image` on `config`; RAM and vCPUs are then made worse by `spoil`."""

    number: int
    config: Config
    image: Image
    starts: tuple[int, ...]
    operations: int

    @property
    def bits(self) -> int:
        return BITS[self.image.entry.mode]


def draw(number: int) -> Case:
    """Case `number`, always the same."""
    rng = random.Random(f"hostile {number}")
    mode = rng.choice((LONG, LONG, LONG, PROTECTED, PROTECTED, REAL))
    config = _config(rng, number)
    bits = BITS[mode]
    at = abi.REAL_MODE_GPA if bits == 16 else abi.GUEST_GPA
    code, _ = program.handlers(bits)
    starts, operations = [], 0
    tables = abi.PAGE_TABLES_GPA if bits == 64 else 0
    for _ in range(config.vcpus):
        count = rng.randrange(20, 200 if bits != 16 else 60)
        starts.append(at + len(code))
        wild = rng.random() < 0.35
        code += program.Writer(rng, bits, at + len(code), wild, config.ram, tables).program(count)
        operations += count
    size = -(-len(code) // abi.PAGE_SIZE) * abi.PAGE_SIZE
    rights = (Rights(at, size, True, True),) if bits == 64 else ()
    image = Image(Entry(mode, starts[0]), (Piece(at, code, len(code)),), rights, code, f"case {number}")
    return Case(number, config, image, tuple(starts), operations)


def _config(rng: random.Random, number: int) -> Config:
    vcpus = rng.choice((1, 1, 2, 3, 5))
    pcpus = rng.choice((1, 1, 2, 3))
    tasks = rng.sample(
        ("busy", "busy:weight=3", "periodic:period=50us,run=13us", "bursty:on=20us,off=30us"), rng.randrange(3)
    )
    policy = rng.choice(("round-robin", "fair", "random", "script"))
    script = None
    if policy == "script":
        who = [f"vcpu{n}" for n in range(vcpus)] + [f"task{n}" for n in range(len(tasks))]
        lines = [
            f"{n % pcpus} {name} {rng.randrange(1, 400)}{'insns' if name.startswith('vcpu') else 'ns'}"
            for n, name in enumerate(who)
        ]
        script = "script", "\n".join([*lines, *(["loop"] if rng.random() < 0.7 else [])])
    swap = ()
    if rng.random() < 0.3:
        page = rng.choice((program.AREAS, program.DATA, abi.GUEST_GPA, IDT, abi.PAGE_TABLES_GPA, abi.TSS_GPA))
        swap = (f"{page:#x}:at={rng.randrange(20)}us,in={rng.randrange(1, 30)}us,every={rng.randrange(20, 90)}us",)
    return Config(
        vcpus=vcpus,
        pcpus=pcpus,
        tasks=tuple(tasks),
        policy=policy,
        script=script,
        quantum_ps=rng.choice((1, 10, 40)) * MICROSECOND,
        seed=number,
        pin=("0=0",) if rng.random() < 0.1 else (),
        ram=abi.MIN_RAM,
        host_model=rng.choice(HOST_MODELS),
        store_gap=rng.choice(((), (0,), (1, 0, 7))),
        steal_store=rng.choice(STEAL_STORES),
        abi=rng.choice(PROFILES),
        without=tuple(rng.sample(FEATURES, rng.choice((0, 0, 1, 3)))),
        lax_cpuid=rng.random() < 0.3,
        start=rng.choice(("all", "all", "bsp")),
        swap=swap,
        ps_per_insn=rng.choice((1000, 1000, 333)),
        tsc_khz=rng.choice((1_000_000, 2_345_678)),
        interleave_ps=rng.choice((1, 5)) * MICROSECOND,
        time_limit_ps=2000 * MICROSECOND,
        insn_limit=60_000,
        exit_limit=1500,
        output_limit=2048,
    )


def spoil(case: Case, machine: Machine) -> None:
    """Random bytes wherever the program does not need better ones; interrupt tables; each vCPU at its own program."""
    rng = random.Random(f"memory {case.number}")
    ram, bits = machine.ram, case.bits
    _, offsets = program.handlers(bits)
    code = case.image.pieces[0]
    end = code.gpa + code.size
    if bits == 16:
        _junk(ram, rng, 0x400, 0x7000)
        _junk(ram, rng, end, ram.size - end)
        ram.write(0, b"".join((code.gpa + offsets[vector]).to_bytes(4, "little") for vector in range(256)))
    else:
        _junk(ram, rng, end + 0x1000, ram.size - end - 0x1000)
        _junk(ram, rng, 0xA0000, abi.GUEST_GPA - 0xA0000)
        ist = rng.randrange(2)
        gates = [
            gate64(code.gpa + offset, ist=ist) if bits == 64 else gate32(code.gpa + offset)
            for offset in offsets.values()
        ]
        ram.write(IDT, b"".join(gates))
        for number in range(case.config.vcpus):
            ram.store(abi.TSS_GPA + number * abi.TSS_STRIDE + abi.TSS_IST1, 8, IST_TOP - 0x400 * number)
    if bits == 64:
        _map_window(ram)
    for number, package in enumerate(machine.packages):
        package.vcpu.load(_start(rng, case, package.vcpu.state(), case.starts[number]))


def _start(rng: random.Random, case: Case, now: CpuState, rip: int) -> CpuState:
    general = [rng.getrandbits(64) for _ in state.GENERAL]
    sp = state.GENERAL.index("rsp")
    general[sp] = now.general[sp]
    size = {64: 16, 32: 8, 16: 4}[case.bits]
    limit = rng.choice((256 * size - 1,) * 8 + (14 * size - 1, 0, 0xFFFF))
    table = Table(limit, 0 if case.bits == 16 else IDT)
    return now._replace(general=tuple(general), rip=rip, idtr=table)


def _map_window(ram: Any) -> None:
    """The gigabyte with the APIC's window, in the tables that the machine has laid out; and user rights everywhere."""
    pointers = abi.PAGE_TABLES_GPA + abi.PAGE_SIZE
    ram.store(pointers + 8 * (program.APIC >> 30), 8, DIRECTORY | 7)
    ram.write(DIRECTORY, bytes(abi.PAGE_SIZE))
    ram.store(DIRECTORY + 8 * (program.APIC >> 21 & 511), 8, program.APIC | 0x83)


def _junk(ram: Any, rng: random.Random, at: int, size: int) -> None:
    block = rng.randbytes(0x10000)
    for start in range(at, at + size, len(block)):
        ram.write(start, block[: min(len(block), at + size - start)])


def machine_of(case: Case, sink: Any) -> Machine:
    """The machine, spoilt and ready to run; events go to `sink`."""
    machine = Machine(case.image, case.config, trace=sink)
    spoil(case, machine)
    return machine


Sink = list[Event]
