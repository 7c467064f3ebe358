"""From a linear address to a guest-physical one: the page walk a processor does, done by the host for its own use.

Four-level, PAE and two-level tables. Only presence is looked at, not rights: this serves decoding, delivery and
inspection, while the engine itself judges the guest's accesses.

In Linux: FNAME(walk_addr_generic) in arch/x86/kvm/mmu/paging_tmpl.h.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from emu import abi
from emu.ram import Ram

GIVEN_TABLES = frozenset(range(abi.PAGE_TABLES_GPA // abi.PAGE_SIZE, abi.PAGE_TABLES_END_GPA // abi.PAGE_SIZE))  # pages
_FRAME = 0x000F_FFFF_FFFF_F000
_QUAD = struct.Struct("<Q")
_WORD = struct.Struct("<I")


class Paging(NamedTuple):
    """The registers that decide how addresses are translated."""

    cr0: int
    cr3: int
    cr4: int
    long: bool


def translate(ram: Ram, paging: Paging, linear: int) -> int | None:
    """The guest-physical address of `linear`, or None where no mapping is present."""
    if not paging.cr0 & abi.CR0_PG:
        return linear & 0xFFFFFFFF
    if not paging.cr4 & abi.CR4_PAE:
        return _walk_two_level(ram, paging, linear)
    if paging.long:
        table = paging.cr3 & _FRAME
        shifts: tuple[int, ...] = (39, 30, 21, 12)
    else:
        linear &= 0xFFFFFFFF
        root = (paging.cr3 & 0xFFFFFFE0) + 8 * (linear >> 30)
        if not ram.holds(root, 8):
            return None
        entry: int = _QUAD.unpack_from(ram.bytes, root)[0]
        if not entry & abi.PTE_PRESENT:
            return None
        table, shifts = entry & _FRAME, (21, 12)
    for shift in shifts:
        at = table + 8 * (linear >> shift & 511)
        if not ram.holds(at, 8):
            return None
        entry = _QUAD.unpack_from(ram.bytes, at)[0]
        if not entry & abi.PTE_PRESENT:
            return None
        if shift == 12 or entry & abi.PTE_LARGE and shift < 39:
            offset = (1 << shift) - 1
            return entry & _FRAME & ~offset | linear & offset
        table = entry & _FRAME
    return None


def _walk_two_level(ram: Ram, paging: Paging, linear: int) -> int | None:
    linear &= 0xFFFFFFFF
    at = (paging.cr3 & 0xFFFFF000) + 4 * (linear >> 22)
    if not ram.holds(at, 4):
        return None
    entry: int = _WORD.unpack_from(ram.bytes, at)[0]
    if not entry & abi.PTE_PRESENT:
        return None
    if entry & abi.PTE_LARGE and paging.cr4 & abi.CR4_PSE:
        return entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32 | linear & 0x3FFFFF
    at = (entry & 0xFFFFF000) + 4 * (linear >> 12 & 1023)
    if not ram.holds(at, 4):
        return None
    entry = _WORD.unpack_from(ram.bytes, at)[0]
    if not entry & abi.PTE_PRESENT:
        return None
    return entry & 0xFFFFF000 | linear & 0xFFF


def table_pages(ram: Ram, paging: Paging) -> list[int]:
    """The numbers of the pages of RAM in which the tables lie that addresses are translated by; none without paging."""
    if not paging.cr0 & abi.CR0_PG:
        return []
    long, wide = paging.long, bool(paging.cr4 & abi.CR4_PAE)
    levels, size = (4, 8) if long else (3, 8) if wide else (2, 4)
    root = paging.cr3 & (_FRAME if long else 0xFFFFFFE0 if wide else 0xFFFFF000)
    count = 4 if wide and not long else abi.PAGE_SIZE // size
    todo, seen = [(root, levels, count)], set()
    while todo:
        table, level, count = todo.pop()
        if (table, level) in seen or not ram.holds(table, count * size):
            continue
        seen.add((table, level))
        for at in range(table, table + count * size, size) if level > 1 else ():
            entry = int.from_bytes(ram.bytes[at : at + size], "little")
            if entry & abi.PTE_PRESENT and not (entry & abi.PTE_LARGE and level < 4):
                todo.append((entry & (_FRAME if wide or long else 0xFFFFF000), level - 1, abi.PAGE_SIZE // size))
    return sorted({table // abi.PAGE_SIZE for table, _ in seen})


def read_linear(ram: Ram, paging: Paging, linear: int, size: int) -> bytes:
    """Up to `size` bytes from `linear`; shorter where a page is missing or not RAM."""
    found = b""
    for gpa, part in mapped(ram, paging, linear, size):
        if not ram.holds(gpa, part):
            break
        found += ram.bytes[gpa : gpa + part]
    return found


def mapped(ram: Ram, paging: Paging, linear: int, size: int) -> Iterator[tuple[int, int]]:
    """Where these bytes are, page by page: guest-physical address and size, as far as pages are present."""
    while size > 0:
        gpa = translate(ram, paging, linear)
        if gpa is None:
            return
        part = min(size, abi.PAGE_SIZE - linear % abi.PAGE_SIZE)
        yield gpa, part
        linear, size = linear + part, size - part


def write_linear(ram: Ram, paging: Paging, linear: int, data: bytes) -> bool:
    """Store `data` at `linear`; False, with nothing stored, where a page is missing or not RAM."""
    parts = []
    while data:
        gpa = translate(ram, paging, linear)
        size = min(len(data), abi.PAGE_SIZE - linear % abi.PAGE_SIZE)
        if gpa is None or not ram.holds(gpa, size):
            return False
        parts.append((gpa, data[:size]))
        linear, data = linear + size, data[size:]
    for gpa, part in parts:
        ram.write(gpa, part)
    return True
