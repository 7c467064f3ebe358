"""Names for addresses, from the symbol table of an ELF file.

In Linux: kernel/kallsyms.c answers the same question for the kernel itself.
"""

import bisect
import functools
from typing import NamedTuple

from emu.boot.elf_file import (
    MAGIC,
    SHN_LORESERVE,
    SHN_UNDEF,
    STT_FUNC,
    STT_NOTYPE,
    STT_OBJECT,
    Damaged,
    read_header,
    sections,
    symbols,
)

_KINDS = (STT_FUNC, STT_OBJECT, STT_NOTYPE)


class Symbol(NamedTuple):
    """`address` to `address + size`, as far as no other symbol begins before that; a size of 0 reaches to the next."""

    address: int
    size: int
    name: str


class Symbols:
    """The functions and objects of a program; empty for a file without a symbol table, or without structure."""

    def __init__(self, symbols: list[Symbol]) -> None:
        self._symbols = sorted(set(symbols))
        self._addresses = [symbol.address for symbol in self._symbols]
        self._by_name = {symbol.name: symbol.address for symbol in self._symbols}

    @staticmethod
    @functools.lru_cache(maxsize=8)
    def of(source: bytes) -> "Symbols":
        """Read the table of an ELF file's bytes, once; damage is taken as having none."""
        if not source.startswith(MAGIC):
            return Symbols([])
        try:
            header = read_header(source)
            entries, homes = symbols(source, header), sections(source, header)
        except Damaged:
            return Symbols([])
        found = []
        for entry in entries:
            if entry.type in _KINDS and SHN_UNDEF < entry.section < min(SHN_LORESERVE, len(homes)) and entry.name:
                home = homes[entry.section]
                # Assembler labels have no size: they reach to the end of their section at most.
                size = entry.size or max(home.addr + home.size - entry.value, 0)
                found.append(Symbol(entry.value, size, entry.name))
        return Symbols(found)

    def address(self, name: str) -> int | None:
        """Where a symbol stands."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """All of them, sorted."""
        return sorted(self._by_name)

    def at(self, address: int) -> Symbol | None:
        """The symbol that covers the address; of several the last to begin, of those the largest."""
        number = bisect.bisect_right(self._addresses, address) - 1
        if number < 0:
            return None
        symbol = self._symbols[number]
        return None if symbol.size and address >= symbol.address + symbol.size else symbol

    def name(self, address: int) -> str:
        """`symbol` or `symbol+0x12`, or the empty string where no symbol covers the address."""
        symbol = self.at(address)
        if symbol is None:
            return ""
        offset = address - symbol.address
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name
