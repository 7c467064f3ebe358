"""Small ELF files made by hand, field by field, so that each field can be wrong."""

import struct
from typing import NamedTuple

from emu import abi
from emu.boot.elf_file import EM_X86_64, ET_EXEC, PF_W, PF_X, PT_LOAD

HEADER, PROGRAM_HEADER, SECTION_HEADER = 64, 56, 64
CODE = b"\x31\xc0\xe6\xf4\xf4"  # xor eax, eax; out 0xf4, al; hlt


class Load(NamedTuple):
    """One program header. `filesz` and `memsz` are those of `data` unless they are given."""

    gpa: int = abi.GUEST_GPA
    data: bytes = CODE
    flags: int = PF_X
    memsz: int | None = None
    filesz: int | None = None
    offset: int | None = None
    type: int = PT_LOAD


def elf_bytes(
    *loads: Load,
    entry: int = abi.GUEST_GPA,
    kind: int = ET_EXEC,
    machine: int = EM_X86_64,
    bits: int = 64,
    order: str = "<",
    phnum: int | None = None,
    shoff: int = 0,
    shnum: int = 0,
    shstrndx: int = 0,
) -> bytes:
    """An ELF file of these segments; by default one that ends its run with status 0."""
    loads = loads or (Load(),)
    ident = b"\x7fELF" + bytes((bits // 32, 1 if order == "<" else 2, 1)) + bytes(9)
    header = struct.pack(
        order + ("HHIQQQIHHHHHH" if bits == 64 else "HHIIIIIHHHHHH"),
        *(kind, machine, 1, entry, HEADER, shoff, 0, HEADER, PROGRAM_HEADER),
        *(len(loads) if phnum is None else phnum, SECTION_HEADER, shnum, shstrndx),
    )
    head = (ident + header).ljust(HEADER, b"\0")
    table, body = b"", b""
    start = HEADER + PROGRAM_HEADER * len(loads)
    for load in loads:
        offset = start + len(body) if load.offset is None else load.offset
        filesz = len(load.data) if load.filesz is None else load.filesz
        memsz = len(load.data) if load.memsz is None else load.memsz
        table += struct.pack(
            order + "IIQQQQQQ", load.type, load.flags, offset, load.gpa, load.gpa, filesz, memsz, abi.PAGE_SIZE
        )
        body += load.data
    return head + table + body


WRITABLE = PF_W
