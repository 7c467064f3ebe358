"""A board for vCPU tests: guests in five flavours with tables and handlers, and what answers their exits.

Not the machine: no host, no devices, no time but the count of retired units. What an exit is answered with depends on
that count alone, so that two runs that differ anywhere in their counts differ visibly.
"""

import struct
from typing import Any, NamedTuple

from emu import abi, exits, state
from emu.boot.entry import LONG, PROTECTED, REAL, Entry, initial_state
from emu.faults import GuestFault
from emu.ram import Ram
from emu.state import CpuState, Segment, Table
from emu.vcpu import delivery
from emu.vcpu.cpu_msrs import CpuMsrs
from emu.vcpu.engine import Engine
from emu.vcpu.vcpu import Vcpu
from tests.assemble import assemble

SPAN = 0x400000  # what one guest sees: its own addresses 0 to SPAN

GDT, TSS, IDT, HANDLERS, TABLES = 0x1000, 0x2000, 0x5000, 0x7000, 0x90000
CODE, VARS, DATA, DATA_END, READ_ONLY = 0x100000, 0x1F0000, 0x200000, 0x208000, 0x20A000
ALIAS = 0x600000  # the first page of CODE once more
STACK, STACK_USER, STACK_IST = 0x240000, 0x250000, 0x248000
REAL_CODE, REAL_HANDLERS, REAL_VARS, REAL_DATA, REAL_DATA_END, REAL_STACK = 0x1000, 0x500, 0x800, 0xA000, 0xD000, 0xF000
OPEN_PORTS = (0xE9, 0x3F8)  # what the I/O bitmap lets user code use
BITMAP = 0x68
STRANGE_MSR = 0x1234567


class Flavour(NamedTuple):
    """A mode of the guest. `paging`: 4 levels, 2 or none."""

    name: str
    mode: str
    bits: int
    cpl: int
    paging: int

    @property
    def real(self) -> bool:
        return self.mode == REAL

    @property
    def code(self) -> int:
        return REAL_CODE if self.real else CODE

    @property
    def data(self) -> tuple[int, int]:
        return (REAL_DATA, REAL_DATA_END) if self.real else (DATA, DATA_END)

    @property
    def vars(self) -> int:
        return REAL_VARS if self.real else VARS


LONG0 = Flavour("long", LONG, 64, 0, 4)
LONG3 = Flavour("long-user", LONG, 64, 3, 4)
PM32 = Flavour("pm32", PROTECTED, 32, 0, 0)
PM32_PAGED = Flavour("pm32-paged", PROTECTED, 32, 0, 2)
REAL16 = Flavour("real", REAL, 16, 0, 0)
FLAVOURS = (LONG0, LONG3, PM32, PM32_PAGED, REAL16)

_ERRORS = frozenset((8, 10, 11, 12, 13, 14, 17))
_TRAPS = frozenset((1, 2, 3, 4, *range(32, 256)))


def variables(flavour: Flavour) -> dict[str, int]:
    """Addresses that programs and handlers agree on: REC (where a fault goes on), TRAPS (what was counted)."""
    return {"REC": flavour.vars, "TRAPS": flavour.vars + 16}


