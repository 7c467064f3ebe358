"""How long an intercepted instruction is, and which one: prefixes, opcode, and no more.

An intercept says that *some* WRMSR or INT stopped the guest; to step over it, the host must know its length, whatever
legacy or REX prefixes a compiler or a hostile guest put before it. Encodings: AMD64 Architecture Programmer's Manual,
volume 3.

In Linux: x86_decode_insn() in arch/x86/kvm/emulate.c.
"""

from typing import NamedTuple

MAX_LENGTH = 15
PREFIXES = frozenset(bytes.fromhex("262e363e64656667f0f2f3"))
_REX = range(0x40, 0x50)

# Opcodes, as the bytes after the prefixes.
RDTSC, RDTSCP = b"\x0f\x31", b"\x0f\x01\xf9"
RDMSR, WRMSR = b"\x0f\x32", b"\x0f\x30"
CPUID, RDPMC = b"\x0f\xa2", b"\x0f\x33"
VMCALL, VMMCALL = b"\x0f\x01\xc1", b"\x0f\x01\xd9"
HLT, PAUSE = b"\xf4", b"\x90"
INT, INT3, INTO = b"\xcd", b"\xcc", b"\xce"
MOV_FROM_CR, MOV_FROM_DR, MOV_TO_CR, MOV_TO_DR = b"\x0f\x20", b"\x0f\x21", b"\x0f\x22", b"\x0f\x23"
VEX = (b"\xc4", b"\xc5")  # in 64-bit code always, elsewhere with a register as the second operand
CLTS = b"\x0f\x06"
LMSW = tuple(bytes((0x0F, 0x01, modrm)) for modrm in range(256) if modrm >> 3 & 7 == 6)  # with the ModRM byte
ADDRESS_SIZE, LOCK, REPNE, REP = 0x67, 0xF0, 0xF2, 0xF3
STRING_IN, STRING_IN_WIDE = b"\x6c", b"\x6d"
_GROUP_0F01 = b"\x0f\x01"
_MOV_SPECIAL = (MOV_FROM_CR, MOV_FROM_DR, MOV_TO_CR, MOV_TO_DR)


class Instruction(NamedTuple):
    """`opcode` without prefixes; `operand` is the ModRM byte or immediate that goes with it, else 0; `rex` its bits."""

    opcode: bytes
    length: int
    operand: int
    rex: int
    prefixes: bytes


def decode(code: bytes, long: bool) -> Instruction | None:
    """The instruction at the start of `code`; None where the bytes end too early. `long`: in 64-bit code."""
    at = 0
    limit = min(len(code), MAX_LENGTH)
    while at < limit and code[at] in PREFIXES:
        at += 1
    prefixes = code[:at]
    rex = 0
    if long and at < limit and code[at] in _REX:
        rex = code[at] & 15
        at += 1
        while at < limit and (code[at] in PREFIXES or code[at] in _REX):
            # A REX before another prefix is void; the last one before the opcode counts.
            rex = code[at] & 15 if code[at] in _REX else 0
            at += 1
    if at >= limit:
        return None
    if code[at] != 0x0F:
        opcode = code[at : at + 1]
        if opcode == INT:
            return Instruction(opcode, at + 2, code[at + 1], rex, prefixes) if at + 2 <= limit else None
        return Instruction(opcode, at + 1, 0, rex, prefixes)
    opcode = code[at : at + 2]
    if opcode == _GROUP_0F01:
        opcode = code[at : at + 3]
    if at + len(opcode) > limit or len(opcode) < 2 or opcode == _GROUP_0F01:
        return None
    if opcode in _MOV_SPECIAL:
        return Instruction(opcode, at + 3, code[at + 2], rex, prefixes) if at + 3 <= limit else None
    return Instruction(opcode, at + len(opcode), 0, rex, prefixes)
