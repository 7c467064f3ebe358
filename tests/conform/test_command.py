"""`emu conform`: its tables, statuses and errors."""

import json
import re
from pathlib import Path

import pytest

from emu.__main__ import main
from emu.conform import promises
from emu.kvm.system import missing
from tests.conform.test_slips import SLIPS

SPECIFICATION = Path(__file__).parent.parent.parent / "tutorials" / "steal-time.md"


def test_promises_are_those_of_the_document():
    titles = dict(re.findall(r"^### ([A-Z]{2}-\d+) (.+)$", SPECIFICATION.read_text(encoding="utf-8"), re.MULTILINE))
    for promise in promises.PROMISES:
        assert titles[promise.number] == promise.sentence


def test_without_arguments_the_table_of_promises_is_shown(capsys: pytest.CaptureFixture[str]):
    assert main(["conform", "--judge", "none"]) == 0
    shown = capsys.readouterr().out
    for promise in promises.PROMISES:
        assert f"{promise.number} " in shown and promise.sentence in shown
    assert "KVM was not asked" in shown


def test_random_sequences_agree_and_are_counted(capsys: pytest.CaptureFixture[str]):
    assert main(["conform", "--random", "700", "--seed", "3", "--judge", "none", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sequences"] == 700 and found["findings"] == [] and found["agree"] is True


def test_disagreement_is_status_1_and_can_be_run_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    SLIPS["POLL_CONTROL takes any bit"](monkeypatch)
    assert main(["conform", "--random", "3000", "--judge", "none"]) == 1
    sequence = re.search(r"emu conform --sequence '(.+)'", capsys.readouterr().out)
    assert sequence is not None
    assert main(["conform", "--judge", "none", "--sequence", sequence[1]]) == 1
    monkeypatch.undo()
    assert main(["conform", "--judge", "none", "--sequence", sequence[1]]) == 0


@pytest.mark.parametrize("slip", ["STEAL_TIME reserves one bit less", "ASYNC_PF_EN reserves one bit less"])
def test_broken_promise_is_status_1(slip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    SLIPS[slip](monkeypatch)
    status = main(["conform", "--judge", "none"])
    assert (status == 1) is slip.startswith("STEAL_TIME")  # no promise of the document is about async page faults
    assert ("broken" in capsys.readouterr().out) is (status == 1)


@pytest.mark.parametrize(
    "words",
    [
        ["--random", "0"], ["--random", "x"], ["--random", "1", "--jobs", "0"], ["--random", "1", "--seed", "-1"],
        ["--seed", "1"], ["--judge", "oracle"], ["--sequence", "jump"], ["--sequence", ""], ["word"],
        ["--random", "1", "--sequence", "reenter"], ["--rando", "1"],
    ],
)  # fmt: skip
def test_bad_input_is_status_2_and_one_line(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["conform", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("emu: ") and shown.err.count("\n") == 1


def test_without_kvm_the_emulator_is_compared_with_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("emu.commands.conform.missing", lambda: "there is no /dev/kvm here")
    assert main(["conform", "--random", "10"]) == 0
    assert "no real KVM here" in capsys.readouterr().out
    assert main(["conform", "--judge", "kvm"]) == 2


def test_kvm_column_is_filled_where_there_is_kvm(capsys: pytest.CaptureFixture[str]):
    if missing() is not None:
        pytest.skip(f"needs KVM: {missing()}")
    assert main(["conform", "--json"]) == 0
    assert {row["kvm"][:4] for row in json.loads(capsys.readouterr().out)["promises"]} == {"kept"}
