"""Who may do what to a page, at every level of every kind of table: the engine's #PF against a model of the rules.

The model is written from the architecture (AMD64 Architecture Programmer's Manual, volume 2, page translation): an
entry that is absent or has a reserved bit ends the walk; of the others, each right must be granted at every level.
"""

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from emu import abi, exits, state
from emu.ram import Ram
from emu.vcpu.engine import Engine
from tests.assemble import assemble
from tests.vcpu.board import CODE, DATA, LONG0, PM32, SPAN, TABLES, Board, Flavour

P, W, U, NX = abi.PTE_PRESENT, abi.PTE_WRITABLE, abi.PTE_USER, abi.PTE_NX
FULL = P | W | U
LARGE = abi.PTE_LARGE
OWN = 0xA0000  # the tables of the walk under test; those of the board serve its code
BEYOND = 1 << 45  # above MAXPHYADDR
READ, WRITE, FETCH = "read", "write", "fetch"
CPL_0, CPL_3 = 0, 3


class Walk(NamedTuple):
    """A path through tables to DATA. `steps` are its entries, top first: (where, value, bits that are reserved)."""

    name: str
    bits: int
    linear: int
    steps: tuple[tuple[int, int, int], ...]
    wide: bool  # entries of 8 bytes, with NX
    cr4: int


def long_walk(name: str, depth: int, large_reserved: int = 0) -> Walk:
    """Four-level paging, `depth` levels of it used; the last entry is the leaf."""
    tables = (TABLES, OWN, OWN + 0x1000, OWN + 0x2000)
    linear = (1 << 39) + DATA
    steps = []
    for level in range(depth):
        at = tables[level] + 8 * (linear >> 39 - 9 * level & 511)
        leaf = level == depth - 1
        target = (DATA & -(1 << 39 - 9 * level)) if leaf else tables[level + 1]
        reserved = BEYOND | (LARGE if level == 0 else 0) | (large_reserved if leaf else 0)
        steps.append((at, target | FULL | (LARGE if leaf and depth < 4 else 0), reserved))
    return Walk(name, 64, linear, tuple(steps), True, abi.CR4_PAE | abi.CR4_OSFXSR)


def pae_walk(name: str, large: bool) -> Walk:
    """Three levels; the four entries at the top grant no rights and are not varied."""
    linear = 0x40000000 + DATA
    steps = [(OWN + 0x1000 + 8 * (linear >> 21 & 511), OWN + 0x2000 | FULL, BEYOND)]
    if large:
        steps = [(steps[0][0], DATA | FULL | LARGE, BEYOND | 1 << 13)]
    else:
        steps.append((OWN + 0x2000 + 8 * (linear >> 12 & 511), DATA | FULL, BEYOND))
    return Walk(name, 32, linear, tuple(steps), True, abi.CR4_PAE | abi.CR4_OSFXSR)


def two_level_walk(name: str, large: bool) -> Walk:
    linear = 0x40000000 + DATA
    steps = [(OWN + 4 * (linear >> 22), OWN + 0x1000 | FULL, 0)]
    if large:
        steps = [(steps[0][0], FULL | LARGE, 1 << 21)]
    else:
        steps.append((OWN + 0x1000 + 4 * (linear >> 12 & 1023), DATA | FULL, 0))
    return Walk(name, 32, linear, tuple(steps), False, abi.CR4_PSE | abi.CR4_OSFXSR)


WALKS = (
    long_walk("4K", 4),
    long_walk("2M", 3, 1 << 13),
    long_walk("1G", 2, 1 << 20),
    pae_walk("PAE 4K", False),
    pae_walk("PAE 2M", True),
    two_level_walk("two-level 4K", False),
    two_level_walk("two-level 4M", True),
)


def expected(walk: Walk, entries: list[int], cpl: int, access: str, wp: bool, nxe: bool) -> int | None:
    """The error code of the #PF that is due, or None where the access goes through."""
    nxe = nxe and walk.wide
    error = 2 * (access == WRITE) | 4 * (cpl == CPL_3) | 16 * (access == FETCH and nxe)
    writable = user = True
    executable = True
    for entry, (_, _, reserved) in zip(entries, walk.steps, strict=True):
        if not entry & P:
            return error
        if entry & reserved or (entry & NX and not nxe):
            return error | 9
        writable = writable and bool(entry & W)
        user = user and bool(entry & U)
        executable = executable and not entry & NX
    refused = (
        (cpl == CPL_3 and not user)
        or (access == WRITE and not writable and (cpl == CPL_3 or wp))
        or (access == FETCH and not executable)
    )
    return error | 1 if refused else None


def varied(walk: Walk, level: int) -> Iterator[list[int]]:
    """The entries of `walk` with every combination of the bits that matter at `level`."""
    _, full, reserved = walk.steps[level]
    optional = [bit for bit in (NX if walk.wide else 0, reserved & -reserved, reserved & BEYOND) if bit]
    for bits in itertools.product(*((0, bit) for bit in (P, W, U, *dict.fromkeys(optional)))):
        entries = [step[1] for step in walk.steps]
        entries[level] = full & ~FULL | sum(bits)
        yield entries


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Ram(2 * SPAN))


