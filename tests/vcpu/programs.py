"""Random guest programs: everything that could make a run depend on where it was cut.

A program is a list of pieces, each a few instructions of assembly that leave the stack as it was. Where a piece may
fault, it first says where to go on (REC), and the handlers of `tests.vcpu.board` return there.
"""

import random
from collections.abc import Callable

from tests.vcpu.board import (
    ALIAS,
    CODE,
    OPEN_PORTS,
    READ_ONLY,
    STACK,
    STRANGE_MSR,
    Flavour,
    variables,
)

_SHIFTS = ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr")
_SMALL = ("eax", "ecx", "edx", "esi", "edi", "ebp", "ebx")
_WIDE = ("rax", "rcx", "rdx", "rsi", "rdi", "rbp", "rbx", "r8", "r9", "r10", "r11", "r12", "r13")
_MSRS = (0x4B564D03, STRANGE_MSR, 0x277, 0xC0000081, 0xC0000082, 0xC0000100, 0xC0000101, 0xC0000102, 0xC0000103)


class Writer:
    """Writes one program; every random choice comes from `rng`."""

    def __init__(self, rng: random.Random, flavour: Flavour, number: int) -> None:
        self.rng = rng
        self.flavour = flavour
        self.number = number
        self.labels = 0
        self.wide = flavour.bits == 64
        self.rec = variables(flavour)["REC"]

    def label(self) -> str:
        self.labels += 1
        return f"P{self.number}_{self.labels}"

    def reg(self) -> str:
        return self.rng.choice(_WIDE if self.wide else _SMALL)

    def imm(self) -> int:
        return self.rng.choice((0, 1, 2, 7, 31, 0x7F, 0x80, 0xFF, 0x7FFF, 0x12345, 0x7FFFFFFF))

    def address(self, size: int = 16) -> int:
        first, end = self.flavour.data
        return self.rng.randrange(first, end - size)

    def cell(self) -> str:
        return f"ds:[{self.address():#x}]"

    def ptr(self) -> str:
        return ("qword ptr " if self.wide else "dword ptr ") + self.cell()

    def pointer(self, register: str) -> str:
        return ("r" if self.wide else "e") + register

    # --- pieces ------------------------------------------------------------------------------------------------------

    def alu(self) -> str:
        op = self.rng.choice(("add", "sub", "xor", "and", "or", "adc", "sbb", "imul", "cmp", "test", "mov", "xchg"))
        lines = [f"{op} {self.reg()}, {self.reg()}"]
        lines.append(f"{self.rng.choice(_SHIFTS)} {self.reg()}, {self.rng.randrange(1, 31)}")
        lines.append(f"{self.rng.choice(('inc', 'dec', 'neg', 'not', 'mul', 'bswap'))} {self.reg()}")
        lines.append(
            self.rng.choice(
                (
                    f"add {self.reg()}, {self.imm()}",
                    f"mov {self.reg()}, {self.imm()}",
                    "stc",
                    "cmc",
                    "lahf",
                    "cdq",
                    "setc al",
                )
            )
        )
        self.rng.shuffle(lines)
        return "\n".join(lines[: self.rng.randrange(1, 5)])

    def memory(self) -> str:
        return self.rng.choice(
            (
                f"mov {self.ptr()}, {self.reg()}",
                f"mov {self.reg()}, {self.ptr()}",
                f"lock add {self.ptr()}, {self.reg()}",
                f"xchg {self.ptr()}, {self.reg()}",
                f"lock cmpxchg {self.ptr()}, {self.reg()}",
                f"push {self.pointer('ax')}\npop {self.reg()}",
                f"inc {self.ptr()}",
                f"mov byte ptr {self.cell()}, al",
            )
        )

    def loop(self) -> str:
        label = self.label()
        body = "\n".join(self.rng.choice((self.alu, self.memory))() for _ in range(self.rng.randrange(1, 3)))
        body = "\n".join(
            line for line in body.splitlines() if "cx" not in line and "bswap" not in line and " mul" not in line
        )
        counter = f"dword ptr ds:[{self.flavour.vars + 64:#x}]"
        return f"mov {counter}, {self.rng.randrange(1, 9)}\n{label}:\n{body}\ndec {counter}\njnz {label}"

    def loop_cx(self) -> str:
        label = self.label()
        return f"mov ecx, {self.rng.randrange(1, 9)}\n{label}: add eax, ecx\nloop {label}"

    def call(self) -> str:
        function, after = self.label(), self.label()
        return f"call {function}\njmp {after}\n{function}: {self.alu()}\nret\n{after}:"

    def branch(self) -> str:
        label = self.label()
        condition = self.rng.choice(("jc", "jz", "js", "jo", "jp", "jl", "ja"))
        return f"cmp {self.reg()}, {self.reg()}\n{condition} {label}\n{self.alu()}\n{label}:"

    def string(self) -> str:
        down, size = self.rng.random() < 0.3, self.rng.choice("bwd")
        op = self.rng.choice(
            ("rep movs", "rep stos", "rep lods", "repe cmps", "repne scas", "repe scas", "movs", "stos")
        )
        first, end = self.flavour.data
        near_hole = self.flavour.paging and self.rng.random() < 0.3
        count = self.rng.choice((0, 0, 1, 2, 5, 13, 40))
        target = end - self.rng.randrange(1, 30) if near_hole else self.rng.randrange(first + 0x200, end - 0x200)
        source = self.rng.randrange(first + 0x200, end - 0x200)
        if near_hole and self.rng.random() < 0.5:
            source, target = target, source
        after = self.label()
        lines = [
            *self.recover(after),
            "std" if down and not near_hole else "cld",
            f"mov {self.pointer('di')}, {target}",
            f"mov {self.pointer('si')}, {source}",
            f"mov {self.pointer('cx')}, {count}",
            op + size,
            f"{after}: cld",
        ]
        return "\n".join(lines)

    def exit(self) -> str:
        msr = self.rng.choice(_MSRS)
        after = self.label()
        body = self.rng.choice(
            (
                f"mov eax, {self.imm()}\ncpuid",
                f"mov ecx, {msr:#x}\nrdmsr",
                f"mov ecx, {msr:#x}\nmov eax, {self.imm()}\nxor edx, edx\nwrmsr",
                "rdtsc",
                "rdtscp",
                "pause",
                "in al, 0xe9",
                "mov dx, 0x3f8\nin eax, dx",
                "mov dx, 0x3f8\nout dx, ax",
                "out 0xe9, al",
                "in eax, 0x70",
                "hlt",
                "vmmcall",
                "vmcall",
                "swapgs\nswapgs" if self.wide else "pause",
                "sti\nnop\ncli",
                "mov rax, cr0\nmov cr0, rax" if self.wide else "mov eax, cr0\nmov cr0, eax",
                "mov rax, cr3\nmov cr3, rax" if self.wide else "mov eax, cr3\nmov cr3, eax",
                "mov rax, dr7\nmov dr0, rax" if self.wide else "mov eax, dr7\nmov dr0, eax",
                "mov rax, cr8\nmov cr8, rax" if self.wide else "nop",
            )
        )
        return "\n".join((*self.recover(after), body, f"{after}:"))

    def string_io(self) -> str:
        after, down = self.label(), self.rng.random() < 0.2
        first, end = self.flavour.data
        near_hole = self.flavour.paging and self.rng.random() < 0.3 and not down
        op, register = self.rng.choice((("ins", "di"), ("outs", "si")))
        place = end - self.rng.randrange(1, 9) if near_hole else self.rng.randrange(first + 0x100, end - 0x100)
        return "\n".join(
            (
                *self.recover(after),
                "std" if down else "cld",
                f"mov {self.pointer(register)}, {place}",
                f"mov {self.pointer('cx')}, {self.rng.choice((0, 1, 3, 6))}",
                f"mov dx, {self.rng.choice((*OPEN_PORTS, 0x70))}",
                self.rng.choice(("rep ", "")) + op + self.rng.choice("bwd"),
                f"{after}: cld",
            )
        )

    def recover(self, label: str) -> list[str]:
        if self.wide:
            return [f"lea r15, [rip+{label}]", f"mov ds:[{self.rec}], r15"]
        return [f"mov {'word' if self.flavour.real else 'dword'} ptr ds:[{self.rec}], offset {label}"]

    def fault(self) -> str:
        after = self.label()
        choices = [
            "ud2",
            "xor ecx, ecx\ndiv ecx",
            "mov eax, 1\ncdq\nidiv eax\nxor ebx, ebx\nidiv ebx",
            "int3",
            "int 0x80",
        ]
        if not self.flavour.real:
            choices += [
                "mov ax, 0x1230\nmov ds, ax",
                "int 0x21" if self.flavour.cpl else "int 0x81",
                "ltr ax" if self.flavour.cpl else "mov ax, 0x7ff8\nltr ax",
            ]
        if not self.wide:
            choices += ["into", "mov al, 0x7f\ninc al\ninto"]
        if self.flavour.paging:
            hole = self.flavour.data[1]
            choices += [
                f"mov eax, ds:[{hole}]",
                f"add dword ptr ds:[{hole + 5}], ecx",
                f"mov ds:[{READ_ONLY}], eax",
                f"inc dword ptr ds:[{hole - 2}]",
                f"mov {self.pointer('ax')}, {self.flavour.data[0]}\njmp {self.pointer('ax')}" if self.wide else "ud2",
                f"mov {self.pointer('ax')}, {hole}\njmp {self.pointer('ax')}",
            ]
        body = self.rng.choice(choices)
        before = self.alu() if self.rng.random() < 0.5 else ""
        return "\n".join((*self.recover(after), before, body, f"{after}:"))

    def modify(self) -> str:
        """An instruction further on in this block is overwritten: with a constant, or with one that exits or faults."""
        target, after = self.label(), self.label()
        new = self.rng.choice((0xB0 | self.rng.randrange(256) << 8, 0x310F, 0xA20F, 0x90F3, 0x0B0F, 0xCC90))
        between = "\n".join(self.alu() for _ in range(self.rng.randrange(3)))
        where = target if not self.flavour.paging or self.rng.random() < 0.6 else f"{target}+{ALIAS - CODE}"
        if self.wide:
            store = f"mov word ptr [rip+{where}], {new}"
        else:
            store = f"mov word ptr ds:{where}, {new}"
        return "\n".join((*self.recover(after), store, between, f"{target}: mov al, 0", f"{after}:"))

    def modify_loop(self) -> str:
        """A loop whose body changes in each turn."""
        head, target = self.label(), self.label()
        counter = f"dword ptr ds:[{self.flavour.vars + 72:#x}]"
        store = f"inc byte ptr [rip+{target}+1]" if self.wide else f"inc byte ptr ds:{target}+1"
        body = f"{head}: {store}\nnop\n{target}: mov al, 7\nadd ebx, eax"
        return f"mov {counter}, {self.rng.randrange(1, 6)}\n{body}\ndec {counter}\njnz {head}"

    def floating(self) -> str:
        return self.rng.choice(
            (
                f"fld1\nfldpi\nfaddp\nfstp qword ptr {self.cell()}",
                f"fld1\nfadd st(0), st(0)\nfsqrt\nfistp dword ptr {self.cell()}",
                "fldpi\nfldl2e",
                "fninit",
                f"fnstcw word ptr {self.cell()}",
                "movd xmm0, eax\npshufd xmm1, xmm0, 0\npaddd xmm2, xmm1",
                f"cvtsi2sd xmm3, ecx\nmulsd xmm3, xmm3\nmovsd qword ptr {self.cell()}, xmm3",
                f"movups xmm4, xmmword ptr {self.cell()}\npxor xmm4, xmm2\nmovups xmmword ptr {self.cell()}, xmm4",
                f"stmxcsr dword ptr {self.cell()}",
                "pcmpeqd xmm5, xmm5\npsrlq xmm5, 7",
            )
        )

    def single_step(self) -> str:
        push, pop, top = ("pushfq", "popfq", "rsp") if self.wide else ("pushfd", "popfd", "esp")
        if self.flavour.real:
            push, pop = "pushfd", "popfd"
        inner = "\n".join(
            self.rng.choice((self.alu, self.memory, self.stepped_exit))() for _ in range(self.rng.randrange(1, 4))
        )
        return f"{push}\nor dword ptr [{top}], 0x100\n{pop}\n{inner}\n{push}\nand dword ptr [{top}], ~0x100\n{pop}"

    def stepped_exit(self) -> str:
        return self.rng.choice(
            (
                "cpuid",
                "rdtsc",
                "pause",
                "cld\nstd\ncld",
                self.call(),
                self.string(),
                self.exit(),
                self.string_io(),
                self.system_call(),
            )
        )

    def interrupts(self) -> str:
        push, pop, top = ("pushfq", "popfq", "rsp") if self.wide else ("pushfd", "popfd", "esp")
        after = self.label()
        body = self.rng.choice(
            (
                "sti",
                "cli",
                f"{push}\nxor dword ptr [{top}], 0x200\n{pop}",
                "mov ax, ss\nmov ss, ax",
                f"sti\n{self.alu()}",
                "sti\ncpuid\nnop",
                "sti\nhlt\ncli",
                f"cli\n{self.alu()}\nsti\npause",
                "pushfd\npopfd" if not self.wide else "pushfq\npopfq",
                "mov ax, ss\nmov ss, ax\nrdtsc",
                "mov ax, ss\nsti\nmov ss, ax\ninc eax",
            )
        )
        return "\n".join((*self.recover(after), body, f"{after}:"))

    def far_return(self) -> str:
        label = self.label()
        if self.wide:
            return (
                "mov r14, rsp\nmov eax, ss\npush rax\npush r14\npushfq\nmov eax, cs\npush rax\n"
                f"lea rax, [rip+{label}]\n"
                f"push rax\niretq\n{label}:"
            )
        if self.flavour.real:
            return f"pushf\npush cs\npush offset {label}\niret\n{label}:"
        return f"pushfd\npush cs\npush offset {label}\niretd\n{label}:"

    def system_call(self) -> str:
        """From user code through SYSCALL; elsewhere SYSCALL is #UD or would end outside the program."""
        if self.flavour.cpl != 3:
            return self.alu()
        return f"mov eax, {self.imm()}\nsyscall\nadd eax, ecx"

    def piece(self) -> str:
        pieces: tuple[tuple[Callable[[], str], int], ...] = (
            (self.alu, 5), (self.memory, 4), (self.loop, 2), (self.loop_cx, 1), (self.call, 1), (self.branch, 2),
            (self.string, 3), (self.exit, 5), (self.string_io, 2), (self.fault, 4), (self.modify, 2),
            (self.modify_loop, 1), (self.floating, 2), (self.single_step, 1), (self.interrupts, 3),
            (self.far_return, 1), (self.system_call, 1),
        )  # fmt: skip
        return self.rng.choices([piece for piece, _ in pieces], [weight for _, weight in pieces])[0]()


def program(seed: int, flavour: Flavour) -> str:
    """The source of program number `seed`: pieces, then a loop that repeats all of them for ever."""
    writer = Writer(random.Random(f"program {seed}"), flavour, seed)
    head = writer.label()
    pieces = [writer.piece() for _ in range(writer.rng.randrange(4, 40))]
    # A jump is 16 bits wide in real mode, and the stack is reset in case a fault cut a piece short.
    stack = {64: "mov rsp, 0x250000", 32: f"mov esp, {STACK:#x}", 16: "mov esp, 0xf000"}[flavour.bits]
    return "\n".join((f"{head}:", stack, *pieces, f"jmp {head}"))
