"""#SS or #GP: in 64-bit code an address that is not canonical raises the one through the stack segment, else the other.

The engine raises #GP(0) for both. Which it must be follows from the instruction: it pushes or pops, or its operand's
base is RSP or RBP. Where that is not certain the answer is #GP. Rules and encodings: AMD64 Architecture Programmer's
Manual, volume 3, section 1.4 and the exceptions of each instruction.

In Linux: linearize() and emulate_ss() in arch/x86/kvm/emulate.c.
"""

from collections.abc import Callable

from emu import state
from emu.vcpu import decode

_MASK64 = 2**64 - 1
_RSP, _RBP = state.GENERAL.index("rsp"), state.GENERAL.index("rbp")
_FS, _GS, _OPERAND_SIZE = 0x64, 0x65, 0x66
_PUSHES = frozenset((*range(0x50, 0x58), 0x68, 0x6A, 0x9C, 0xC8, 0xE8))
_POPS = frozenset((*range(0x58, 0x60), 0x9D, 0xC2, 0xC3, 0xCA, 0xCB, 0xCF))
_WIDE_PUSHES, _WIDE_POPS = (0xA0, 0xA8), (0xA1, 0xA9)  # behind 0F
_LEAVE, _POP_MEMORY, _GROUP_5 = 0xC9, 0x8F, 0xFF
# Opcodes with a ModRM byte whose operand is an ordinary one.
_OPERANDS = frozenset(
    (
        *(first + n for first in range(0, 0x40, 8) for n in range(4)),
        *(0x63, 0x69, 0x6B, *range(0x80, 0x90), 0xC0, 0xC1, 0xC6, 0xC7),
        *(*range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF),
    )
)
# Behind 0F: MOV, arithmetic and SSE; not what may raise #GP(0) for another reason as well (as LMSW or FXRSTOR do).
_WIDE_OPERANDS = frozenset(
    (
        *(*range(0x10, 0x18), *range(0x28, 0x30), *range(0x40, 0x77), *range(0x7C, 0x80), *range(0x90, 0xA0)),
        *(0xA3, 0xA4, 0xA5, 0xAB, 0xAC, 0xAD, 0xAF, *range(0xB0, 0xC7), *range(0xD0, 0xFF)),
    )
)


def by_stack(code: bytes, register: Callable[[int], int]) -> bool:
    """Whether the instruction of 64-bit code at the start of `code`, which has raised #GP(0), owes #SS(0) instead.

    `register` tells a general register by its number.
    """
    at = 0
    while at < len(code) and code[at] in decode.PREFIXES:
        at += 1
    prefixes, rex = code[:at], 0
    if at < len(code) and code[at] & 0xF0 == 0x40:
        rex, at = code[at] & 15, at + 1
    if len(code) - at < 7:  # opcode, ModRM, SIB and displacement
        code = code.ljust(at + 7, b"\0")
    wide = code[at] == 0x0F
    at += wide
    opcode, modrm = code[at], code[at + 1]
    size = 2 if _OPERAND_SIZE in prefixes else 8
    rsp = register(_RSP)
    pushes = opcode in _WIDE_PUSHES if wide else opcode in _PUSHES
    pops = opcode in _WIDE_POPS if wide else opcode in _POPS or opcode == _POP_MEMORY
    if pushes or pops:
        first = rsp if pops else rsp - size
        if not (_canonical(first) and _canonical(first + size - 1)):
            return True
    elif opcode == _LEAVE and not wide:
        return not _canonical(register(_RBP))
    if opcode not in (_WIDE_OPERANDS if wide else _OPERANDS):
        return False
    stack, address = _operand(code[at + 1 : at + 7], rex, register)
    if address is not None and decode.ADDRESS_SIZE not in prefixes and not _canonical(address):
        return stack and not (_FS in prefixes or _GS in prefixes)
    # What is left of group 5 reads its operand first, and then pushes.
    return opcode == _GROUP_5 and not wide and modrm >> 3 & 7 in (2, 6) and not _canonical(rsp - size)


def _operand(code: bytes, rex: int, register: Callable[[int], int]) -> tuple[bool, int | None]:
    """Of the operand whose ModRM byte `code` begins with: is its base RSP or RBP, and its address; None: no memory."""
    mode, base, at = code[0] >> 6, code[0] & 7, 1
    if mode == 3:
        return False, None
    address = 0
    if base == _RSP:  # a SIB byte follows
        index = code[1] >> 3 & 7 | (rex & 2) << 2
        base, at = code[1] & 7, 2
        if index != _RSP:
            address = register(index) << (code[1] >> 6)
    elif mode == 0 and base == _RBP:
        return False, None  # relative to RIP: always near the code
    if mode == 0 and base == _RBP:
        size, stack = 4, False
    else:
        size = (0, 1, 4)[mode]
        base |= (rex & 1) << 3
        stack = base in (_RSP, _RBP)
        address += register(base)
    return stack, address + int.from_bytes(code[at : at + size], "little", signed=True) & _MASK64


def _canonical(address: int) -> bool:
    return (address & _MASK64) >> 47 in (0, 0x1FFFF)
