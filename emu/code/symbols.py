"""Names for addresses, from the symbol table of an ELF file.

In Linux: kernel/kallsyms.c answers the same question for the kernel itself.
"""

import bisect
import io
from typing import NamedTuple

from emu.boot.elf import MAGIC, UNREADABLE


class Symbol(NamedTuple):
    """`address` to `address + size`; a size of 0 reaches to the next symbol."""

    address: int
    size: int
    name: str


class Symbols:
    """The functions and objects of a program; empty for a file without a symbol table, or without structure."""

    def __init__(self, symbols: list[Symbol]) -> None:
        self._symbols = sorted(set(symbols))
        self._addresses = [symbol.address for symbol in self._symbols]
        self._by_name = {symbol.name: symbol.address for symbol in self._symbols}

    @classmethod
    def of(cls, source: bytes) -> "Symbols":
        """Read the table of an ELF file's bytes; damage is taken as having none."""
        if not source.startswith(MAGIC):
            return cls([])
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection

        try:
            table = ELFFile(io.BytesIO(source)).get_section_by_name(".symtab")
            if not isinstance(table, SymbolTableSection):
                return cls([])
            return cls(
                [
                    Symbol(entry["st_value"], entry["st_size"], entry.name)
                    for entry in table.iter_symbols()
                    if entry["st_info"]["type"] in ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE")
                    and entry["st_shndx"] not in ("SHN_UNDEF", "SHN_ABS")
                    and entry.name
                ]
            )
        except UNREADABLE:
            return cls([])

    def address(self, name: str) -> int | None:
        """Where a symbol stands."""
        return self._by_name.get(name)

    def name(self, address: int) -> str:
        """`symbol` or `symbol+0x12`, or the empty string where no symbol covers the address."""
        at = bisect.bisect_right(self._addresses, address) - 1
        if at < 0:
            return ""
        symbol = self._symbols[at]
        offset = address - symbol.address
        if symbol.size and offset >= symbol.size:
            return ""
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name
