"""Reading an ELF executable: what to put where, with which rights, and where to start.

Segments go to their physical addresses (`p_paddr`), as a boot loader puts them: there is no paging yet that could tell
another. Every number is checked against the file and against RAM before it is used.

In Linux: load_elf_binary() in fs/binfmt_elf.c.
"""

import itertools
from typing import NamedTuple

from emu import abi
from emu.boot.elf_file import (
    EM_386,
    EM_X86_64,
    ET_DYN,
    ET_EXEC,
    ET_REL,
    MAGIC,
    PF_W,
    PF_X,
    PT_INTERP,
    PT_LOAD,
    Damaged,
    program_headers,
    read_header,
)
from emu.boot.entry import LONG, PROTECTED, Entry, Rights
from emu.boot.image import Image, Piece
from emu.faults import HostError

_MODES = {(EM_X86_64, 64): LONG, (EM_386, 32): PROTECTED}
# For the sentence that refuses them: those a student is likely to have a cross compiler for.
_MACHINES = {
    machine: name
    for name, machines in {
        "x86": (3, 62),
        "ARM": (40, 183),
        "RISC-V": (243,),
        "MIPS": (8,),
        "PowerPC": (20, 21),
        "SPARC": (2, 18, 43),
        "S/390": (22,),
        "LoongArch": (258,),
        "AVR": (83,),
        "BPF": (247,),
    }.items()
    for machine in machines
}


class Segment(NamedTuple):
    """One loadable segment: file range, place and size in memory, rights."""

    offset: int
    filesz: int
    gpa: int
    memsz: int
    writable: bool
    executable: bool
    linked: int


def elf_image(source: bytes, where: str) -> Image:
    """The image of a statically linked x86 executable. Raises HostError, in one sentence, for anything else."""
    if not source.startswith(MAGIC):
        raise HostError("this is not an ELF file", where)
    try:
        header = read_header(source)
    except Damaged as damage:
        raise _damaged(damage, where) from None
    mode = _MODES.get((header.machine, header.bits))
    if mode is None or header.order != "<":
        name = _MACHINES.get(header.machine, f"machine number {header.machine}")
        order = "little" if header.order == "<" else "big"
        raise HostError(
            f"this is a program for {name} ({header.bits} bits, {order}-endian), not for x86",
            where,
            "compile it for x86-64",
        )
    if header.type == ET_REL:
        raise HostError("this is an object file that has not been linked", where, "link it with -static -no-pie")
    if header.type == ET_DYN:
        raise HostError("this is a position-independent program or a library", where, "link it with -static -no-pie")
    if header.type != ET_EXEC:
        raise HostError(f"this ELF file is no executable (its type is {header.type})", where)
    try:
        headers = program_headers(source, header)
    except Damaged as damage:
        raise _damaged(damage, where) from None
    if any(one.type == PT_INTERP for one in headers):
        raise HostError("this program needs a dynamic linker", where, "link it with -static")
    segments = [
        Segment(one.offset, one.filesz, one.paddr, one.memsz, bool(one.flags & PF_W), bool(one.flags & PF_X), one.vaddr)
        for one in headers
        if one.type == PT_LOAD and (one.memsz or one.filesz)
    ]
    if not segments:
        raise HostError("the ELF file has nothing to load", where, "link it into an executable")
    _check(segments, len(source), where)
    start = header.entry
    if not any(part.executable and part.gpa <= start < part.gpa + part.memsz for part in segments):
        raise HostError(f"the entry point {start:#x} is not in an executable segment", where, "check the linker script")
    pieces = tuple(
        Piece(
            part.gpa,
            source[part.offset : part.offset + part.filesz],
            part.memsz,
            None if part.linked == part.gpa else part.linked,
        )
        for part in segments
    )
    return Image(Entry(mode, start), pieces, _rights(segments), source, where)


def _damaged(damage: Damaged, where: str) -> HostError:
    return HostError(f"the ELF file is damaged or cut off: {damage}", where)


def _check(segments: list[Segment], size: int, where: str) -> None:
    for part in segments:
        if part.filesz > part.memsz:
            raise HostError(f"the segment at {part.gpa:#x} has more bytes in the file than in memory", where)
        if part.offset + part.filesz > size:
            raise HostError(f"the file is cut off: the segment at {part.gpa:#x} goes beyond its end", where)
        if part.gpa + part.memsz > abi.MAX_RAM:
            raise HostError(f"the segment at {part.gpa:#x} of {part.memsz:#x} bytes is beyond any RAM", where)
    # Each segment becomes bytes of its own: without this, a small file could ask for a lot of the host's memory.
    if sum(part.filesz for part in segments) > 2 * size:
        raise HostError("the segments use the same bytes of the file over and over", where)
    ordered = sorted(segments, key=lambda part: part.gpa)
    for first, second in itertools.pairwise(ordered):
        if first.gpa + first.memsz > second.gpa:
            raise HostError(
                f"the segments at {first.gpa:#x} and {second.gpa:#x} overlap", where, "check the linker script"
            )


def _rights(segments: list[Segment]) -> tuple[Rights, ...]:
    """Rights per page range; where two segments share a page, that page has the rights of both."""
    bounds = {
        edge // abi.PAGE_SIZE * abi.PAGE_SIZE
        for part in segments
        for edge in (
            part.gpa,
            part.gpa + abi.PAGE_SIZE,
            part.gpa + part.memsz - 1,
            part.gpa + part.memsz + abi.PAGE_SIZE - 1,
        )
    }
    edges = sorted(bounds)
    found = []
    for low, high in itertools.pairwise(edges):
        here = [part for part in segments if part.gpa < high and part.gpa + part.memsz > low]
        writable, executable = any(part.writable for part in here), any(part.executable for part in here)
        if here and (executable or not writable):
            found.append(Rights(low, high - low, writable, executable))
    return tuple(found)
