"""The shipped assignments are sound, and what they tell can be followed."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from emu import data
from emu.__main__ import main
from emu.classroom import assignment, told, verify
from emu.classroom.assignment import Assignment
from emu.classroom.judge import judge
from emu.classroom.verdict import Judgement

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
def test_wrong_variant_loses_what_it_should_is_told_why_and_can_be_seen(
    name: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = read(name)
    only = one._replace(wrong=tuple(wrong for wrong in one.wrong if wrong.name == variant))
    folder = one.folder / "wrong" / variant
    (last,) = (found for found in verify.verify(only, judge_once(folder)) if found.what == f"wrong/{variant}")
    assert not last.complaint and last.judgement is not None, last
    for file, content in {**one.given_files(), **one.handed_in(folder), "assignment.toml": one.public}.items():
        (tmp_path / file).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for file, content in last.judgement.evidence.items():
        (tmp_path / file).write_bytes(content)
    commands = [told.command(found) for found in last.judgement.verdicts if found.evidence]
    assert commands
    for command in commands:
        words = command.split()
        assert words[0] == "emu"
        if words[1] == "step":
            assert main([*words[1:], "--do", "where; back; where"]) == 0
        else:
            assert main(words[1:]) in (0, 1)
            assert re.search(
                "<-- not the same|it stores|it loads", capsys.readouterr().out
            )  # what differs differs again


def judge_once(folder: Path) -> verify.Judge:
    """Judges what is in that folder alone; of all else it is known."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def judged(asked: Assignment, handed_in: Mapping[str, bytes]) -> Judgement:
        return judge(asked, handed_in) if dict(handed_in) == files else Judgement((), {})

    return judged


@pytest.mark.parametrize("name", SHIPPED)
def test_there_are_six_wrong_variants_and_a_readme(name: str) -> None:
    one = read(name)
    assert len(one.wrong) >= 6
    assert (one.folder / "student" / "README.md").read_text(encoding="utf-8").startswith(f"# {one.title}")


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
