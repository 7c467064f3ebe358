"""`emu grade`: a small class, with everything that a hostile student tries."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from emu import data
from emu.__main__ import main
from emu.classroom import grader
from emu.sandbox import tiers
from tests.classroom import cohort
from tests.classroom.cohort import CLOCK, DEVICE, Student

TREES = {str(name): str(path) for name, path in data.assignment_dirs().items()}

if tiers.missing(tiers.BUBBLEWRAP):
    pytest.skip(f"bubblewrap: {tiers.missing(tiers.BUBBLEWRAP)}", allow_module_level=True)


def grade(where: Path, name: str, *words: str) -> dict[str, dict[str, str]]:
    """Grade the folder `subs` below `where` into `out`; the lines of grades.csv by key."""
    out = where / "out"
    assert main(["grade", str(where / "subs"), "--assignment", TREES[name], "--out", str(out), "--quiet", *words]) == 0
    with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("name", "hostile"), [(CLOCK, cohort.hostile_clocks), (DEVICE, cohort.hostile_devices)])
def test_hostile_submission_gets_what_it_deserves_and_harms_nobody(
    name: str,
    hostile: Callable[[], list[Student]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(grader, "BUILDING", grader.BUILDING._replace(cpu_s=2))  # what has no end need not take longer
    students = [*hostile(), *cohort.right(name, 1)]
    cohort.place(tmp_path / "subs", students)
    rows = grade(tmp_path, name)
    assert {one.key: int(rows[one.key]["points"]) for one in students} == {one.key: one.points for one in students}
    for one in students:
        page = json.loads((tmp_path / "out" / "students" / one.key / "results.json").read_text())
        feedback = " ".join([page["output"], *(" ".join(test["output"].split()) for test in page["tests"])])
        assert one.told in feedback, (one.key, feedback)
        assert "root:x:" not in feedback and str(data.guests_dir()) not in feedback


def test_own_uid_keeps_files_from_a_build_and_judges_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if reason := tiers.missing(tiers.OWN_UID):
        pytest.skip(f"{tiers.OWN_UID}: {reason}")
    kinds = ("include-passwd", "incbin-passwd", "include-solution", "include-hidden", "rept-bomb")
    wanted = {f"hostile-{kind}" for kind in kinds}
    students = [*(one for one in cohort.hostile_clocks() if one.key in wanted), *cohort.wrong(CLOCK, 1)]
    cohort.place(tmp_path / "subs", students)
    rows = grade(tmp_path, CLOCK, "--sandbox", tiers.OWN_UID)
    assert {key: int(row["points"]) for key, row in rows.items()} == {one.key: one.points for one in students}
    assert "root:x:" not in (tmp_path / "out" / "junit.xml").read_text()


def test_own_uid_refuses_a_device_where_python_is_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if reason := tiers.missing(tiers.OWN_UID):
        pytest.skip(f"{tiers.OWN_UID}: {reason}")
    cohort.place(tmp_path / "subs", list(cohort.right(DEVICE, 1)))
    monkeypatch.setattr("emu.classroom.grader.closed_to_others", lambda: "/root")
    words = ["grade", str(tmp_path / "subs"), "--assignment", TREES[DEVICE], "--sandbox", tiers.OWN_UID, "--quiet"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "/root is closed to others; install Python and emu where every user can read them" in capsys.readouterr().err


def test_same_class_gives_the_same_bytes_whatever_the_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    students = [*cohort.right(DEVICE, 2), *cohort.wrong(DEVICE, 3)]
    trees = []
    for jobs in ("1", "3"):
        where = tmp_path / jobs
        where.mkdir()
        cohort.place(where / "subs", students)
        grade(where, DEVICE, "-j", jobs)
        trees.append(tree(where / "out"))
    assert trees[0] == trees[1]


def test_kill_in_the_middle_loses_nothing_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    students = [*cohort.right(DEVICE, 6), *cohort.wrong(DEVICE, 6)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for where in (whole, cut):
        where.mkdir()
        cohort.place(where / "subs", students)
    grade(whole, DEVICE)
    words = ["grade", str(cut / "subs"), "--assignment", TREES[DEVICE], "--out", str(cut / "out"), "-j", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "emu", *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    results = cut / "out" / "results"
    deadline = time.monotonic() + 60
    while len(list(results.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert 3 <= len(kept) < 12 and not (cut / "out" / "grades.csv").exists()
    grade(cut, DEVICE)
    # What was being written when it was killed is left, under a name of its own.
    found = {name: content for name, content in tree(cut / "out").items() if not name.endswith(".part")}
    assert found == tree(whole / "out")
    assert {name: (results / name).stat().st_mtime_ns for name in kept} == kept


def test_nothing_is_judged_twice_but_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.place(tmp_path / "subs", [*cohort.right(DEVICE, 1), *cohort.wrong(DEVICE, 1)])
    grade(tmp_path, DEVICE)
    results = tmp_path / "out" / "results"
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    grade(tmp_path, DEVICE)
    assert {path.name: path.stat().st_mtime_ns for path in results.iterdir()} == before
    grade(tmp_path, DEVICE, "--only", "right-000")
    changed = [name for name, when in before.items() if (results / name).stat().st_mtime_ns != when]
    assert len(changed) == 1


def test_roster_late_rules_and_marks_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = tmp_path / "lab"
    assert main(["assignment", "new", str(lab), "--from", DEVICE]) == 0
    text = (
        (lab / "assignment.toml")
        .read_text()
        .replace(
            "points = 100\n", "points = 100\nlate = { due = 2026-11-20T12:00:00Z, percent-per-day = 10, days = 3 }\n", 1
        )
    )
    (lab / "assignment.toml").write_text(text)
    TREES["lab"] = str(lab)
    subs = cohort.place(tmp_path / "subs", list(cohort.right(DEVICE, 4)))
    (subs / "roster.csv").write_text(
        "key,name,id,group,submitted\n"
        "right-000,Ada,1,,2026-11-20T12:00:00Z\n"
        "right-001,=cmd(),2,,2026-11-20T12:00:01Z\n"
        "right-002,Charles,3,g,2026-11-23T12:00:00Z\nright-002,Grace,4,g,2026-11-23T13:00:00Z\n"
        "gone,Alan,5,,\n"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "marks.csv").write_text('key,criterion,points,reason\nright-000,msr,12,"copied, and said so"\n')
    for _ in range(2):  # what was changed by hand survives
        assert main(["grade", str(subs), "--assignment", str(lab), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    with (tmp_path / "out" / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {name: row["points"] for name, row in rows.items()} == {
        "Ada": "92", "'=cmd()": "90", "Charles": "70", "Grace": "0", "right-003": "100",
    }  # fmt: skip
    assert rows["Ada"]["by_hand"] == "msr: copied, and said so"
    told = capsys.readouterr().out
    assert "Alan is in the roster and has handed in nothing" in told and "right-003 is not in the roster" in told
    assert "group g has 2 people, and 1 are allowed" in told


def test_tables_have_the_published_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort.place(tmp_path / "subs", [*cohort.right(DEVICE, 1), *cohort.wrong(DEVICE, 1)])
    grade(tmp_path, DEVICE)
    root = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    assert root.tag == "testsuites" and [suite.get("tests") for suite in root] == ["5", "5"]
    assert sum(int(suite.get("failures") or 0) for suite in root) == len(root.findall(".//failure")) == 4
    for path in (tmp_path / "out" / "students").glob("*/results.json"):
        _is_gradescopes(json.loads(path.read_text()))
    page = (tmp_path / "out" / "summary.html").read_text()
    assert "lost by" in page and "http" not in page and "<script" not in page


def _is_gradescopes(table: dict[str, object]) -> None:
    """As Gradescope's "Autograder Specifications" have it."""
    assert table.keys() <= {
        *("score", "execution_time", "output", "output_format", "test_output_format", "test_name_format"),
        *("visibility", "stdout_visibility", "extra_data", "tests", "leaderboard"),
    }
    assert isinstance(table["score"], int) and table["visibility"] == "visible"
    assert isinstance(table["tests"], list)
    for test in table["tests"]:
        assert test.keys() <= {
            *("score", "max_score", "status", "name", "name_format", "number", "output", "output_format"),
            *("tags", "visibility", "extra_data"),
        }
        assert test["status"] in ("passed", "failed") and 0 <= test["score"] <= test["max_score"]
        assert test["visibility"] in ("visible", "hidden", "after_due_date", "after_published")


