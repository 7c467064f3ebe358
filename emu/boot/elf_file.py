"""The tables of an ELF file: its header, its segments, its sections, as they stand in the bytes.

Files are hostile until proven otherwise. Nothing is read that the file does not hold, every count is capped, and a name
ends where the file says or at NAME_MAX; whoever uses a number still has to judge it.

In Linux: include/uapi/linux/elf.h has the layouts; load_elf_phdrs() in fs/binfmt_elf.c reads the same table.
"""

import struct
from typing import NamedTuple

MAGIC = b"\x7fELF"
MAX_SEGMENTS = 64
MAX_SECTIONS = 4096
MAX_SYMBOLS = 1 << 17
NAME_MAX = 255

EM_386, EM_X86_64 = 3, 62
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_INTERP = 1, 3
PF_X, PF_W = 1, 2
SHT_SYMTAB, SHT_NOBITS = 2, 8
SHF_EXECINSTR, SHF_COMPRESSED = 1 << 2, 1 << 11
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STT_NOTYPE, STT_OBJECT, STT_FUNC = 0, 1, 2

_CLASSES = {1: 32, 2: 64}
_BYTE_ORDERS = {1: "<", 2: ">"}
_HEADER = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}
_ENTRY = 24  # where e_entry is, for either word size
_SEGMENT = {32: "IIIIIIII", 64: "IIQQQQQQ"}
_SECTION = {32: "IIIIIIIIII", 64: "IIQQQQIIQQ"}
_SYMBOL = {32: "IIIBBH", 64: "IBBHQQ"}


class Damaged(ValueError):
    """The bytes are not the ELF file they begin like; says in a few words how."""


class Header(NamedTuple):
    """The file header: word size 32 or 64, struct's sign for the byte order, and the fields that are used here."""

    bits: int
    order: str
    type: int
    machine: int
    entry: int
    phoff: int
    shoff: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


class ProgramHeader(NamedTuple):
    """One segment: file range, addresses and size in memory; `flags` of PF_X and PF_W."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


class Section(NamedTuple):
    """One section; `link` is the number of another one, for a symbol table that of its names."""

    name: str
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int


class SymbolEntry(NamedTuple):
    """One symbol: `type` of STT_*, `section` its section's number or one of SHN_*."""

    name: str
    value: int
    size: int
    type: int
    section: int


def read_header(source: bytes) -> Header:
    """The header of an ELF file's bytes. Raises Damaged."""
    if len(source) < 16:
        raise Damaged("it ends inside the header")
    bits, order = _CLASSES.get(source[4]), _BYTE_ORDERS.get(source[5])
    if bits is None or order is None:
        raise Damaged(f"its class is {source[4]} and its byte order {source[5]}")
    kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx = _unpack(
        order + _HEADER[bits], source, 16, "the header"
    )
    return Header(bits, order, kind, machine, entry, phoff, shoff, phentsize, phnum, shentsize, shnum, shstrndx)


def with_entry(source: bytes, entry: int) -> bytes:
    """The same file, but entered at `entry`. Raises Damaged where it is no ELF file, or that is no address in it."""
    header = read_header(source)
    if entry >> header.bits:
        raise Damaged(f"{entry:#x} is no address of {header.bits} bits")
    word = struct.pack(header.order + {32: "I", 64: "Q"}[header.bits], entry)
    return source[:_ENTRY] + word + source[_ENTRY + len(word) :]


def program_headers(source: bytes, header: Header) -> list[ProgramHeader]:
    """All segments, in file order. Raises Damaged, also where there are more than MAX_SEGMENTS."""
    layout = header.order + _SEGMENT[header.bits]
    _expect(header.phnum, MAX_SEGMENTS, header.phentsize, layout, "program headers")
    found = []
    for number in range(header.phnum):
        fields = _unpack(layout, source, header.phoff + number * header.phentsize, f"program header {number}")
        if header.bits == 64:
            kind, flags, offset, vaddr, paddr, filesz, memsz, _ = fields
        else:
            kind, offset, vaddr, paddr, filesz, memsz, flags, _ = fields
        found.append(ProgramHeader(kind, flags, offset, vaddr, paddr, filesz, memsz))
    return found


def sections(source: bytes, header: Header) -> list[Section]:
    """All sections, in file order. Raises Damaged, also where there are more than MAX_SECTIONS."""
    layout = header.order + _SECTION[header.bits]
    _expect(header.shnum, MAX_SECTIONS, header.shentsize, layout, "sections")
    rows = [
        _unpack(layout, source, header.shoff + number * header.shentsize, f"section {number}")
        for number in range(header.shnum)
    ]
    names = b""
    if header.shstrndx < len(rows):
        _, kind, _, _, offset, size, *_ = rows[header.shstrndx]
        names = b"" if kind == SHT_NOBITS else source[offset : offset + size]
    return [
        Section(_name(names, name), kind, flags, addr, offset, size, link)
        for name, kind, flags, addr, offset, size, link, *_ in rows
    ]


def symbols(source: bytes, header: Header) -> list[SymbolEntry]:
    """The symbol table, or nothing where the file has none. Raises Damaged, also beyond MAX_SYMBOLS."""
    layout = header.order + _SYMBOL[header.bits]
    table = sections(source, header)
    home = next((one for one in table if one.type == SHT_SYMTAB), None)
    if home is None:
        return []
    if home.link >= len(table):
        raise Damaged("its symbols have no names")
    texts = table[home.link]
    names = source[texts.offset : texts.offset + texts.size]
    step = struct.calcsize(layout)
    count = home.size // step
    if count > MAX_SYMBOLS:
        raise Damaged(f"it has {count} symbols")
    found = []
    for number in range(count):
        fields = _unpack(layout, source, home.offset + number * step, f"symbol {number}")
        if header.bits == 64:
            name, info, _, section, value, size = fields
        else:
            name, value, size, info, _, section = fields
        found.append(SymbolEntry(_name(names, name), value, size, info & 15, section))
    return found


def _expect(count: int, most: int, size: int, layout: str, what: str) -> None:
    if count > most:
        raise Damaged(f"it has {count} {what}, and {most} is the most that are read")
    if count and size < struct.calcsize(layout):
        raise Damaged(f"its {what} are {size} bytes each")


def _unpack(layout: str, source: bytes, offset: int, what: str) -> tuple[int, ...]:
    if offset + struct.calcsize(layout) > len(source):
        raise Damaged(f"it ends before {what}")
    return struct.unpack_from(layout, source, offset)


def _name(table: bytes, at: int) -> str:
    """A name as it may be shown: whatever is not printable ASCII is escaped: a file may hold a terminal's orders."""
    raw = table[at : at + NAME_MAX].partition(b"\0")[0]
    return "".join(chr(byte) if 0x20 < byte < 0x7F else f"\\x{byte:02x}" for byte in raw)
