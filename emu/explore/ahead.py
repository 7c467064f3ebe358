"""Whether the instruction that comes next surely loads from what the host writes: read, not executed.

Only plain loads are known, and of those only what can neither fault nor be anything else: whoever is told "no" finds
out by running on.

In Linux: insn_get_addr_ref() in arch/x86/lib/insn-eval.c computes where an instruction's operand is.
"""

from collections.abc import Sequence

import capstone
from capstone import x86 as codes

from emu import abi, state
from emu.code.disassembly import LONGEST
from emu.package import Package
from emu.state import CpuState

_LOADS = frozenset(("mov", "movzx", "movsx", "movsxd", "cmp", "test", "add", "sub", "and", "or", "xor"))
_CS, _SS = state.SEGMENTS.index("cs"), state.SEGMENTS.index("ss")
_DPL = 3 << 5  # in a segment's attributes; that of SS is the privilege level
_MOST = 1024
_NUMBERS = {
    getattr(codes, f"X86_REG_{prefix}{name[1:].upper()}"): number
    for number, name in enumerate(state.GENERAL[:8])
    for prefix in "RE"
} | {getattr(codes, f"X86_REG_{name.upper()}"): number for number, name in enumerate(state.GENERAL) if number >= 8}


class _Load:
    """A load: its address is the sum of registers, by their numbers in state.GENERAL, times a scale, and a constant."""

    def __init__(self, parts: list[tuple[int, int]], constant: int, size: int) -> None:
        self.parts, self.constant, self.size = parts, constant, size

    def address(self, general: Sequence[int]) -> int:
        return self.constant + sum([general[number] * scale for number, scale in self.parts])


class Loads:
    """What instructions are loads, each by its bytes and place, as it was read first."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes, bool], _Load | None] = {}
        self._readers = {}
        for wide, mode in ((True, capstone.CS_MODE_64), (False, capstone.CS_MODE_32)):
            self._readers[wide] = capstone.Cs(capstone.CS_ARCH_X86, mode)  # type: ignore[no-untyped-call]
            self._readers[wide].detail = True

    def next_loads_from(self, package: Package, cpu: CpuState, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether the vCPU, which is in this state, executes a load from one of these ranges next; guest-physical
        addresses, first and last."""
        attributes, user = cpu.segments[_CS].attributes, cpu.segments[_SS].attributes & _DPL
        wide = bool(attributes & state.ATTRIBUTE_LONG)
        flat = all(one.base == 0 for one in cpu.segments[:4])
        if cpu.trap or user or not flat or not (wide or attributes & state.ATTRIBUTE_BIG):
            return False
        found = self._load(cpu.rip, package.vcpu.read_linear(cpu.rip, LONGEST), wide)
        if found is None:
            return False
        linear = found.address(cpu.general) & ((1 << 64) - 1 if wide else 0xFFFFFFFF)
        gpa = package.vcpu.translate(linear)
        within_page = linear % abi.PAGE_SIZE + found.size <= abi.PAGE_SIZE
        return gpa is not None and within_page and any(first <= gpa <= last for first, last in ranges)

    def _load(self, rip: int, code: bytes, wide: bool) -> _Load | None:
        key = rip, code, wide
        if key not in self._known:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = self._read(rip, code, wide)
        return self._known[key]

    def _read(self, rip: int, code: bytes, wide: bool) -> _Load | None:
        one = next(self._readers[wide].disasm(code, rip, 1), None)  # type: ignore[no-untyped-call]
        if one is None or one.mnemonic not in _LOADS or one.addr_size != (8 if wide else 4):
            return None
        places = [operand for operand in one.operands if operand.type == codes.X86_OP_MEM]
        if len(places) != 1 or places[0].access != capstone.CS_AC_READ or places[0].mem.segment:
            return None
        memory, constant = places[0].mem, places[0].mem.disp
        parts = []
        for register, scale in ((memory.base, 1), (memory.index, memory.scale)):
            if register == codes.X86_REG_RIP:
                constant += rip + one.size
            elif register:
                if register not in _NUMBERS:
                    return None
                parts.append((_NUMBERS[register], scale))
        return _Load(parts, constant, places[0].size)
