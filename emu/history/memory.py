"""What a guest's RAM held at many moments: for each of them the pages that differ from the first.

A page's content is kept once, however many moments share it, so that memory grows by changed pages alone. What has
changed is found by comparing with a copy, which costs the engine nothing while it runs; or, where somebody keeps the
pages that are stored to, by comparing those.

In Linux: KVM's dirty log, Documentation/virt/kvm/api.rst, KVM_GET_DIRTY_LOG, answers the same question.
"""

import ctypes
import os
from collections.abc import Callable, Iterable, Mapping

from emu import abi
from emu.ram import Ram, anonymous

Pages = Mapping[int, bytes]
_SLICE = 128 << 10  # looked through page by page where it differs
_memcmp = ctypes.CDLL("msvcrt" if os.name == "nt" else None).memcmp  # bytes would have to be copied to be compared
_memcmp.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t


class Memory:
    """The content of `ram` now is the first; `keep` and `restore` name moments by their Pages.

    `written` gives the pages that were stored to since it was asked last, all but page tables that emu has laid out; or
    None where that is not known.
    """

    def __init__(self, ram: Ram, written: Callable[[], Iterable[int] | None] | None = None) -> None:
        self._ram = ram
        self._written = written
        self._copy = anonymous(ram.size)  # what RAM held when it was looked at last
        self._addresses = [ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (ram.bytes, self._copy)]
        self._first: dict[int, bytes] = {}  # of every page that ever differed
        self._now: dict[int, bytes] = {}  # where it differs from the first
        blank = bytes(_SLICE)
        for at in range(0, ram.size, _SLICE):
            found = ram.bytes[at : at + _SLICE]
            if found != blank[: len(found)]:
                self._copy[at : at + len(found)] = found
        tables = range(abi.PAGE_TABLES_GPA, abi.PAGE_TABLES_END_GPA, abi.PAGE_SIZE)
        used = [at for at in tables if ram.bytes[at : at + abi.PAGE_SIZE] != blank[: abi.PAGE_SIZE]]
        self._tables_end = used[-1] + abi.PAGE_SIZE if used else abi.PAGE_TABLES_GPA

    def keep(self, *, look: bool = True) -> Pages:
        """The pages that differ now from the first content, by their numbers.

        `look` is false where nothing can have changed since the last call.
        """
        if look:
            self._look()
        return dict(self._now)

    @property
    def size(self) -> int:
        """Of RAM, in bytes."""
        return self._ram.size

    def content(self, pages: Pages, page: int) -> bytes:
        """What a page held when `keep` gave these."""
        found = pages.get(page)
        return self._first_of(page) if found is None else found

    def with_content(self, pages: Pages, gpa: int, content: bytes) -> Pages:
        """These pages, but with this at an address; it lies within one page."""
        page, offset = divmod(gpa, abi.PAGE_SIZE)
        before = self.content(pages, page)
        after = before[:offset] + content + before[offset + len(content) :]
        if after == before:
            return pages
        found = {**pages, page: after}
        if after == self._first_of(page):
            del found[page]
        return found

    def stored(self, gpa: int, size: int) -> None:
        """Since it was looked at last, RAM can have changed here alone."""
        self._note_changed(gpa // abi.PAGE_SIZE * abi.PAGE_SIZE, gpa + size)

    def restore(self, pages: Pages, *, look: bool = True) -> None:
        """Make RAM hold what it held when `keep` gave these pages; only what differs is written. `look` as for keep."""
        if look:
            self._look()
        for page in {*self._now, *pages}:
            first = self._first_of(page)
            content = pages.get(page, first)
            if self._now.get(page, first) != content:
                self._ram.write(page * abi.PAGE_SIZE, content)
                self._note(page, content)

    def _look(self) -> None:
        written = None if self._written is None else self._written()
        if written is None:
            self._compare(0, self._ram.size)
            return
        # Even in these tables the processor marks entries that it goes by.
        self._compare(abi.PAGE_TABLES_GPA, self._tables_end)
        for page in written:
            self._note_changed(page * abi.PAGE_SIZE, (page + 1) * abi.PAGE_SIZE)

    def _compare(self, first: int, last: int) -> None:
        ram, copy = self._addresses
        for at in range(first, last, _SLICE):
            end = min(at + _SLICE, last)
            if _memcmp(ram + at, copy + at, end - at):
                self._note_changed(at, end)

    def _note_changed(self, first: int, end: int) -> None:
        """Note the pages from `first`, where one begins, to `end` that are not what they were."""
        for at in range(first, end, abi.PAGE_SIZE):
            content = self._ram.bytes[at : at + abi.PAGE_SIZE]
            if content != self._copy[at : at + abi.PAGE_SIZE]:
                self._note(at // abi.PAGE_SIZE, content)

    def _note(self, page: int, content: bytes) -> None:
        at = page * abi.PAGE_SIZE
        if content == self._first_of(page):
            self._now.pop(page, None)
        else:
            self._now[page] = content
        self._copy[at : at + abi.PAGE_SIZE] = content

    def _first_of(self, page: int) -> bytes:
        found = self._first.get(page)
        if found is None:
            # One that never differed here may yet be of a moment of another machine made alike.
            at = page * abi.PAGE_SIZE
            found = self._first[page] = self._copy[at : at + abi.PAGE_SIZE]
        return found
