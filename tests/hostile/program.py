"""Random guest programs, as bytes: everything that reaches the host, with junk in every operand.

An operation is a few instructions. Before each one a register is set to the address of the next, where the handlers
go on, so that a program survives most of what it does to itself. Encodings: AMD64 Architecture Programmer's Manual,
volume 3.
"""

import random
from collections.abc import Callable

from emu import abi

RESUME = {64: 15, 32: 5, 16: 5}  # the register that holds the next operation's address: R15, EBP, BP
RAX, RCX, RDX, RBX, RSP, RSI, RDI = 0, 1, 2, 3, 4, 6, 7
AREAS = 0x180000  # two pages of areas for the paravirtual MSRs
DATA, DATA_SIZE = 0x200000, 0x80000
REAL_AREAS, REAL_DATA, REAL_DATA_SIZE = 0x3000, 0x4000, 0x3000
APIC = abi.APIC_DEFAULT_PHYS_BASE
EDGES = (0, 1, 2, 3, 0x3F, 0xFF, 0x100, 0x7FFFFFFF, 0x80000000, 2**32 - 1, 2**32, 2**47, 2**52, 2**63, 2**64 - 1)
MSRS = tuple(value for name, value in vars(abi).items() if name.startswith("MSR_"))
PORTS = (abi.PORT_CONSOLE, abi.PORT_UART, abi.PORT_UART + 1, abi.PORT_UART + 3, abi.PORT_UART_LSR, abi.PORT_MARK)
# Bytes that begin something interesting, so that random code gets further than its first #UD.
TELLING = bytes.fromhex(
    "0f01 0f22 0f20 0f30 0f32 0fa2 0f00 0f06 0f23 cc cd f4 e4 e6 ec ee 6c 6e f3 f2 66 67 9d 9c cf c8 8e 0fae 0fc7 ea 9a"
)


