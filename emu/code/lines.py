"""Source lines for addresses, from the DWARF line tables of an ELF file.

A line table is a small program that the reader executes, so hostile files are met with caps and with silence: whatever
is compressed, larger than MAX_TABLE bytes or damaged counts as not being there.

In Linux: scripts/decode_stacktrace.sh does this for an oops, with addr2line.
"""

import bisect
import contextlib
import functools
import io
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from emu.boot.elf_file import SHF_COMPRESSED, SHF_EXECINSTR, Damaged, read_header, sections

MAX_TABLE = 1 << 17  # decoding a table made to be slow takes some 30 us for each of its bytes
_SECTIONS = (".debug_line", ".debug_info", ".debug_abbrev")
# What pyelftools raises on input it did not expect; none of it may reach the user as a traceback.
_UNREADABLE = (
    *(ValueError, OSError, KeyError, IndexError, TypeError, AttributeError, AssertionError, OverflowError),
    *(ZeroDivisionError, RecursionError, MemoryError),
)


class _Row(NamedTuple):
    """Code from `low` up to `high` comes from this line; `begins` where the code before it comes from another."""

    low: int
    high: int
    file: str
    line: int
    begins: bool


def source_lines(source: bytes, addresses: Collection[int]) -> dict[int, str]:
    """`file:line` of each of these addresses that the ELF file `source` tells of."""
    lows, rows = _table(source) if addresses else ((), ())
    found: dict[int, str] = {}
    for address in addresses:
        number = bisect.bisect_right(lows, address) - 1
        if number >= 0 and address < rows[number].high and rows[number].line:  # 0: made by the compiler, of no line
            found[address] = f"{rows[number].file}:{rows[number].line}"
    return found


def line_addresses(source: bytes) -> dict[tuple[str, int], list[int]]:
    """(file, line) -> the addresses at which code of that line begins, ascending, in the ELF file `source`."""
    found: dict[tuple[str, int], list[int]] = {}
    for row in _table(source)[1]:
        if row.begins and row.line:
            found.setdefault((row.file, row.line), []).append(row.low)
    return found


@functools.lru_cache(maxsize=4)
def _table(source: bytes) -> tuple[tuple[int, ...], tuple[_Row, ...]]:
    """All rows by their addresses, which come first; reading them takes a while, and a session asks again and again.

    What was read before some damage is as good as ever.
    """
    rows: dict[int, _Row] = {}
    if _worth_reading(source):
        from elftools.common.exceptions import DWARFError, ELFError
        from elftools.construct.core import ConstructError
        from elftools.elf.elffile import ELFFile

        code = [
            (one.addr, one.addr + one.size)
            for one in sections(source, read_header(source))
            if one.flags & SHF_EXECINSTR
        ]
        with contextlib.suppress(*_UNREADABLE, ELFError, DWARFError, ConstructError):
            dwarf = ELFFile(io.BytesIO(source)).get_dwarf_info()
            for unit in dwarf.iter_CUs():
                program = dwarf.line_program_for_CU(unit)
                if program is not None:
                    for row in _named(program):
                        # A linker leaves the lines of code that it threw away at address 0.
                        if any(first <= row.low < end for first, end in code):
                            rows[row.low] = row
    ordered = tuple([rows[low] for low in sorted(rows)])
    return tuple([row.low for row in ordered]), ordered


def _named(program: Any) -> Iterator[_Row]:
    names: dict[int, str] = {}
    before = None
    for low, high, file, line in _rows(program):
        if file not in names:
            names[file] = _file_name(program, file)
        yield _Row(low, high, names[file], line, (file, line) != before)
        before = file, line


def _worth_reading(source: bytes) -> bool:
    try:
        tables = [one for one in sections(source, read_header(source)) if one.name.startswith(".debug_")]
    except Damaged:
        return False
    if any(one.flags & SHF_COMPRESSED for one in tables):
        return False
    return sum(one.size for one in tables if one.name in _SECTIONS) in range(1, MAX_TABLE)


def _rows(program: Any) -> Iterator[tuple[int, int, int, int]]:
    before = None
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        if before is not None and state.address > before.address:
            yield before.address, state.address, before.file, before.line
        before = None if state.end_sequence else state


def _file_name(program: Any, number: int) -> str:
    header = program.header
    first = 0 if header["version"] >= 5 else 1  # from version 5 on, the table's numbers begin at 0
    entry = header["file_entry"][number - first]
    directories = header["include_directory"]
    directory = b""
    if entry["dir_index"] >= first and entry["dir_index"] - first < len(directories):
        directory = directories[entry["dir_index"] - first]
    path = entry["name"] if entry["name"].startswith(b"/") or not directory else directory + b"/" + entry["name"]
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in path)
