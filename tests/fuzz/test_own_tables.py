"""A kernel as a user brings it, fuzzed: page tables of its own, linked for the upper half."""

import random
from pathlib import Path

import pytest

from emu import toolchain
from emu.compiler import find_compiler
from emu.explore import runner
from emu.explore.cause import cause
from emu.explore.evidence import evidence
from emu.explore.instance import Instance, read_of
from emu.explore.search import PROVED, Search
from emu.faults import HostError
from emu.fuzz.coverage import as_drcov
from emu.fuzz.harness import Harness
from emu.fuzz.records import HOSTS, ODD_HOST, encode
from emu.fuzz.sweep import families
from emu.fuzz.target import Target, target_of
from emu.guest import load_guest
from emu.history.memory import Memory
from emu.vcpu import bare, written
from tests import upper_half
from tests.explore.readers import ALL
from tests.explore.test_written import Both
from tests.fuzz.test_harness import needs_c, some_inputs

KINDS = ("declared", "marked")
_READER = """
#include "reader.h"

static uint64_t reader(shared_area *area)
{
    uint32_t version;
    uint64_t steal;
    do {
        version = area->version;
        barrier();
        steal = area->steal;
        barrier();
    } while (version & 1 || version != area->version);
    return steal;
}
"""
_SHORT = """
#define UPPER 0x80000000u
static uint32_t top[1024] __attribute__((aligned(4096)));
static uint32_t low[1024] __attribute__((aligned(4096)));

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    for (uint32_t i = 0; i < 1024; i++)
        low[i] = i << 12 | 3;
    for (uint32_t i = 1; i < 4; i++)
        top[i] = top[512 + i] = i << 22 | 0x83;
    top[0] = top[512] = (uint32_t)low | 3;
    uint32_t cr;
    __asm__ volatile("mov %0, cr4\\n or %0, 0x10\\n mov cr4, %0\\n"
                     "mov cr3, %1\\n mov %0, cr0\\n or %0, 0x80000000\\n mov cr0, %0"
                     : "=&r"(cr) : "r"(top) : "memory");
    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[cpu]);
    for (int i = 0; i < READS; i++)
        marked_read((shared_area *)((uint32_t)&steal_areas[cpu] + UPPER));
    return EXIT_PASS;
}
"""