class Writer:
    """Writes one program of `bits` at `at`, every choice from `rng`. `wild` programs do what cannot be survived."""

    def __init__(self, rng: random.Random, bits: int, at: int, wild: bool, ram: int, tables: int) -> None:
        self.rng = rng
        self.bits = bits
        self.at = at
        self.wild = wild
        self.ram = ram
        self.tables = tables  # where page tables stand, to be spoilt; 0 where there are none
        self.x2apic = bits == 16 or rng.random() < 0.6
        self.code = bytearray()
        self.areas = REAL_AREAS if bits == 16 else AREAS
        self.data, self.data_size = (REAL_DATA, REAL_DATA_SIZE) if bits == 16 else (DATA, DATA_SIZE)

    # --- operands ----------------------------------------------------------------------------------------------------

    def value(self) -> int:
        rng = self.rng
        return rng.choice((rng.choice(EDGES), rng.getrandbits(64), rng.getrandbits(32), self.area() | rng.randrange(8)))

    def area(self) -> int:
        return self.areas + self.rng.choice((0, 64, 128, 0xFC0, 0xFF8, 0x1000)) + self.rng.choice((0, 0, 0, 1, 4, 8))

    def address(self) -> int:
        """Mostly data; sometimes the program itself, the APIC's window, the edges of RAM, or anywhere."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.55:
            return self.data + rng.randrange(self.data_size)
        if kind < 0.65:
            return self.area()
        if kind < 0.75 and self.bits != 16:
            return APIC + rng.choice((16 * rng.randrange(64), rng.randrange(0x1000)))
        if kind < 0.8:
            return self.at + rng.randrange(max(1, len(self.code)))
        if kind < 0.9:
            return (self.ram + rng.randrange(-16, 16)) & 0xFFFFFFFF
        return rng.choice((rng.getrandbits(64), rng.getrandbits(32), rng.choice(EDGES)))

    def msr(self) -> int:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.6:
            return rng.choice(MSRS)
        if kind < 0.85:
            return abi.X2APIC_MSR + rng.randrange(0x40)
        return rng.choice((rng.getrandbits(32), 0x4B564D00 + rng.randrange(16), 0xC0000080 + rng.randrange(8)))

    # --- encoding ----------------------------------------------------------------------------------------------------

    def emit(self, *parts: bytes | str) -> None:
        for part in parts:
            self.code += bytes.fromhex(part) if isinstance(part, str) else part

    def move(self, register: int, value: int) -> None:
        """MOV of an immediate, as wide as the mode's registers can be."""
        if self.bits == 64:
            self.emit(bytes((0x48 | register >> 3, 0xB8 | register & 7)), (value & 2**64 - 1).to_bytes(8, "little"))
        else:
            prefix = b"\x66" if self.bits == 16 else b""
            self.emit(prefix, bytes((0xB8 | register,)), (value & 2**32 - 1).to_bytes(4, "little"))

    def width(self) -> bytes:
        """An operand size of 16 or 32 bits."""
        return self.rng.choice((b"", b"\x66"))

    def at_rdi(self) -> bytes:
        """The ModRM byte of [RDI], or of [DI]; the reg field is to be added."""
        return bytes((5 if self.bits == 16 else 7,))

    def modrm(self, field: int) -> bytes:
        return bytes((self.at_rdi()[0] | field << 3,))

    # --- operations --------------------------------------------------------------------------------------------------

    def wrmsr(self) -> None:
        msr, value = self.msr(), self.value()
        if not self.wild and msr in (abi.MSR_EFER, abi.APIC_ICR) and self.rng.random() < 0.9:
            value &= 0x901  # SCE, LME, NXE; of the ICR no start-up and no INIT
        self.move(RCX, msr)
        self.move(RAX, value & 0xFFFFFFFF)
        self.move(RDX, value >> 32)
        self.emit("0f30")

    def rdmsr(self) -> None:
        self.move(RCX, self.msr())
        self.emit("0f32")

    def cpuid(self) -> None:
        leaf = self.rng.choice((0, 1, 7, 0xD, 0x40000000, 0x40000001, 0x80000000, 0x80000008, self.value()))
        self.move(RAX, leaf)
        self.move(RCX, self.value())
        self.emit("0fa2")

    def hlt(self) -> None:
        """With a timer armed, mostly: else the run soon ends."""
        if not self.wild or self.rng.random() < 0.9:
            mode = self.rng.choice((abi.APIC_LVT_TIMER_ONESHOT, abi.APIC_LVT_TIMER_PERIODIC))
            self.apic(abi.APIC_TASKPRI, 0)
            self.apic(abi.APIC_LVTT, mode | 0x40 + self.rng.randrange(64))
            self.apic(abi.APIC_TMICT, self.rng.randrange(1, 3000))
            self.emit("fb")
        else:
            self.emit(self.rng.choice(("fa", "fb", "90")))
        self.emit("f4")

    def apic(self, register: int, value: int) -> None:
        """A write to a register of the local APIC, in the way that its mode has."""
        if self.x2apic:
            self.move(RCX, register)
            self.move(RAX, value)
            self.move(RDX, 0)
            self.emit("0f30")
        else:
            self.move(RDI, APIC + abi.APIC_MMIO_STRIDE * (register - abi.X2APIC_MSR))
            self.emit("c7", self.modrm(0), value.to_bytes(4, "little"))

    def port_in(self) -> None:
        if self.rng.random() < 0.3:
            self.emit(self.width(), self.rng.choice(("e4", "e5")), bytes((self.port() & 0xFF,)))
        else:
            self.move(RDX, self.port())
            self.emit(self.width(), self.rng.choice(("ec", "ed")))

    def port_out(self) -> None:
        self.move(RAX, self.value())
        if self.rng.random() < 0.3:
            self.emit(self.width(), self.rng.choice(("e6", "e7")), bytes((self.port() & 0xFF,)))
        else:
            self.move(RDX, self.port())
            self.emit(self.width(), self.rng.choice(("ee", "ef")))

    def port(self) -> int:
        port = self.rng.choice((*PORTS, self.rng.randrange(0x10000), self.rng.randrange(0x100)))
        touches_exit = port & 0xFF in range(abi.PORT_EXIT - 3, abi.PORT_EXIT + 1)
        return 0x70 if touches_exit and not (self.wild and self.rng.random() < 0.05) else port

    def port_string(self) -> None:
        self.move(RDX, self.port())
        self.move(RDI, self.address())
        self.move(RSI, self.address())
        self.move(RCX, self.rng.choice((0, 1, 2, 7, 40, 40, 200, self.value() if self.wild else 3)))
        self.emit(self.rng.choice(("fc", "fd")))
        self.emit(self.rng.choice(("", "f3", "f3", "f2", "67", "f367")), self.width())
        self.emit(self.rng.choice(("6c", "6d", "6e", "6f")))

    def hypercall(self) -> None:
        self.move(RAX, self.rng.choice((1, 4, 5, 9, 10, 11, 12, 13, self.value())))
        for register in (RBX, RCX, RDX, RSI):
            self.move(register, self.rng.choice((0, 1, 2, 3, self.value())))
        self.emit(self.rng.choice(("0f01c1", "0f01d9")))

    def interrupt(self) -> None:
        self.emit(self.rng.choice(("cc", "ce", "f1", "cd" + bytes((self.rng.randrange(256),)).hex())))

    def control(self) -> None:
        """MOV to and from control registers; CR0, CR3 and CR4 get what a program may survive unless it is wild."""
        number = self.rng.choice((0, 0, 2, 3, 4, 8) if self.bits == 64 else (0, 0, 2, 3, 4))
        rex = b"\x44" if number == 8 else b""
        modrm = bytes((0xC0 | (number & 7) << 3,))
        if self.wild:
            value = self.value()
            if self.rng.random() < 0.5:
                value = self.rng.choice((0x80010031, 0x31, 0xE0000011, 0xA0, 0x630, 0x20, 0x10000, 0x80000011))
            if self.rng.random() < 0.7:
                self.move(RAX, value)
                self.emit(rex, "0f22", modrm)
                return
        self.emit(rex, "0f20", modrm)
        if self.rng.random() < 0.7 and number != 2:
            bit = self.rng.choice({0: (1, 2, 3, 16, 18, 29, 30), 4: (2, 3, 4, 7, 9, 10, 20)}.get(number, (3,)))
            self.emit(b"\x66" if self.bits == 16 else b"", "0fba", self.rng.choice(("e8", "f0", "f8")), bytes((bit,)))
            self.emit(rex, "0f22", modrm)

    def debug(self) -> None:
        self.move(RAX, self.value())
        self.emit(self.rng.choice(("0f21", "0f23")), bytes((0xC0 | self.rng.randrange(8) << 3,)))

    def task_and_machine_words(self) -> None:
        """CLTS, LMSW, SMSW, LTR, LLDT, STR, VERR and what reads tables, from registers and from memory."""
        self.move(RDI, self.address())
        self.move(RAX, self.rng.choice((0, 8, 0x10, 0x40, 0x48, self.value())))
        fields = (("00", 0), ("00", 1), ("00", 4), ("01", 0), ("01", 1), ("01", 4), ("06", 0), ("01", 6), ("01", 7))
        group, field = self.rng.choice((*fields, ("00", 2), ("00", 3)) if self.wild else fields)
        if group == "06":
            self.emit("0f06")
        elif self.rng.random() < 0.5 or (group == "01" and field in (0, 1, 7)):
            self.emit("0f", group, self.modrm(field))
        else:
            self.emit("0f", group, bytes((0xC0 | field << 3,)))

    def load_table(self) -> None:
        if not self.wild:
            return
        self.move(RDI, self.address())
        self.emit("0f01", self.modrm(self.rng.choice((2, 3))))

    def memory(self) -> None:
        """A load or store of some width; also read-modify-write and MOVS or STOS, with the APIC's window among them."""
        self.move(RDI, self.address())
        self.move(RAX, self.value())
        kind = self.rng.random()
        if kind < 0.7:
            opcode = self.rng.choice(("8a", "8b", "88", "89", "01", "87", "f0 0fb1", "0fc1"))
            rex = self.rng.choice((b"", b"\x48")) if self.bits == 64 and not opcode.startswith("f0") else b""
            self.emit(self.width(), rex, opcode, self.modrm(RAX))
        elif kind < 0.8:
            self.emit("ff", self.modrm(self.rng.choice((0, 1, 6))))
        else:
            self.move(RSI, self.address())
            self.move(RCX, self.rng.randrange(40))
            self.emit("fc", self.rng.choice(("f3", "f2", "")), self.rng.choice(("a4", "a5", "aa", "ab", "ac", "a6")))

    def stack(self) -> None:
        """A stack pointer that leads anywhere, and something that uses it."""
        if self.rng.random() < (0.6 if self.wild else 0.2):
            self.move(RSP, self.address())
        self.emit(self.rng.choice(("50", "58", "9c", "9d", "c9", "e8 00000000" if self.bits != 16 else "e8 0000")))

    def flags(self) -> None:
        flags = (
            self.rng.getrandbits(22) if self.rng.random() < 0.5 else self.rng.choice((0x102, 0x202, 2, 0x302, 0x3202))
        )
        if self.bits == 16:
            self.emit("68", (flags & 0xFFFF).to_bytes(2, "little"), "9d")
        else:
            self.emit("68", flags.to_bytes(4, "little"), "9d")

    def plain(self) -> None:
        """What stops or changes the CPU and takes no operand."""
        self.emit(
            self.rng.choice(
                ("fa", "fb", "fb f4", "f390", "0f31", "0f01f9", "0f33", "0f05", "0f34", "0f01c8", "0f01c9", "0f01d0",
                 "0f01d1", "0f01d8", "0f01dd", "0f08", "0f09", "0f0b", "9b", "dbe3", "0f01f8", "17", "8ed0", "8ed8",
                 "f0 0f22c0", "0fc7f0", "d9fe", "0faef0", "cf" if self.wild else "90")
            )
        )  # fmt: skip

    def spoil(self) -> None:
        """Over the program, over page tables, or over tables of the CPU."""
        rng = self.rng
        if self.tables and rng.random() < (0.7 if self.wild else 0.3):
            entry = rng.choice((0, rng.getrandbits(64), rng.getrandbits(64) & ~1, rng.getrandbits(40) | 7, 1 << 45 | 7))
            last = 0x4000 if self.wild else 0x100
            self.move(RDI, self.tables + 8 * rng.randrange(512 - last // 16 if self.wild else 500, 512))
            self.move(RAX, entry)
            self.emit(b"\x48" if self.bits == 64 else b"", "89", self.modrm(RAX))
            if rng.random() < 0.5:
                self.emit("0f20d8 0f22d8")
            return
        self.move(RDI, self.at + rng.randrange(max(1, len(self.code))))
        self.emit("c6", self.modrm(0), bytes((rng.choice((rng.randrange(256), 0x90, 0xF4, 0xCC)),)))

    def jump(self) -> None:
        if not self.wild:
            return
        self.move(RAX, self.address())
        self.emit(self.rng.choice(("ffe0", "ffd0", "50 c3")))

    def noise(self) -> None:
        count = self.rng.randrange(1, 24 if self.wild else 5)
        self.emit(bytes(self.rng.choice(TELLING) if self.rng.random() < 0.4 else self.rng.randrange(256)
                        for _ in range(count)))  # fmt: skip

    def registers(self) -> None:
        for register in (RAX, RCX, RDX, RBX, RSI, RDI):
            self.move(register, self.rng.choice((self.value(), self.address())))

    # --- the whole ---------------------------------------------------------------------------------------------------

    def program(self, operations: int) -> bytes:
        """`operations` of them, and back to the first; before them the APIC is switched on."""
        if self.x2apic:
            self.move(RCX, abi.MSR_IA32_APICBASE)
            self.move(RAX, APIC | abi.APICBASE_ENABLE | abi.APICBASE_X2APIC | abi.APICBASE_BSP)
            self.move(RDX, 0)
            self.emit("0f30")
        self.apic(abi.APIC_SPIV, abi.APIC_SPIV_ENABLED | 0xFF)
        first = len(self.code)
        kinds: tuple[tuple[Callable[[], None], int], ...] = (
            *((self.wrmsr, 22), (self.rdmsr, 14), (self.cpuid, 8), (self.hlt, 3), (self.port_in, 8)),
            *((self.port_out, 8), (self.port_string, 4), (self.hypercall, 6), (self.interrupt, 3), (self.control, 3)),
            *((self.debug, 2), (self.task_and_machine_words, 3), (self.memory, 7), (self.stack, 2), (self.flags, 1)),
            *((self.plain, 4), (self.spoil, 1), (self.noise, 1), (self.registers, 1), (self.jump, 1)),
            (self.load_table, 1),
        )
        chosen = self.rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds], k=operations)
        for kind in chosen:
            start = len(self.code)
            self._resume_at(0)
            kind()
            self._resume_at(self.at + len(self.code), start)
        distance = first - len(self.code)
        if self.bits == 16:
            self.emit("e9", (distance - 3 & 0xFFFF).to_bytes(2, "little"))
        else:
            self.emit("e9", (distance - 5 & 0xFFFFFFFF).to_bytes(4, "little"))
        return bytes(self.code)

    def _resume_at(self, address: int, place: int | None = None) -> None:
        """MOV of `address` into the register that handlers go by; at `place`, over the one that is there."""
        if self.bits == 16:
            code = b"\xbd" + (address & 0xFFFF).to_bytes(2, "little")
        elif self.bits == 32:
            code = b"\xbd" + address.to_bytes(4, "little")
        else:
            code = b"\x41\xbf" + address.to_bytes(4, "little")
        if place is None:
            self.emit(code)
        else:
            self.code[place : place + len(code)] = code


