"""`emu doctor` says what is here, and how to get what is not."""

import json
from pathlib import Path

import pytest

from emu import data
from emu.__main__ import main
from emu.commands import doctor


def parts(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str | None]]:
    assert main(["doctor", "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_what_is_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    program(tmp_path, "gdb", "echo 'GNU gdb 99.1'; echo more")
    program(tmp_path, "firefox", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = parts(capsys)
    assert found["gdb"]["found"] == "GNU gdb 99.1"
    assert found["browser"]["found"]
    assert found["compiler"]["found"]  # the tests cannot run without one


def test_what_is_not_there_is_told_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("emu.compiler.zig", lambda: None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(data, "build_dir", lambda **_: tmp_path / "none")
    found = parts(capsys)
    for name in ("compiler", "guests", "gdb", "browser"):
        assert found[name]["found"] is None and found[name]["remedy"], name


@pytest.mark.parametrize("text", ["exit 3", "printf '\\377\\376'; exit 1", "exit 0"])
def test_program_that_does_not_answer_counts_as_none(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    program(tmp_path, "gdb", text)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert parts(capsys)["gdb"]["found"] is None


def test_lines_fit_a_small_terminal(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line.split()[0] for line in lines[2:] if not line.startswith(" ")] == [
        "compiler", "guests", "kvm", "gdb", "browser", "jupyter", "screen", "sandbox",
        "fuzzing", "callbacks",
    ]  # fmt: skip
    long = doctor.Part("kvm", None, "x " * 60, "y " * 60)
    assert all(len(line) <= 80 for line in doctor.told(long))
