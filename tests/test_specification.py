"""The specification keeps its form: each promise numbered, sourced, and held by tests that exist; its table is true."""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from emu.devices.steal_time import StealTime
from emu.faults import GuestFault
from tests.devices.steal_time_promises import MSR, PROMISES, RAM, Bench

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "tutorials" / "steal-time.md").read_text(encoding="utf-8")
GROUPS = ["ST", "CP", "SC", "HM", "AB", "EN", "TR"]


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


ALL = promises(TEXT)


@functools.cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def exists(test: str) -> bool:
    path, _, name = test.partition("::")
    function, bracket, parameter = name.partition("[")
    if not (ROOT / path).is_file() or not function.startswith("test_") or function not in functions(ROOT / path):
        return False
    return not bracket or (function == "test_promise" and parameter.removesuffix("]") in PROMISES)


def test_numbers_are_unique_and_consecutive_in_each_group():
    assert list(dict.fromkeys(one.group for one in ALL)) == GROUPS
    for group in GROUPS:
        numbers = [one.number for one in ALL if one.group == group]
        assert numbers == list(range(1, len(numbers) + 1)), group


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.group}-{one.number}")
def test_promise_has_a_source_and_tests_that_exist(one: Promised):
    assert len(re.findall(r"^- Source: \S", one.body, re.MULTILINE)) == 1
    assert len(re.findall(r"^- Tests: `", one.body, re.MULTILINE)) == 1
    assert [test for test in one.tests if not exists(test)] == []
    assert len(one.tests) == one.body.count("`tests/") > 0


def test_every_promise_of_the_device_is_named():
    unnamed = {name for name in PROMISES if f"test_promise[{name}]" not in TEXT}
    assert unnamed <= {
        # These are about the device's own seams, which no guest can see.
        "request_is_consumed_where_nothing_can_be_stored",
        "run_delay_that_shrinks_takes_steal_backwards",
        "halves_carry_from_the_low_store_into_the_high_one",
        "update_that_ends_early_neither_loses_time_nor_tells_it_twice",
        "wrmsr_or_reset_between_two_stores_ends_the_update",
        "refused_wrmsr_between_two_stores_lets_the_update_go_on",
        "update_counts_with_its_last_store",
    }


@pytest.mark.parametrize(
    "test",
    [
        "tests/test_machine.py::test_no_such_thing",
        "tests/no_such_file.py::test_promise",
        "tests/test_accounting.py::waited_ns",
        "tests/devices/test_steal_time.py::test_promise[no_such_promise]",
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