def handlers(flavour: Flavour) -> tuple[bytes, dict[int, int]]:
    """Code at the handlers' place, and where each vector's handler starts."""
    rec, traps = flavour.vars, flavour.vars + 16
    if flavour.bits == 64:
        plain = f"push rax; add qword ptr [{traps}], 1; mov rax, [{rec}]; mov [rsp+8], rax; pop rax; iretq"
        error = (
            f"push rax; mov rax, [rsp+8]; xor [{traps + 8}], rax; mov rax, [{rec}]; mov [rsp+16], rax; pop rax;"
            " add rsp, 8; iretq"
        )
        trap = f"add qword ptr [{traps + 16}], 1; iretq"
    elif flavour.bits == 32:
        plain = f"push eax; add dword ptr [{traps}], 1; mov eax, [{rec}]; mov [esp+4], eax; pop eax; iretd"
        error = (
            f"push eax; mov eax, [esp+4]; xor [{traps + 8}], eax; mov eax, [{rec}]; mov [esp+8], eax; pop eax;"
            " add esp, 4; iretd"
        )
        trap = f"add dword ptr [{traps + 16}], 1; iretd"
    else:
        plain = (
            f"push ax; push bp; mov bp, sp; add word ptr [{traps}], 1; mov ax, [{rec}]; mov [bp+4], ax; pop bp;"
            " pop ax; iret"
        )
        error, trap = plain, f"add word ptr [{traps + 16}], 1; iret"
    gap = 0x80
    source = f"plain: {plain}\n.org {gap}\nerror: {error}\n.org {2 * gap}\ntrap: {trap}\n"
    at = REAL_HANDLERS if flavour.real else HANDLERS
    code = assemble(source.replace("[", "ds:[") if flavour.bits == 16 else source, at, flavour.bits)
    place = {n: at + (2 * gap if n in _TRAPS else gap if n in _ERRORS else 0) for n in range(256)}
    return code, place


def descriptor(base: int, limit: int, access: int, flags: int = 0) -> int:
    """A segment descriptor of 8 bytes: `access` is its byte 5, `flags` the upper half of byte 6."""
    return (
        limit & 0xFFFF
        | (base & 0xFFFFFF) << 16
        | access << 40
        | (limit >> 16 & 15) << 48
        | flags << 52
        | base >> 24 << 56
    )


def gate64(offset: int, selector: int = abi.SELECTOR_CODE64, access: int = 0x8E, ist: int = 0) -> bytes:
    return struct.pack("<HHBBHII", offset & 0xFFFF, selector, ist, access, offset >> 16 & 0xFFFF, offset >> 32, 0)


def gate32(offset: int, selector: int = abi.SELECTOR_CODE32, access: int = 0x8E) -> bytes:
    return struct.pack("<HHBBH", offset & 0xFFFF, selector, 0, access, offset >> 16)


