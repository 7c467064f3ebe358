"""A program as it will stand in guest memory: pieces of bytes, rights, and where it is entered.

In Linux: struct kexec_segment in include/linux/kexec.h is the same idea.
"""

from typing import NamedTuple

from emu import abi
from emu.boot.entry import LONG, REAL, Entry, Rights, program_limit
from emu.faults import HostError
from emu.ram import Ram

_MIB = 1 << 20


class Piece(NamedTuple):
    """`data` at `gpa`, followed by zeroes up to `size` bytes. `linked` is the linear address that it was linked for,
    where the program is to put it there by page tables of its own; None where that is `gpa`."""

    gpa: int
    data: bytes
    size: int
    linked: int | None = None

    @property
    def linear(self) -> int:
        """Where the program expects it."""
        return self.gpa if self.linked is None else self.linked


class Image(NamedTuple):
    """`pieces` do not overlap; `rights` are page-aligned, disjoint, and name only what differs from plain data.

    `source` is the file's content, for symbols and for the run's identity.
    """

    entry: Entry
    pieces: tuple[Piece, ...]
    rights: tuple[Rights, ...]
    source: bytes
    where: str

    @property
    def sha256(self) -> str:
        """The file's SHA-256, in hexadecimal: the program's identity in traces."""
        import hashlib

        return hashlib.sha256(self.source).hexdigest()

    def content(self, linear: int, size: int) -> bytes:
        """The program's own bytes where it expects them at this address; fewer where it has fewer there."""
        for piece in self.pieces:
            if piece.linear <= linear < piece.linear + len(piece.data):
                return piece.data[linear - piece.linear :][:size]
        return b""

    def gpa_of(self, linear: int) -> int:
        """Where the memory is that the program expects at this address; the same where it expects none."""
        found = next((one for one in self.pieces if one.linear <= linear < one.linear + one.size), None)
        return linear if found is None else linear - found.linear + found.gpa

    def linear_of(self, gpa: int) -> int:
        """Where the program expects the memory that is there; the same where that is none of its own."""
        found = next((one for one in self.pieces if one.gpa <= gpa < one.gpa + one.size), None)
        return gpa if found is None else gpa - found.gpa + found.linear


def needed_ram(image: Image, vcpus: int = 1) -> int:
    """The least RAM that holds this program and the stacks of so many vCPUs, in bytes, of those that are whole MiB."""
    end = max((piece.gpa + piece.size for piece in image.pieces), default=0) + vcpus * (abi.STACK_SIZE + abi.PAGE_SIZE)
    return min(max(-(-end // _MIB) * _MIB, abi.MIN_RAM), abi.MAX_RAM)


def place(image: Image, ram: Ram, vcpus: int) -> None:
    """Copy the program into RAM. Raises HostError where it does not fit between the reserved region and the stacks."""
    low, high = (0, ram.size) if image.entry.mode == REAL else (abi.GUEST_GPA, program_limit(ram, vcpus))
    for piece in image.pieces:
        if not low <= piece.gpa <= high - piece.size:
            raise HostError(
                f"a segment at {piece.gpa:#x} of {piece.size:#x} bytes is outside the memory for programs,"
                f" {low:#x} to {high:#x}",
                image.where,
                "link it there, or give more --ram",
            )
    for piece in image.pieces:
        ram.write(piece.gpa, piece.data)


def flat_image(source: bytes, where: str, mode: str) -> Image:
    """A file without structure, loaded whole: at 0x7c00 for real mode, else at GUEST_GPA; entered at its first byte."""
    if not source:
        raise HostError("the file is empty", where)
    gpa = abi.REAL_MODE_GPA if mode == REAL else abi.GUEST_GPA
    size = -(-len(source) // abi.PAGE_SIZE) * abi.PAGE_SIZE
    rights = (Rights(gpa, size, True, True),) if mode == LONG else ()
    return Image(Entry(mode, gpa), (Piece(gpa, source, len(source)),), rights, source, where)