class Bench:
    """One board for all accesses of a walk; what they execute stands at CODE and, for fetches, at DATA."""

    def __init__(self, engine: Engine, walk: Walk) -> None:
        self.walk = walk
        flavour: Flavour = LONG0 if walk.bits == 64 else PM32
        code = assemble("mov al, [ebx]\nnop\nmov [ebx], al" if walk.bits == 32 else "mov al, [rbx]\nnop\nmov [rbx], al",
                        CODE, walk.bits)  # fmt: skip
        self.one = Board(engine, flavour, code)
        self.write_offset = code.index(b"\x90") + 1
        self.ram = engine.ram
        self.ram.write(DATA, b"\x90" * 16)
        self.ram.write(OWN, bytes(0x4000))
        if walk.bits == 64:
            self.cr3 = TABLES
        else:
            self.cr3 = OWN
            # The code is mapped as well, with all rights.
            if walk.wide:
                struct.pack_into("<QQ", self.ram.bytes, OWN, OWN + 0x3000 | P, OWN + 0x1000 | P)
                self.ram.store(OWN + 0x3000, 8, FULL | LARGE)
            else:
                self.ram.store(OWN, 4, FULL | LARGE)
        self.start = self.one.vcpu.state()

    def access(self, entries: list[int], cpl: int, access: str, wp: bool, nxe: bool) -> int | None:
        """Do it; the error code of its #PF, or None."""
        walk, size = self.walk, 8 if self.walk.wide else 4
        for (at, _, _), entry in zip(walk.steps, entries, strict=True):
            self.ram.store(at, size, entry)
        now = self.start
        long = walk.bits == 64
        segments = list(now.segments)
        if cpl == CPL_3:
            data = state.Segment(abi.SELECTOR_USER_DATA, 0xCF3, 0xFFFFFFFF, 0)
            code = (abi.SELECTOR_USER_CODE64, 0xAFB) if long else (abi.SELECTOR_USER_CODE32, 0xCFB)
            segments[:6] = [data, state.Segment(*code, 0xFFFFFFFF, 0), data, data, data, data]
        efer = (abi.EFER_LME | abi.EFER_LMA) * long | abi.EFER_NXE * nxe
        general = list(now.general)
        general[state.GENERAL.index("rbx")] = walk.linear
        general[state.GENERAL.index("rax")] = 0x90  # what a write leaves there is a NOP too
        rip = {READ: CODE, WRITE: CODE + self.write_offset, FETCH: walk.linear}[access]
        vcpu = self.one.vcpu
        vcpu.load(
            now._replace(
                general=tuple(general),
                rip=rip,
                segments=tuple(segments),
                cr0=now.cr0 & ~abi.CR0_WP | abi.CR0_PG | abi.CR0_WP * wp,
                cr3=self.cr3,
                cr4=walk.cr4,
                msrs=tuple(sorted({**dict(now.msrs), abi.MSR_EFER: efer}.items())),
            )
        )
        exit_ = vcpu.enter(1)
        if type(exit_) is exits.BudgetSpent:
            return None
        assert isinstance(exit_, exits.Fault) and (exit_.vector, exit_.address) == (abi.PF_VECTOR, walk.linear), exit_
        assert (exit_.rip, vcpu.used) == (rip, 0)
        return exit_.error


CASES = [(walk, level) for walk in WALKS for level in range(len(walk.steps))]


@pytest.mark.parametrize(("walk", "level"), CASES, ids=[f"{walk.name}-{level}" for walk, level in CASES])
def test_every_access_through_every_entry_is_judged_by_the_rules(engine: Engine, walk: Walk, level: int) -> None:
    bench = Bench(engine, walk)
    wrong, seen = [], set()
    situations = itertools.product((CPL_0, CPL_3), (READ, WRITE, FETCH), (False, True), (False, True))
    for cpl, access, wp, nxe in situations:
        for entries in varied(walk, level):
            found = bench.access(entries, cpl, access, wp, nxe)
            due = expected(walk, entries, cpl, access, wp, nxe)
            seen.add(due)
            leaf = bench.ram.load(walk.steps[-1][0], 8 if walk.wide else 4)
            dirty = bool(leaf & abi.PTE_DIRTY)
            if found != due or dirty != (due is None and access == WRITE):
                wrong.append((cpl, access, wp, nxe, hex(entries[level]), found, due, dirty))
    assert wrong == [], f"{len(wrong)} cases, the first: {wrong[:4]}"
    assert {None, 0, 2, 4, 6, 3, 5, 7} <= seen


@pytest.mark.parametrize("walk", WALKS, ids=[walk.name for walk in WALKS])
def test_an_access_that_goes_through_marks_every_entry_accessed(engine: Engine, walk: Walk) -> None:
    bench = Bench(engine, walk)
    assert bench.access([step[1] for step in walk.steps], CPL_3, READ, True, True) is None
    size = 8 if walk.wide else 4
    marks = [bench.ram.load(at, size) & (abi.PTE_ACCESSED | abi.PTE_DIRTY) for at, _, _ in walk.steps]
    assert marks == [abi.PTE_ACCESSED] * len(walk.steps)


def test_a_model_without_write_protection_would_be_noticed(engine: Engine) -> None:
    walk = WALKS[0]
    bench = Bench(engine, walk)
    entries = [step[1] for step in walk.steps]
    entries[-1] &= ~W
    assert bench.access(entries, CPL_0, WRITE, True, True) == 3 == expected(walk, entries, CPL_0, WRITE, True, True)
    assert (
        bench.access(entries, CPL_0, WRITE, False, True) is None is expected(walk, entries, CPL_0, WRITE, False, True)
    )