def lay_out(ram: Ram, flavour: Flavour, base: int = 0) -> None:
    """Tables and handlers of one guest whose addresses 0 to SPAN are RAM from `base` on."""
    code, place = handlers(flavour)
    if flavour.real:
        ram.write(0, b"".join(struct.pack("<HH", place[n], 0) for n in range(256)))
        ram.write(REAL_HANDLERS, code)
        return
    ram.write(base + HANDLERS, code)
    gdt = {
        abi.SELECTOR_CODE64: 0xAF9B000000FFFF,
        abi.SELECTOR_DATA: 0xCF93000000FFFF,
        abi.SELECTOR_USER_CODE32: 0xCFFB000000FFFF,
        abi.SELECTOR_USER_DATA: 0xCFF3000000FFFF,
        abi.SELECTOR_USER_CODE64: 0xAFFB000000FFFF,
        abi.SELECTOR_CODE32: 0xCF9B000000FFFF,
        abi.SELECTOR_TSS: descriptor(TSS, 0x2068, 0x8B),
    }
    for selector, value in gdt.items():
        ram.store(base + GDT + (selector & ~7), 8, value)
    long = flavour.bits == 64
    access = {3: 0xEE, 4: 0xEE, 0x80: 0xEE}
    gates = (
        (gate64 if long else gate32)(
            place[n], abi.SELECTOR_CODE64 if long else abi.SELECTOR_CODE32, access.get(n, 0x8E)
        )
        for n in range(256)
    )
    ram.write(base + IDT, b"".join(gates))
    if long:
        ram.store(base + TSS + abi.TSS_RSP0, 8, STACK)
        ram.store(base + TSS + abi.TSS_IST1, 8, STACK_IST)
    else:
        ram.write(base + TSS + 4, struct.pack("<II", STACK, abi.SELECTOR_DATA))
    ram.store(base + TSS + abi.TSS_IO_BITMAP, 2, BITMAP)
    bitmap = bytearray(b"\xff" * 0x2001)
    for port in OPEN_PORTS:
        bitmap[port // 8] &= ~(1 << port % 8)
    ram.write(base + TSS + BITMAP, bytes(bitmap))
    if flavour.paging == 4:
        _four_levels(ram, base)
    elif flavour.paging == 2:
        _two_levels(ram, base)


def pte(page: int, base: int = 0) -> int:
    """The rights of each page: code is executable, data is not, one page is read-only, one is missing."""
    if page == DATA_END:
        return 0
    entry = base + page | abi.PTE_PRESENT | abi.PTE_USER
    if page != READ_ONLY:
        entry |= abi.PTE_WRITABLE
    return entry if page < VARS else entry | abi.PTE_NX


def _four_levels(ram: Ram, base: int) -> None:
    table = abi.PTE_PRESENT | abi.PTE_WRITABLE | abi.PTE_USER
    top, pointers, directory, pages, alias = (base + TABLES + n * 0x1000 for n in (0, 1, 2, 3, 5))
    ram.store(top, 8, pointers | table)
    ram.store(pointers, 8, directory | table)
    ram.store(directory, 8, pages | table)
    ram.store(directory + 8, 8, pages + 0x1000 | table)
    ram.store(directory + 24, 8, alias | table)
    ram.write(pages, b"".join(struct.pack("<Q", pte(page, base)) for page in range(0, SPAN, 0x1000)))
    ram.store(alias, 8, base + CODE | table)


def _two_levels(ram: Ram, base: int) -> None:
    table = abi.PTE_PRESENT | abi.PTE_WRITABLE | abi.PTE_USER
    directory, pages, alias = (base + TABLES + n * 0x1000 for n in (0, 1, 2))
    ram.store(directory, 4, pages | table)
    ram.store(directory + 4, 4, alias | table)
    ram.write(pages, b"".join(struct.pack("<I", pte(page, base) & 0xFFFFFFFF) for page in range(0, SPAN, 0x1000)))
    ram.store(alias + 4 * ((ALIAS >> 12) & 1023), 4, base + CODE | table)


def start_state(ram: Ram, flavour: Flavour, number: int = 0, base: int = 0) -> CpuState:
    """The state before the first instruction of a program at the flavour's code address."""
    new = initial_state(ram, Entry(flavour.mode, flavour.code), number, 1 if number == 0 else number + 1)
    general = dict(zip(state.GENERAL, new.general, strict=True))
    general["rsp"] = REAL_STACK if flavour.real else STACK_USER
    new = new._replace(general=tuple(general.values()))
    if flavour.real:
        return new
    segments = dict(zip(state.SEGMENTS, new.segments, strict=True))
    segments["tr"] = Segment(abi.SELECTOR_TSS, state.BUSY_TSS, 0x2068, TSS)
    if flavour.cpl == 3:
        user = Segment(abi.SELECTOR_USER_DATA, 0xCF3, 0xFFFFFFFF, 0)
        segments |= dict.fromkeys(("ss", "ds", "es", "fs", "gs"), user)
        segments["cs"] = Segment(abi.SELECTOR_USER_CODE64, 0xAFB, 0xFFFFFFFF, 0)
    long = flavour.bits == 64
    new = new._replace(
        segments=tuple(segments.values()), gdtr=Table(0xFF, GDT), idtr=Table(256 * (16 if long else 8) - 1, IDT)
    )
    if flavour.paging:
        new = new._replace(cr3=base + TABLES, cr0=new.cr0 | abi.CR0_PG)
    return new


class Board:
    """One vCPU, its handlers, and a log of its exits with the count of units retired before each."""

    def __init__(self, engine: Engine, flavour: Flavour, code: bytes, number: int = 0, base: int = 0) -> None:
        self.ram = engine.ram
        self.flavour = flavour
        self.base = base
        lay_out(self.ram, flavour, base)
        self.ram.write(base + flavour.code, code)
        self.vcpu = Vcpu(engine, number, start_state(self.ram, flavour, number, base))
        self.msrs = CpuMsrs(self.vcpu)
        self.log: list[tuple[int, exits.Exit]] = []
        self.shutdown: exits.Shutdown | None = None

    def answer(self, exit_: Any) -> None:
        """Complete an exit, as a machine would."""
        vcpu, now = self.vcpu, self.vcpu.retired
        kind = type(exit_)
        if kind in (exits.BudgetSpent, exits.InterruptWindow):
            return
        self.log.append((now, exit_))
        if kind is exits.Cpuid:
            vcpu.complete_cpuid(exit_, (exit_.leaf, exit_.subleaf, now & 0xFFFFFFFF, 0x89ABCDEF))
        elif kind is exits.Rdmsr:
            self._rdmsr(exit_)
        elif kind is exits.Wrmsr:
            self._wrmsr(exit_)
        elif kind is exits.Rdtsc:
            vcpu.complete_rdtsc(exit_, now << 16, vcpu.number)
        elif kind is exits.PortIn:
            vcpu.complete_in(now * 0x01010101 & 0xFFFFFFFF)
        elif kind is exits.PortOut:
            vcpu.complete_out()
        elif kind in (exits.Hlt, exits.Pause, exits.TprWrite):
            vcpu.complete(exit_)
        elif kind is exits.Hypercall:
            vcpu.complete_hypercall(exit_, -now)
        elif kind is exits.TprRead:
            vcpu.complete_register(exit_, now & 15)
        elif kind is exits.SoftwareInterrupt:
            self.shutdown = delivery.deliver_software_interrupt(vcpu, exit_)
        elif kind is exits.Fault:
            self.shutdown = delivery.deliver_fault(vcpu, exit_.vector, exit_.error, exit_.address)
        else:
            raise AssertionError(exit_)

    def _rdmsr(self, exit_: exits.Rdmsr) -> None:
        try:
            value = self.msrs.rdmsr(exit_.msr) if exit_.msr in CpuMsrs.msrs else self._unknown(exit_.msr)
        except GuestFault as fault:
            self.shutdown = delivery.deliver_fault(self.vcpu, fault.vector, fault.error, fault.address)
        else:
            self.vcpu.complete_rdmsr(exit_, value)

    def _wrmsr(self, exit_: exits.Wrmsr) -> None:
        try:
            if exit_.msr in CpuMsrs.msrs:
                self.msrs.wrmsr(exit_.msr, exit_.value)
            else:
                self._unknown(exit_.msr)
        except GuestFault as fault:
            self.shutdown = delivery.deliver_fault(self.vcpu, fault.vector, fault.error, fault.address)
        else:
            self.vcpu.complete(exit_)

    def _unknown(self, msr: int) -> int:
        if msr == STRANGE_MSR:
            raise GuestFault(abi.GP_VECTOR, 0)
        return self.vcpu.retired

    def run(self, units: int) -> None:
        """Until `units` are retired in all, exits answered; unsliced."""
        while self.vcpu.retired < units and self.shutdown is None:
            self.answer(self.vcpu.enter(units - self.vcpu.retired))

    def until_exit(self, *kinds: type, units: int = 1000) -> Any:
        """Run, answering other exits, up to one of `kinds`, which is returned unanswered."""
        end = self.vcpu.retired + units
        while self.vcpu.retired < end and self.shutdown is None:
            exit_ = self.vcpu.enter(end - self.vcpu.retired)
            if type(exit_) in kinds:
                return exit_
            self.answer(exit_)
        raise AssertionError(f"no {kinds} within {units} units: {self.log[-5:]}, {self.shutdown}")
