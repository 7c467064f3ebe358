"""The shipped assignments are sound, and what they tell can be followed."""

from pathlib import Path

import pytest

from emu import data
from emu.__main__ import main
from emu.classroom import assignment, verify
from emu.classroom.assignment import Assignment
from emu.classroom.judge import judge

SHIPPED = data.assignment_dirs()
VARIANTS = [(name, one.name) for name, folder in SHIPPED.items() for one in assignment.read(folder).wrong]


def read(name: str) -> Assignment:
    return assignment.read(SHIPPED[name])


@pytest.mark.parametrize("name", SHIPPED)
def test_solution_has_all_points_and_the_skeleton_builds_without(name: str) -> None:
    found = {one.what: one for one in verify.verify(read(name)._replace(wrong=()), judge)}
    assert not found["solution"].complaint and not found["student"].complaint
    assert found["solution"].judgement is not None and found["solution"].judgement.points == read(name).points


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_wrong_variant_loses_what_it_should_and_is_told_why(name: str, variant: str) -> None:
    one = read(name)
    only = one._replace(wrong=tuple(wrong for wrong in one.wrong if wrong.name == variant))
    last = list(verify.verify(only, judge))[-1]
    assert last.what == f"wrong/{variant}" and not last.complaint, last


@pytest.mark.parametrize("name", SHIPPED)
def test_there_are_six_wrong_variants_and_a_readme(name: str) -> None:
    one = read(name)
    assert len(one.wrong) >= 6
    assert (one.folder / "student" / "README.md").read_text(encoding="utf-8").startswith(f"# {one.title}")


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_each_command_that_the_feedback_names_works(
    name: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = read(name)
    for file, content in {**one.given_files(), **one.handed_in(one.folder / "wrong" / variant)}.items():
        (tmp_path / file).write_bytes(content)
    (tmp_path / "assignment.toml").write_bytes(one.public)
    monkeypatch.chdir(tmp_path)
    status = main(["check"])
    out = capsys.readouterr().out
    commands = [line.split("see it: ")[1] for line in out.splitlines() if "see it: " in line]
    hidden = {criterion.name for criterion in one.criteria if criterion.hidden}
    lost = {name for wrong in one.wrong if wrong.name == variant for name in wrong.loses} - hidden
    assert status == (1 if lost else 0)
    assert len(commands) >= (1 if lost else 0)
    for command in commands:
        words = command.split()
        assert words[0] == "emu"
        if words[1] == "step":
            assert main([*words[1:], "--do", "where; back; where"]) == 0
        else:
            assert main(words[1:]) == 1  # what differs differs again
            assert "<-- not the same" in capsys.readouterr().out or "even" in out


def test_a_clean_check_removes_old_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = read("steal-clock")
    (tmp_path / "assignment.toml").write_bytes(one.public)
    monkeypatch.chdir(tmp_path)
    for folder, status in (("wrong/no-check", 1), ("solution", 0)):
        for file, content in {**one.given_files(), **one.handed_in(one.folder / folder)}.items():
            (tmp_path / file).write_bytes(content)
        assert main(["check"]) == status
        assert (tmp_path / "failures" / "never-torn.emurec").exists() == bool(status)
    assert "85 of 85 points; criteria with other seeds and bounds, for 15 more" in capsys.readouterr().out


def test_compiler_message_is_told_with_the_students_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = read("steal-clock")
    files = {**one.given_files(), "clock.c": b'#include "clock.h"\nint x = y;\n', "assignment.toml": one.public}
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert "clock.c:2" in out and "not tried: the program does not build" in out and str(tmp_path) not in out
