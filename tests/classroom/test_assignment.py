"""assignment.toml: every slip gets the place and the remedy."""

import re
import zipfile
from pathlib import Path

import pytest

from emu import data
from emu.__main__ import main
from emu.classroom import assignment, criteria
from emu.faults import HostError

GOOD = """format = 1
name = "lab"
title = "A lab"
kind = "guest"
files = ["clock.c"]
points = 10

[[criterion]]
name = "builds"
kind = "build"
title = "it builds"
points = 10
"""

SLIPS = [
    ("format = 1", "format = 2", "format must be a whole number from 1 to 1; it is the version of this format, 1"),
    ('name = "lab"', 'name = "My Lab"', "name must be a short name in small letters, digits and dashes"),
    ('title = "A lab"\n', "", "title is missing; it is its title, for people"),
    ('title = "A lab"', 'titel = "A lab"', "there is no key 'titel'; did you mean title?"),
    ('kind = "guest"', 'kind = "gest"', "kind must be one of guest, device"),
    ('["clock.c"]', '["../clock.c"]', "files must be a list, each item the name of a file, without a folder"),
    ('["clock.c"]', "[]", "files must be a list of at least 1"),
    ('["clock.c"]', '"clock.c"', "files must be a list"),
    ("points = 10\n\n", "points = 5\n\n", "the criteria give 10 points, and points says 5"),
    (
        'kind = "build"',
        'kind = "explode"',
        "[[criterion]] 1 (builds): kind must be one of build, run, ",
    ),
    ('kind = "build"', 'kind = "device"', "kind 'device' is not for a guest; use build or run or explore"),
    ('kind = "build"', 'kind = "build"\nupdates = 1', "there is no key 'updates'"),
    ('kind = "build"', 'kind = "explore"', "properties is missing; it is what holds in every schedule"),
    (
        'kind = "build"',
        'kind = "explore"\nproperties = ["curent"]',
        "properties must be a list, each item one of",
    ),
    (
        'kind = "build"',
        'kind = "run"\nmachine = { vcpu = 2 }',
        "there is no option 'vcpu'; did you mean vcpus?",
    ),
    ('kind = "build"', 'kind = "run"\nmachine = { vcpus = 0 }', "machine: vcpus: '0' cannot be used"),
    ('kind = "build"', 'kind = "run"\nexit = 256', "exit must be a whole number from 0 to 255; it is the exit status"),
    ("[[criterion]]", "[criterion]", "criterion must be a list of tables; begin each with [[criterion]]"),
    ("points = 10\n\n", "points = 10\nlate = 3\n", "[late]: this must be a table"),
    ("points = 10\n\n", "points = 10\nlate = {due = 3}\n", "due must be a date and time with its offset"),
    ("points = 10\n\n", "points = 10\n[[[\n", "this is not TOML"),
]


def write(folder: Path, text: str, hidden: str = "") -> Path:
    (folder / "assignment.toml").write_text(text, encoding="utf-8")
    if hidden:
        (folder / "hidden.toml").write_text(hidden, encoding="utf-8")
    return folder


def test_the_smallest_assignment_is_read(tmp_path: Path) -> None:
    found = assignment.read(write(tmp_path, GOOD))
    assert (found.name, found.points, found.hidden_points) == ("lab", 10, 0)
    assert found.student_folder == tmp_path


@pytest.mark.parametrize(("old", "new", "told"), SLIPS, ids=[told[:40] for _, _, told in SLIPS])
def test_slip_is_told_with_place_and_remedy(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(HostError) as raised:
        assignment.read(write(tmp_path, GOOD.replace(old, new, 1)))
    assert told in raised.value.sentence and "assignment.toml" in raised.value.sentence


def test_points_must_come_out_with_the_hidden_ones(tmp_path: Path) -> None:
    hidden = '[[criterion]]\nname = "more"\nkind = "build"\ntitle = "more"\npoints = 5\n'
    assert assignment.read(write(tmp_path, GOOD.replace("= 10", "= 15", 1), hidden)).hidden_points == 5
    with pytest.raises(HostError, match="give 15 points, and points says 10"):
        assignment.read(write(tmp_path, GOOD, hidden))


def test_variant_that_loses_an_unknown_criterion_is_told(tmp_path: Path) -> None:
    wrong = '[[wrong]]\nname = "bad"\nloses = ["bilds"]\ncause = "x"\n'
    with pytest.raises(HostError, match="there is no criterion 'bilds'; did you mean builds"):
        assignment.read(write(tmp_path, GOOD, wrong))


def test_every_field_is_documented_and_every_documented_field_is_there() -> None:
    text = data.document("assignments/README.md")
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE))
    tables = (assignment.ASSIGNMENT, assignment.LATE, assignment.HIDDEN_FIELDS, assignment.WRONG_FIELDS)
    fields = {one.name for table in (*tables, criteria.COMMON, *criteria.KINDS.values()) for one in table}
    assert documented == fields


def test_packing_twice_gives_the_same_bytes_and_nothing_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["assignment", "new", "lab3", "--from", "steal-clock"]) == 0
    contents = []
    for _ in range(2):
        assert main(["assignment", "pack", "lab3", "--gradescope"]) == 0
        contents.append([Path(f"lab3-{one}.zip").read_bytes() for one in ("student", "autograder")])
    assert contents[0] == contents[1]
    with zipfile.ZipFile("lab3-student.zip") as archive:
        names = archive.namelist()
        assert 'name = "lab3"' in archive.read("lab3/assignment.toml").decode()
    assert set(names) == {f"lab3/{one}" for one in ("README.md", "assignment.toml", "clock.c", "clock.h", "main.c")}
    with zipfile.ZipFile("lab3-autograder.zip") as archive:
        assert {"setup.sh", "run_autograder", "assignment/hidden.toml"} <= set(archive.namelist())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["new", "steal-clock"], "this is there already"),
        (["new", "lab", "--from", "steal-clok"], "did you mean steal-clock?"),
        (["new", "My Lab"], "cannot be its name"),
        (["new"], "`new` needs a folder"),
        (["list", "lab"], "`list` takes no folder"),
        (["verify", "nowhere"], "there is no assignment.toml in this folder"),
    ],
)
def test_bad_words_are_told(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steal-clock").mkdir()
    assert main(["assignment", *words]) == 2
    assert told in capsys.readouterr().err