# Handlers by kind: they go on at the next operation, with the interrupted one's frame or with a fresh stack.
_GO_ON = {64: "4c893c24 48cf", 32: "892c24 cf", 16: "bc0070 9c 0e 55 cf"}
_DROP = {64: "4883c408", 32: "83c404", 16: ""}
_STEP = {64: "81642410fffeffff 48cf", 32: "81642408fffeffff cf", 16: _GO_ON[16]}
_ERRORS = frozenset((8, 10, 11, 12, 13, 14, 17))
_END_OF_INTERRUPT = {
    64: "50 51 52 b90b080000 31c0 31d2 0f30 5a 59 58 48cf",
    32: "50 51 52 b90b080000 31c0 31d2 0f30 5a 59 58 cf",
    16: "6650 6651 6652 66b90b080000 6631c0 6631d2 0f30 665a 6659 6658 cf",
}
GAP = 0x20


def handlers(bits: int) -> tuple[bytes, dict[int, int]]:
    """Code of GAP bytes each, and for each vector the offset of its handler."""
    codes = (_GO_ON[bits], _DROP[bits] + _GO_ON[bits], _STEP[bits], _END_OF_INTERRUPT[bits])
    code = b"".join(bytes.fromhex(text).ljust(GAP, b"\xf4") for text in codes)
    kinds = {vector: 1 if vector in _ERRORS else 2 if vector == 1 else 0 if vector < 32 else 3 for vector in range(256)}
    return code, {vector: GAP * kind for vector, kind in kinds.items()}
