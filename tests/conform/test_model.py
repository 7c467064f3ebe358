"""The emulator does what the model says, and the model is a judge of its own."""

import ast
import collections
from pathlib import Path

import pytest

from emu.conform import campaign, generate, model
from emu.conform.compare import Slack, difference
from emu.conform.emulator import Emulator
from emu.conform.engine import EngineEmulator
from emu.conform.expect import RunDelay, expect
from emu.conform.text import parse_sequence
from emu.conform.verdict import Bench


def test_model_imports_nothing_but_the_numbers():
    tree = ast.parse(Path(model.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"collections.abc", "typing", "emu"}
    assert [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module == "emu"
    ] == ["abi"]


@pytest.mark.parametrize("seed", [1, 2])
def test_emulator_agrees_with_the_model_on_thousands_of_sequences(seed: int):
    report = campaign.run(seed, 8000, kvm=False)
    assert report.findings == [] and report.sequences == 8000 and report.engine == 16


def test_engine_agrees_with_the_model_on_a_sample():
    engine = EngineEmulator()
    for index in range(1000):
        sequence = generate.sequence(3, index)
        assert difference(sequence, expect(sequence, RunDelay()), engine.sequence(sequence)) is None


def test_random_sequences_reach_every_register_and_both_answers():
    answers: dict[int, set[str]] = {}
    for index in range(3000):
        sequence = generate.sequence(1, index)
        assert 1 <= len(sequence) <= generate.MOST_OPERATIONS
        for operation, outcome in zip(sequence, expect(sequence, RunDelay()).outcomes, strict=True):
            if type(operation).__name__ == "Wrmsr":
                answers.setdefault(operation.msr, set()).add(type(outcome).__name__)
    for msr, rule in model.TABLE.items():
        assert answers[msr] == ({"Done", "Refused"} if rule.reserved else {"Done"}), hex(msr)
    assert set(model.SAME_REGISTER) <= set(answers)


def test_random_sequences_return_to_every_register_and_meet_junk(monkeypatch: pytest.MonkeyPatch):
    found: dict[str, list[int]] = {}
    step_version = model.Model._step_version

    def looks(self: model.Model, gpa: int, kind: str) -> None:
        found.setdefault(kind, []).append(self._get(gpa, 4) & 1)
        step_version(self, gpa, kind)

    monkeypatch.setattr(model.Model, "_step_version", looks)
    accepted, read = collections.Counter[int](), collections.Counter[int]()
    for index in range(3000):
        sequence = generate.sequence(2, index)
        written = set()
        for operation, outcome in zip(sequence, expect(sequence, RunDelay()).outcomes, strict=True):
            if type(operation).__name__ == "Wrmsr" and type(outcome).__name__ == "Done":
                accepted[operation.msr] += 1
                written.add(model.SAME_REGISTER.get(operation.msr, operation.msr))
            elif type(operation).__name__ == "Rdmsr":
                read[operation.msr] += model.SAME_REGISTER.get(operation.msr, operation.msr) in written
    numbers = {*model.TABLE, *model.SAME_REGISTER}
    assert {hex(msr) for msr in numbers if accepted[msr] < 150 or read[msr] < 20} == set()
    assert set(found) == {model.VERSION, model.CLOCK_VERSION}
    assert all(sum(odd) > len(odd) / 40 for odd in found.values())


def test_random_sequences_are_the_same_on_every_python():
    from emu.conform.text import format_sequence

    assert format_sequence(generate.sequence(7, 0)) == EXPECTED_7_0
    assert generate.sequence(7, 0) == generate.sequence(7, 0) != generate.sequence(8, 0)


EXPECTED_7_0 = "reenter; wrmsr PV_EOI_EN 0x0; rdmsr PV_EOI_EN; store 0x200008 0x2 4"


# --- what slack allows ---


@pytest.mark.parametrize(
    ("found", "slack", "agrees"),
    [
        (4, Slack(), True),
        (6, Slack(), False),
        (6, Slack(0, 1, 0), True),
        (8, Slack(0, 1, 0), False),
        (5, Slack(0, 9, 0), False),
        (2, Slack(0, 9, 0), False),
    ],
)
def test_version_may_be_ahead_by_counted_updates_alone(found: int, slack: Slack, agrees: bool):
    sequence = parse_sequence("wrmsr STEAL_TIME 0x200001; reenter")
    expected, observed = expect(sequence, RunDelay()), Emulator().sequence(sequence)
    page = bytearray(observed.memory[1])
    page[8:12] = found.to_bytes(4, "little")
    altered = observed._replace(memory=(observed.memory[0], bytes(page), observed.memory[2]))
    assert (difference(sequence, expected, altered, slack) is None) is agrees


@pytest.mark.parametrize(("more", "agrees"), [(0, True), (50, True), (51, False), (-1, False)])
def test_steal_may_be_ahead_by_the_run_delay_that_accrued(more: int, agrees: bool):
    sequence = parse_sequence("wrmsr STEAL_TIME 0x200001; reenter; load 0x200000 8")
    expected, observed = expect(sequence, RunDelay()), Emulator().sequence(sequence)
    outcome = observed.outcomes[2]
    observed.outcomes[2] = outcome._replace(value=outcome.value + more)
    assert (difference(sequence, expected, observed, Slack(50)) is None) is agrees


def test_any_other_byte_must_be_equal():
    sequence = parse_sequence("wrmsr STEAL_TIME 0x200001; reenter")
    expected, observed = expect(sequence, RunDelay()), Emulator().sequence(sequence)
    for at in (12, 17, 63, 64, 4096):
        page = bytearray(observed.memory[1])
        page[at] ^= 1
        altered = observed._replace(memory=(observed.memory[0], bytes(page), observed.memory[2]))
        assert difference(sequence, expected, altered, Slack(10**9, 100, 100)) is not None


def test_own_error_of_a_device_is_a_disagreement_and_no_crash(monkeypatch: pytest.MonkeyPatch):
    from emu.devices.poll_control import PollControl

    monkeypatch.setattr(PollControl, "wrmsr", lambda self, msr, value: 1 // 0)
    found = Bench(kvm=False).judge(parse_sequence("wrmsr POLL_CONTROL 1")).disagreements
    assert [one.judge for one in found] == ["emulator"] and "ZeroDivisionError" in found[0].difference.found
