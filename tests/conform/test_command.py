"""`emu conform`: its tables, statuses and errors."""

import json
import re

import pytest

from emu.__main__ import main
from emu.conform import promises
from emu.conform.specification import specification
from emu.kvm.system import missing
from tests.conform.test_slips import SLIPS


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["conform", "--judge", "none", *words]) == 0
    return capsys.readouterr().out


def test_without_arguments_the_promises_that_can_be_judged_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    text = shown(capsys)
    for promised in specification():
        listed = f"\n{promised.number:<7}{promised.sentence} " in text
        assert listed is (promised.number in promises.SEQUENCES), promised.number
    assert "KVM was not asked" in text and "::" not in text


def test_all_shows_every_promise_with_its_tests(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = shown(capsys, "--all").split("\n")
    for promised in specification():
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{promised.number} "))
        assert promised.sentence in lines[at]
        assert [line.strip() for line in lines[at + 1 : at + 1 + len(promised.tests)]] == list(promised.tests)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("words", [(), ("--all",)], ids=["judged", "all"])
def test_table_fits_and_cuts_no_sentence(
    width: int, words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", str(width))
    text = shown(capsys, *words)
    # The name of a test is one word and is not cut, so it alone may be longer.
    assert [line for line in text.split("\n") if len(line) > width and "::" not in line] == []
    assert not any(line != line.rstrip() for line in text.split("\n"))
    flowing = " ".join(re.sub(r" (kept|test) .*$|^[A-Z]{2}-\d+ ", " ", text, flags=re.MULTILINE).split())
    for promised in specification():
        if words or promised.number in promises.SEQUENCES:
            assert promised.sentence in flowing, promised.number


def test_json_carries_the_whole_specification(capsys: pytest.CaptureFixture[str]):
    rows = json.loads(shown(capsys, "--json"))["promises"]
    assert [row["number"] for row in rows] == [promised.number for promised in specification()]
    for row in rows:
        assert row["tests"] and row["promise"] and row["document"].endswith(".md")
        judged = row["number"] in promises.SEQUENCES
        assert (row["emulator"], row["agree"], bool(row["sequences"])) == (
            ("kept", True, True) if judged else ("test", None, False)
        )


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
@pytest.mark.parametrize("form", [(), ("--all",), ("--json",)], ids=["table", "all", "json"])
def test_broken_promise_is_status_1(
    slip: str, form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    SLIPS[slip](monkeypatch)
    assert main(["conform", "--judge", "none", *form]) == 1
    assert capsys.readouterr().out.count("broken") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--random", "0"], ["--random", "x"], ["--random", "1", "--jobs", "0"], ["--random", "1", "--seed", "-1"],
        ["--seed", "1"], ["--judge", "oracle"], ["--sequence", "jump"], ["--sequence", ""], ["word"],
        ["--random", "1", "--sequence", "reenter"], ["--rando", "1"], ["--all", "--random", "1"],
        ["--all", "--sequence", "reenter"],
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
    rows = json.loads(capsys.readouterr().out)["promises"]
    assert {row["kvm"] for row in rows if row["emulator"] != "test"} == {"kept"}
    assert {row["kvm"] for row in rows if row["emulator"] == "test"} == {"-"}
