"""Reading an ELF executable: what to put where, with which rights, and where to start.

Files are hostile until proven otherwise: every number is checked against the file and against RAM before it is used.

In Linux: load_elf_binary() in fs/binfmt_elf.c.
"""

import io
import itertools
import struct
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from emu import abi
from emu.boot.entry import LONG, PROTECTED, Entry, Rights
from emu.boot.image import Image, Piece
from emu.faults import HostError

MAGIC = b"\x7fELF"
MAX_SEGMENTS = 64
_EXECUTABLE, _WRITABLE = 1, 2
# What the reader's parts raise on input they did not expect; none of it may reach the user as a traceback.
UNREADABLE = (
    *(ELFError, struct.error, ValueError, OSError, KeyError, IndexError),
    *(TypeError, AttributeError, AssertionError, OverflowError, MemoryError),
)


class Segment(NamedTuple):
    """One loadable segment: file range, place and size in memory, rights."""

    offset: int
    filesz: int
    gpa: int
    memsz: int
    writable: bool
    executable: bool


def elf_image(source: bytes, where: str) -> Image:
    """The image of a statically linked x86 executable. Raises HostError, in one sentence, for anything else."""
    try:
        elf = ELFFile(io.BytesIO(source))
        machine, kind, start = elf["e_machine"], elf["e_type"], elf["e_entry"]
        width, little = elf.elfclass, elf.little_endian
        headers = [elf._get_segment_header(number) for number in range(_count(elf, where))]
        segments = [_segment(header) for header in headers if header["p_type"] == "PT_LOAD" and header["p_memsz"]]
    except UNREADABLE as error:
        raise HostError(f"the ELF file is damaged or cut off ({error or type(error).__name__})", where) from None
    mode = {("EM_X86_64", 64): LONG, ("EM_386", 32): PROTECTED}.get((machine, width))
    if mode is None or not little:
        name = str(machine).removeprefix("EM_")
        raise HostError(f"this is a program for {name} ({width} bits), not for x86", where, "compile it for x86-64")
    if kind != "ET_EXEC":
        raise HostError("this is not a fixed-address executable", where, "link it with -static -no-pie")
    if not segments:
        raise HostError("the ELF file has nothing to load", where, "link it into an executable")
    _check(segments, len(source), where)
    if not any(part.executable and part.gpa <= start < part.gpa + part.memsz for part in segments):
        raise HostError(f"the entry point {start:#x} is not in an executable segment", where, "check the linker script")
    pieces = tuple(Piece(part.gpa, source[part.offset : part.offset + part.filesz], part.memsz) for part in segments)
    return Image(Entry(mode, start), pieces, _rights(segments), source, where)


def _count(elf: ELFFile, where: str) -> int:
    count: int = elf.num_segments()
    if count > MAX_SEGMENTS:
        raise HostError(f"{count} program headers are more than the {MAX_SEGMENTS} that are read", where)
    return count


def _segment(header: object) -> Segment:
    flags = header["p_flags"]  # type: ignore[index]
    names = ("p_offset", "p_filesz", "p_paddr", "p_memsz")
    offset, filesz, gpa, memsz = (int(header[name]) for name in names)  # type: ignore[index]
    return Segment(offset, filesz, gpa, memsz, bool(flags & _WRITABLE), bool(flags & _EXECUTABLE))


def _check(segments: list[Segment], size: int, where: str) -> None:
    for part in segments:
        if part.filesz > part.memsz:
            raise HostError(f"the segment at {part.gpa:#x} has more bytes in the file than in memory", where)
        if part.offset + part.filesz > size:
            raise HostError(f"the file is cut off: the segment at {part.gpa:#x} goes beyond its end", where)
        if part.gpa + part.memsz > abi.MAX_RAM:
            raise HostError(f"the segment at {part.gpa:#x} of {part.memsz:#x} bytes is beyond any RAM", where)
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
