"""The specification keeps its form: each promise numbered, sourced, and held by tests that exist; its table is true."""

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from emu.conform import specification
from emu.devices.steal_time import StealTime
from emu.faults import GuestFault
from tests.devices.steal_time_promises import MSR, RAM, Bench

ROOT = Path(__file__).parent.parent
TEXTS = {name: (ROOT / "tutorials" / name).read_text(encoding="utf-8") for name in specification.DOCUMENTS}
TEXT = TEXTS["steal-time.md"]
GROUPS = {
    "steal-time.md": ["ST", "CP", "SC", "HM", "AB", "EN", "TR"],
    "paravirtual-family.md": ["WC", "CK", "AP", "EO", "PC", "MC", "TF", "HC", "EF", "RS"],
    "interrupts-and-paging.md": ["LA", "TI", "PR", "IP", "SL", "PG", "XC", "XT"],
}
# Tests that are parametrized by the names of promises, and where those names are.
BY_PROMISE = {
    "tests/devices/test_steal_time.py::test_promise": ("steal_time_promises", "PROMISES"),
    "tests/devices/test_async_pf.py::test_promise": ("async_pf_promises", "promises"),
    "tests/devices/test_kvmclock.py::test_wall_clock_promise": ("kvmclock_promises", "wall_promises"),
    "tests/devices/test_kvmclock.py::test_system_time_promise": ("kvmclock_promises", "time_promises"),
    "tests/devices/test_pv_eoi.py::test_promise": ("test_pv_eoi", "promises"),
    "tests/devices/test_tlb_flush.py::test_promise": ("test_tlb_flush", "promises"),
    "tests/devices/test_hypercalls.py::test_promise": ("test_hypercalls", "promises"),
    "tests/devices/test_ipi.py::test_promise": ("test_ipi", "promises"),
    "tests/devices/test_xapic.py::test_promise": ("test_xapic", "promises"),
}
NAMED = {"tests/devices/test_poll_control.py::test_device_breaks_no_promise": {"poll", "migration"}}


class Promised(NamedTuple):
    """One promise as it stands in the document."""

    group: str
    number: int
    title: str
    body: str

    @property
    def tests(self) -> list[str]:
        return re.findall(r"`(tests/[^`]+::[^`]+)`", self.body)


def promises(text: str) -> list[Promised]:
    parts = re.split(r"^#{2,3} (.*)$", text, flags=re.MULTILINE)
    found = []
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        if numbered := re.fullmatch(r"([A-Z]{2})-(\d+) (.+)", heading):
            found.append(Promised(numbered[1], int(numbered[2]), numbered[3], body))
    return found


ALL = [one for text in TEXTS.values() for one in promises(text)]


@functools.cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def parameters(test: str) -> set[str]:
    """The parameters of a test that may be named in a document."""
    if test in BY_PROMISE:
        module, name = BY_PROMISE[test]
        return set(getattr(importlib.import_module(f"tests.devices.{module}"), name))
    return NAMED.get(test, set())


def exists(test: str) -> bool:
    whole, bracket, parameter = test.partition("[")
    path, _, function = whole.partition("::")
    if not (ROOT / path).is_file() or not function.startswith("test_") or function not in functions(ROOT / path):
        return False
    return not bracket or parameter.removesuffix("]") in parameters(whole)


@pytest.mark.parametrize("document", TEXTS)
def test_groups_are_headings_with_their_letters(document):
    assert list(dict.fromkeys(one.group for one in promises(TEXTS[document]))) == GROUPS[document]
    assert re.findall(r"^## ([A-Z]{2}): \S", TEXTS[document], re.MULTILINE) == GROUPS[document]


def test_numbers_are_unique_and_consecutive_in_each_group():
    groups = [group for each in GROUPS.values() for group in each]
    assert len(set(groups)) == len(groups)
    for group in groups:
        numbers = [one.number for one in ALL if one.group == group]
        assert numbers == list(range(1, len(numbers) + 1)), group


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.group}-{one.number}")
def test_promise_has_a_source_and_tests_that_exist(one: Promised):
    assert len(re.findall(r"^- Source: \S", one.body, re.MULTILINE)) == 1
    assert len(re.findall(r"^- Tests: `", one.body, re.MULTILINE)) == 1
    assert [test for test in one.tests if not exists(test)] == []
    assert len(one.tests) == one.body.count("`tests/") > 0


def test_command_reads_what_is_written():
    read = specification.specification()
    assert [(one.number, one.sentence, list(one.tests)) for one in read] == [
        (f"{one.group}-{one.number}", one.title, one.tests) for one in ALL
    ]


def test_every_promise_of_a_device_is_named():
    named = {test for one in ALL for test in one.tests}
    unnamed = {name for test in BY_PROMISE for name in parameters(test) if f"{test}[{name}]" not in named}
    assert unnamed == {
        # These are about the devices' own seams, which no guest can see.
        "request_is_consumed_where_nothing_can_be_stored",
        "run_delay_that_shrinks_takes_steal_backwards",
        "update_that_ends_early_neither_loses_time_nor_tells_it_twice",
        "wrmsr_or_reset_between_two_stores_ends_the_update",
        "refused_wrmsr_between_two_stores_lets_the_update_go_on",
        "update_counts_with_its_last_store",
        "wrmsr_between_two_stores_ends_the_update",
        "wrmsr_or_reset_between_two_stores_ends_the_update_of_time",
        "another_msr_is_refused",
    }


@pytest.mark.parametrize(
    "test",
    [
        "tests/test_machine.py::test_no_such_thing",
        "tests/no_such_file.py::test_promise",
        "tests/test_accounting.py::waited_ns",
        "tests/devices/test_steal_time.py::test_promise[no_such_promise]",
        "tests/devices/test_ipi.py::test_promise[registration_wakes_all]",
        "tests/devices/test_poll_control.py::test_device_breaks_no_promise[pv-eoi]",
        "tests/test_interrupts.py::test_interrupt_without_eoi_holds_its_class[1]",
    ],
)
def test_missing_test_is_noticed(test):
    assert not exists(test)


VALUES = re.findall(r"^\| (0x[0-9a-f]+) \| ([^|]+) \| ([^|]+) \|", TEXT, re.MULTILINE)


def outcome(value: int, profile: str) -> str:
    """What a WRMSR of `value` comes to, in the table's words."""
    bench = Bench(StealTime, profile)
    try:
        bench.device.wrmsr(MSR, value)
    except GuestFault as fault:
        assert (fault.vector, fault.error, bench.device.rdmsr(MSR)) == (13, 0, 0)
        return "#GP"
    assert bench.device.rdmsr(MSR) == value
    stores = bench.update(5)
    if stores:
        assert bench.ram.count(0) == RAM - 2
        return "enabled"
    return "never written" if value & 1 else "disabled"


@pytest.mark.parametrize(("value", "today", "of_2011"), VALUES, ids=lambda cell: cell.strip())
def test_value_does_what_the_table_says(value, today, of_2011):
    assert outcome(int(value, 16), "kvm") == today.strip()
    assert outcome(int(value, 16), "kvm-2011") == of_2011.strip()


def test_table_of_values_is_there():
    assert len(VALUES) == 13
