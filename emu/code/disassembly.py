"""Machine code as text, in the Intel syntax that the guests are written in.

In Linux: scripts/decodecode does this for an oops.
"""

from typing import NamedTuple

import capstone

LONGEST = 15  # bytes an x86 instruction can have
_MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}


class Line(NamedTuple):
    """One instruction; `text` is `(bad)` where the bytes are none."""

    address: int
    code: bytes
    text: str


def disassemble(code: bytes, address: int, bits: int, count: int) -> list[Line]:
    """Up to `count` instructions of `code`, which stands at `address`; `bits` is 16, 32 or 64."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, _MODES[bits])  # type: ignore[no-untyped-call]
    lines: list[Line] = []
    at = 0
    while at < len(code) and len(lines) < count:
        found = next(engine.disasm_lite(code[at : at + LONGEST], address + at, 1), None)  # type: ignore[no-untyped-call]
        size, text = (found[1], f"{found[2]} {found[3]}".strip()) if found else (1, "(bad)")
        lines.append(Line(address + at, code[at : at + size], text))
        at += size
    return lines


def leading_up(code: bytes, start: int, address: int, bits: int, count: int) -> list[Line]:
    """The last `count` instructions of `code`, which begins with one at `start` and ends before `address`.

    Empty where that beginning does not lead to `address`: x86 can be read from any byte, and most readings are wrong.
    """
    lines = disassemble(code, start, bits, len(code))
    if not lines or lines[-1].address + len(lines[-1].code) != address or any(line.text == "(bad)" for line in lines):
        return []
    return lines[-count:]