_EXTENDED = """
#define UPPER 0xffff800000000000ull
static uint64_t directories[512] __attribute__((aligned(4096))), pages[512] __attribute__((aligned(4096)));

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    uint64_t *top;
    __asm__ volatile("mov %0, cr3" : "=r"(top));
    for (uint64_t i = 0; i < 512; i++)
        pages[i] = i << 21 | 0x83;
    directories[0] = (uint64_t)pages | 3;
    top[256] = (uint64_t)directories | 3;
    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[cpu]);
    for (int i = 0; i < READS; i++) {
        marked_read((shared_area *)((uint64_t)&steal_areas[cpu] + UPPER));
        *(volatile uint64_t *)(UPPER + 0x200000 * i + 0x1f0000) = i; // a page of its own, dirty from now on
    }
    return EXIT_PASS;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernel")


def target(folder: Path, kind: str, host: str = ODD_HOST, *, checks: bool = True) -> Target:
    image = load_guest(upper_half.build(find_compiler(), folder, checks=checks, marks=kind == "marked"))
    return Target(image, image.where, host, read="" if kind == "marked" else "steal_clock")


@pytest.mark.parametrize("kind", KINDS)
def test_right_kernel_never_fails_and_the_wrong_one_soon_does(kind: str, folder: Path) -> None:
    short = families(ODD_HOST, 6)
    inputs = [encode(one) for family in short for one in family.inputs if family.size < 2000]
    good, bad = Harness(target(folder, kind)), Harness(target(folder, kind, checks=False))
    assert len(inputs) > 1000 and not any(map(good.fails, inputs))
    assert not good.exactly  # nothing about it needs a closer look
    found = [failure for failure in map(bad.fails, inputs) if failure is not None]
    assert {one.oracle for one in found} == {"current"}
    confirmed = bad.confirmed(next(data for data in inputs if bad.fails(data)))
    assert confirmed is not None and confirmed[0].oracle == "current"


def test_cause_of_an_unmarked_read_right_after_registration_is_told(folder: Path) -> None:
    image = target(folder, "declared", checks=False).image
    instance = Instance(image, updates=1, read=read_of(image, "steal_clock"), properties=frozenset({"current"}))
    found = Search(instance).run().found
    assert found is not None
    history = evidence(instance, found, "bad", lambda name: None).history("bad")
    said = cause(history, found, lambda place: place.startswith("bad.c"))
    assert said.text.startswith("version is not loaded again after steal") and said.place.startswith("bad.c:")


@needs_c
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_in_c_and_in_python_are_the_same(
    kind: str, host: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = Harness(target(folder, kind, host))
    monkeypatch.setattr(bare.native, "library", lambda: None)
    slow = Harness(target(folder, kind, host))
    for data in some_inputs(20):
        assert fast.run(data) == slow.run(data)
        assert fast.fails(data) == slow.fails(data)
        assert bytes(fast.map) == bytes(slow.map)


@pytest.mark.parametrize("kind", KINDS)
def test_page_tables_are_taken_back_and_the_order_does_not_matter(kind: str, folder: Path) -> None:
    one = Harness(target(folder, kind))
    assert one._bare is not None
    ram, tables = one._machine.ram, list(one._bare._tables)
    assert len(tables) == 3

    def after(data: bytes) -> tuple[object, list[bytes]]:
        return one.run(data), [bytes(ram.bytes[page << 12 : page + 1 << 12]) for page in tables]

    inputs = some_inputs(60, seed=2)
    found = [after(data) for data in inputs]
    assert one._bare.whole()
    # The processor has marked entries that it went by: what is to be taken back is more than was stored to.
    assert found[0][1] != [bytes(one._bare._clean[page << 12 : page + 1 << 12]) for page in tables]
    order = list(range(len(inputs)))
    random.Random(3).shuffle(order)
    assert {number: after(inputs[number]) for number in order} == dict(enumerate(found))


def test_coverage_names_a_module_for_each_part(folder: Path) -> None:
    one = Harness(target(folder, "declared"))
    one.run(b"")
    told = as_drcov(one.target.image, "kernel", one.blocks())
    head, _, rest = told.partition(b" bbs\n")
    lines = head.decode().splitlines()
    assert "Module Table: version 2, count 2" in lines
    assert any(line.startswith("1, 0xffffffff80200000, ") for line in lines)
    modules = {int.from_bytes(rest[at + 6 : at + 8], "little") for at in range(0, len(rest), 8)}
    assert len(rest) == 8 * int(lines[-1].split()[-1]) and modules == {0, 1}


def test_two_levels_with_pages_of_four_mebibytes_are_tables_too(folder: Path) -> None:
    source, program = folder / "short32.c", folder / "short32.elf"
    source.write_text(_READER + _SHORT, encoding="utf-8")
    toolchain.build(source, program, bits=32)
    image = load_guest(program)
    assert Search(Instance(image, updates=1, properties=ALL)).run().verdict == PROVED
    one = Harness(Target(image, "short32"))
    assert one._bare is not None and len(one._bare._tables) == 2
    assert not any(map(one.fails, some_inputs(100))) and not one.exactly
    assert one._bare.whole()


def test_tables_that_were_given_and_are_extended_are_a_guests_own(folder: Path) -> None:
    source, program = folder / "extended.c", folder / "extended.elf"
    source.write_text(_READER + _EXTENDED, encoding="utf-8")
    toolchain.build(source, program)
    image = load_guest(program)
    instance = Instance(image, updates=1, halves=True, properties=ALL)
    found = Search(instance).run()
    assert found.verdict == PROVED
    assert Search(instance, jobs=2).run() == found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Memory", lambda ram, written=None: Memory(ram))
        assert Search(instance).run() == found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Memory", Both)
        Both.missed = 0
        assert Search(instance).run() == found and not Both.missed
        patch.setattr(written, "GIVEN_TABLES", frozenset())
        Search(instance).run()
        assert Both.missed  # the bits in the new tables
    one = Harness(Target(image, "extended"))
    assert one._bare is not None and len(one._bare._tables) > 3
    assert not any(map(one.fails, some_inputs(100))) and not one.exactly
    assert one._bare.whole()


def test_kernel_that_is_big_and_slow_to_start_gets_the_memory_and_the_time_it_needs(folder: Path) -> None:
    path = upper_half.build(find_compiler(), folder, checks=False, big=True)
    target = target_of({"guest": str(path), "read": "steal_clock"})
    assert target.config().ram == 17 << 20
    one = Harness(target)
    short = [encode(given) for family in families(ODD_HOST, 6)[:3] for given in family.inputs]
    assert "current" in {failure.oracle for failure in map(one.fails, short) if failure is not None}
    assert target_of({"guest": str(path), "ram": "32M"}).config().ram == 32 << 20
    with pytest.raises(HostError, match="--ram: '3M' cannot be used: must be a whole number"):
        target_of({"guest": str(path), "ram": "3M"})
