"""The scene of a triple fault: the vCPU as it stood, the program, and names for what lies where.

In Linux: show_regs() in arch/x86/kernel/process_64.c gathers the same for an oops.
"""

from collections.abc import Collection

from emu import abi
from emu.boot.entry import LONG, REAL, stack_top
from emu.code.lines import source_lines
from emu.code.places import linear
from emu.code.symbols import Symbols
from emu.exits import Shutdown
from emu.machine import Machine
from emu.state import ATTRIBUTE_BIG, ATTRIBUTE_LONG, GENERAL, SEGMENTS, Segment

# The error code of a page fault: bits of x86_pf_error_code in arch/x86/include/asm/trap_pf.h.
PF_PRESENT, PF_WRITE, PF_USER, PF_RESERVED, PF_FETCH = 1, 2, 4, 8, 16
_MASK32 = 0xFFFFFFFF


class Scene:
    """vCPU `number` of `machine`, which shut down by `shutdown`. `linear` is where the instruction stands.

    `bits` is 16, 32 or 64: how its code is to be read.
    """

    def __init__(self, machine: Machine, number: int, shutdown: Shutdown) -> None:
        self.number = number
        self.shutdown = shutdown
        self.machine = machine
        self.ram = machine.ram
        self.vcpu = machine.packages[number].vcpu
        self.state = self.vcpu.state()
        self.symbols = Symbols.of(machine.image.source)
        self.registers = dict(zip(GENERAL, self.state.general, strict=True))
        code = self.segment("cs")
        long = bool(code.attributes & ATTRIBUTE_LONG)
        self.bits = 64 if long else 32 if code.attributes & ATTRIBUTE_BIG else 16
        self.linear = linear(self.state, shutdown.rip)
        self.long_mode = bool(dict(self.state.msrs).get(abi.MSR_EFER, 0) & abi.EFER_LMA)
        self.protected = bool(self.state.cr0 & abi.CR0_PE)
        self.cpl = self.segment("ss").attributes >> 5 & 3
        # The tables that the machine laid out, rather than some of the guest's own.
        self.given_paging = machine.image.entry.mode == LONG and self.state.cr3 == abi.PAGE_TABLES_GPA
        self._lines: dict[int, str] = {}

    def segment(self, name: str) -> Segment:
        """A segment register with its hidden part."""
        return self.state.segments[SEGMENTS.index(name)]

    @property
    def stack_linear(self) -> int:
        """Where the stack pointer points."""
        rsp = self.registers["rsp"]
        if self.bits == 64:
            return rsp
        stack = self.segment("ss")
        return stack.base + (rsp & (_MASK32 if stack.attributes & ATTRIBUTE_BIG else 0xFFFF)) & _MASK32

    @property
    def fetch_failed(self) -> bool:
        """Whether the instruction itself could not be fetched, so that what stands at `linear` is no code."""
        shutdown = self.shutdown
        if shutdown.vector != abi.PF_VECTOR:
            return False
        if dict(self.state.msrs).get(abi.MSR_EFER, 0) & abi.EFER_NXE:
            return bool((shutdown.error or 0) & PF_FETCH)
        return shutdown.address == self.linear  # without NX the error code does not tell fetches from reads

    def load(self, linear: int, size: int) -> int | None:
        """A little-endian integer of guest memory, or None where it cannot be read."""
        data = self.vcpu.read_linear(linear, size)
        return int.from_bytes(data, "little") if len(data) == size else None

    def find_lines(self, addresses: Collection[int]) -> None:
        """Look source lines up, all at once, for `place` and `line` to know."""
        self._lines |= source_lines(self.machine.image.source, addresses)

    def line(self, address: int) -> str:
        """`file:line`, or the empty string."""
        return self._lines.get(address, "")

    def place(self, address: int, line_of: int | None = None) -> str:
        """`0x100012 <main+0x12> (guest.c:7)`, as much of it as is known; `line_of` another address than this."""
        name = self.symbols.name(address)
        line = self.line(address if line_of is None else line_of)
        return f"{address:#x}{f' <{name}>' if name else ''}{f' ({line})' if line else ''}"

    def is_code(self, address: int) -> bool:
        """Whether the program has code there."""
        image = self.machine.image
        address = image.gpa_of(address)
        if image.entry.mode == LONG:
            return any(one.executable and one.gpa <= address < one.gpa + one.size for one in image.rights)
        return any(one.gpa <= address < one.gpa + one.size for one in image.pieces)

    def guarded_stack(self, address: int) -> int | None:
        """Below whose stack a guard page holds the address: a vCPU's number, or None."""
        if not self.given_paging:
            return None
        for number in range(self.machine.config.vcpus):
            bottom = stack_top(self.ram, number) - abi.STACK_SIZE
            if bottom - abi.PAGE_SIZE <= address < bottom:
                return number
        return None

    def region(self, address: int) -> str:
        """What lies at a linear address of a guest that kept the memory map it was given; empty where it did not."""
        guard = self.guarded_stack(address)
        if guard is not None:
            return f"the guard page below vcpu{guard}'s stack"
        if self.machine.image.entry.mode == REAL or (self.long_mode and not self.given_paging):
            return ""
        if address >= self.ram.size:
            return f"beyond the guest's RAM, which ends at {self.ram.size:#x}"
        for number in range(self.machine.config.vcpus):
            top = stack_top(self.ram, number)
            if top - abi.STACK_SIZE <= address < top:
                return f"vcpu{number}'s stack"
        if address < abi.PAGE_SIZE:
            return "page 0, where null pointers lead"
        if address < abi.GUEST_GPA:
            return "the memory below the program, where the machine's own tables are"
        if not any(one.gpa <= address < one.gpa + one.size for one in self.machine.image.pieces):
            return "free memory, outside the program"
        rights = next((one for one in self.machine.image.rights if one.gpa <= address < one.gpa + one.size), None)
        if rights is None:
            return "the program's data"
        return "the program's code" if rights.executable else "the program's constants"
