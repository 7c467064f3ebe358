"""Nested paging: the host's own translation of guest-physical addresses, so that a page of them can stop the guest.

With it each address that the guest's tables give is looked up once more, in tables of the host's that no guest can
reach. An entry that is not present ends in a nested page fault (#VMEXIT code NPF) before the instruction has any
effect. Two things need that: the window of the local APIC, which is no memory, and pages that the host has taken away.
While neither is there it stays off: a miss in the TLB costs about two and a half times as much with it.

Everything is mapped where it stands, in the largest pages that serve; what is split stays split.

In Linux: arch/x86/kvm/mmu/tdp_mmu.c; npf_interception() in arch/x86/kvm/svm/svm.c.
"""

import struct

from emu import abi
from emu.ram import anonymous

# The engine takes physical addresses of 40 bits in entries of tables, so the tables stand below that. They hide
# themselves: what the guest names there leads to the gigabyte below, where there is nothing either.
TABLES_SIZE = 8 << 20
TABLES = (1 << abi.MAXPHYADDR) - TABLES_SIZE
REGISTERS = TABLES - abi.PAGE_SIZE  # where an access to the APIC's window goes when it is let through
_ENTRIES = 512
_GIB = 1 << 30
_LARGE = abi.LARGE_PAGE_SIZE
# Accessed and dirty from the start, so that the engine never writes here.
_LEAF = abi.PTE_PRESENT | abi.PTE_WRITABLE | abi.PTE_USER | abi.PTE_ACCESSED | abi.PTE_DIRTY
_LARGE_LEAF = _LEAF | abi.PTE_LARGE
_QUAD, _TABLE = struct.Struct("<Q"), struct.Struct(f"<{_ENTRIES}Q")


class NestedTables:
    """The tables, in memory that the engine maps at TABLES: `memory`. `root` is what nCR3 gets.

    `window` is the page of the APIC's registers, or None; `away` are the pages that are not there. Whoever changes
    either flushes the engine's TLB.
    """

    root = TABLES

    def __init__(self) -> None:
        self.memory = anonymous(TABLES_SIZE)
        self._free = 0
        self._split: dict[tuple[int, int], int] = {}
        self.window: int | None = None
        self._open = False
        self.away: set[int] = set()
        gigabytes = (1 << abi.MAXPHYADDR) // _GIB
        root = self._new_table()
        self._tops = [self._new_table() for _ in range(gigabytes // _ENTRIES)]
        for top, table in enumerate(self._tops):
            self._put(root, top, TABLES + table | _LEAF)
            first = top * _ENTRIES
            self._fill(table, [_place((first + entry) * _GIB) | _LARGE_LEAF for entry in range(_ENTRIES)])

    def set_window(self, gpa: int | None) -> None:
        """Let the page at `gpa` be the window, and what was the window before be memory again."""
        old, self.window = self.window, gpa
        self._open = False
        for page in (old, gpa):
            if page is not None:
                self._update(page)

    def open_window(self, open_: bool) -> None:
        """Let accesses to the window through to REGISTERS, or stop them again."""
        self._open = open_
        assert self.window is not None
        self._update(self.window)

    def take_away(self, page: int) -> None:
        """From now on an access to the page at guest-physical `page` stops the guest."""
        self.away.add(page)
        self._update(page)

    def bring_back(self, page: int) -> None:
        """The page is there again."""
        self.away.discard(page)
        self._update(page)

    def _update(self, page: int) -> None:
        if page == self.window:
            entry = REGISTERS | _LEAF if self._open else 0
        else:
            entry = 0 if page in self.away else _place(page) | _LEAF
        self._put(self._last_table(page), page // abi.PAGE_SIZE % _ENTRIES, entry)

    def _last_table(self, gpa: int) -> int:
        """The last table on the way to `gpa`; larger pages on the way there are split."""
        table = self._tops[gpa // _GIB // _ENTRIES]
        for size, part, leaf in ((_GIB, _LARGE, _LARGE_LEAF), (_LARGE, abi.PAGE_SIZE, _LEAF)):
            key = size, gpa // size
            below = self._split.get(key)
            if below is None:
                below = self._split[key] = self._new_table()
                base = _place(gpa // size * size)
                self._fill(below, [base + entry * part | leaf for entry in range(_ENTRIES)])
                self._put(table, gpa // size % _ENTRIES, TABLES + below | _LEAF)
            table = below
        return table

    def _new_table(self) -> int:
        table, self._free = self._free, self._free + abi.PAGE_SIZE
        if self._free > TABLES_SIZE:
            raise RuntimeError("there is no room for another table")
        return table

    def _put(self, table: int, entry: int, value: int) -> None:
        _QUAD.pack_into(self.memory, table + 8 * entry, value)

    def _fill(self, table: int, entries: list[int]) -> None:
        _TABLE.pack_into(self.memory, table, *entries)


def _place(gpa: int) -> int:
    """Where guest-physical `gpa` is in the engine's memory: there, but for what would lead to the tables."""
    return gpa - _GIB if gpa >> 30 == TABLES >> 30 else gpa


class Window:
    """What one instruction does with the registers behind an open window: it is answered, and what it stores is kept.

    `answers` are by offset and size; `asked` is a load that has none, whose instruction must be done again with it.
    """

    def __init__(self, answers: dict[tuple[int, int], int]) -> None:
        self.answers = answers
        self.asked: tuple[int, int] | None = None
        self.stored: list[tuple[int, int, int]] = []

    def load(self, offset: int, size: int) -> int:
        value = self.answers.get((offset, size))
        if value is None:
            if self.asked is None:
                self.asked = offset, size
            return (1 << 8 * size) - 1
        return value

    def store(self, offset: int, size: int, value: int) -> None:
        self.stored.append((offset, size, value & (1 << 8 * size) - 1))
