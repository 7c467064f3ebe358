"""Machine code as text, in the Intel syntax that the guests are written in.

In Linux: scripts/decodecode does this for an oops.
"""

from typing import NamedTuple

import capstone


class Line(NamedTuple):
    """One instruction; `text` is `(bad)` where the bytes are none."""

    address: int
    code: bytes
    text: str


def disassemble(code: bytes, address: int, bits: int, count: int) -> list[Line]:
    """Up to `count` instructions of `code`, which stands at `address`; `bits` is 16, 32 or 64."""
    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    engine = capstone.Cs(capstone.CS_ARCH_X86, mode)
    lines: list[Line] = []
    at = 0
    while at < len(code) and len(lines) < count:
        found = next(engine.disasm_lite(code[at : at + 15], address + at, 1), None)
        size, text = (found[1], f"{found[2]} {found[3]}".strip()) if found else (1, "(bad)")
        lines.append(Line(address + at, code[at : at + size], text))
        at += size
    return lines
