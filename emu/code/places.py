"""Where in the program an address is: its symbol and its source line.

In Linux: scripts/decode_stacktrace.sh turns the addresses of an oops into the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

from emu.code.lines import source_lines
from emu.code.symbols import Symbols
from emu.state import ATTRIBUTE_LONG, SEGMENTS, CpuState

_MASK32 = 0xFFFFFFFF


class Place(NamedTuple):
    """A linear address; `symbol` is `main+0x13`, `line` is `file:line`, each empty where it is not known."""

    address: int
    symbol: str
    line: str

    @property
    def named(self) -> str:
        """`main+0x13 (guest.c:7)`, as much of it as is known; the empty string of nothing."""
        return " ".join((*filter(None, (self.symbol,)), *([f"({self.line})"] if self.line else [])))


def places(source: bytes, addresses: Sequence[int]) -> list[Place]:
    """The place of each of these addresses in the program whose file is `source`."""
    symbols, lines = Symbols.of(source), source_lines(source, addresses)
    return [Place(one, symbols.name(one), lines.get(one, "")) for one in addresses]


def linear(state: CpuState, rip: int) -> int:
    """The linear address of `rip` in the code segment of `state`."""
    code = state.segments[SEGMENTS.index("cs")]
    return rip if code.attributes & ATTRIBUTE_LONG else code.base + rip & _MASK32