def test_gradescopes_container(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "autograder"
    (place / "source").mkdir(parents=True)
    assert main(["assignment", "new", str(place / "source" / "assignment"), "--from", DEVICE]) == 0
    cohort.place(place / "all", list(cohort.right(DEVICE, 1)))
    (place / "all" / "right-000").rename(place / "submission")
    assert main(["grade", "--gradescope", str(place)]) == 0
    table = json.loads((place / "results" / "results.json").read_text())
    _is_gradescopes(table)
    assert table["score"] == 100


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name the folder of submissions, and the assignment with --assignment"),
        (["subs"], "name the folder of submissions, and the assignment with --assignment"),
        (["nowhere", "--assignment", TREES[DEVICE]], "the submissions cannot be read"),
        (["subs", "--assignment", TREES[DEVICE]], "there are no submissions in this folder"),
        (["subs", "--assignment", "subs"], "there is no assignment.toml in this folder"),
        (["subs", "--assignment", TREES[DEVICE], "-j", "0"], "give a whole number from 1 to 256"),
        (["subs", "--gradescope", "x"], "--gradescope names the submission itself"),
    ],
)
def test_bad_words_are_told(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subs").mkdir()
    assert main(["grade", *words]) == 2
    assert told in capsys.readouterr().err


def test_without_a_sandbox_grading_refuses_and_trust_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort.place(tmp_path / "subs", list(cohort.right(DEVICE, 1)))
    monkeypatch.setattr(tiers, "missing", lambda name: "it is not here")
    words = ["grade", str(tmp_path / "subs"), "--assignment", TREES[DEVICE], "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 2
    assert "there is no sandbox on this machine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--trust"]) == 0
    told = capsys.readouterr()
    assert "warning: --trust" in told.err and "mean 100" in told.out


def test_command_loads_where_there_are_no_resource_limits() -> None:
    """On Windows there is no module `resource`; what can be said there is said by `emu grade` itself."""
    code = (
        "import sys; sys.modules['resource'] = None; import emu.commands.grade, emu.commands.check, emu.commands.doctor"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_trust_goes_without_any_confinement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "ran"
    text = f"open({str(mark)!r}, 'w')\n".encode()
    one = cohort.read(DEVICE)
    good = one.handed_in(one.folder / "solution")["steal_time.py"]
    cohort.place(tmp_path / "subs", [cohort.folder("ada", {"steal_time.py": text + good}, 100)])
    assert grade(tmp_path, DEVICE)["ada"]["points"] == "0" and not mark.exists()
    assert grade(tmp_path, DEVICE, "--trust")["ada"]["points"] == "100" and mark.exists()
    assert grade(tmp_path, DEVICE)["ada"]["points"] == "0"
