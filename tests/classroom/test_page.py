"""The teacher's page does what it says, and the page of threats names tests that are there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emu import data
from emu.sandbox import tiers
from tests.classroom import cohort
from tests.sandbox.attacks import ATTACKS

ROOT = Path(__file__).resolve().parents[2]


def test_from_new_to_a_graded_class_in_fewer_than_ten_commands(tmp_path: Path) -> None:
    if reason := tiers.missing(tiers.BUBBLEWRAP):
        pytest.skip(f"bubblewrap: {reason}")
    text = data.document("assignments/README.md")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) < 10
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "lab3: sound" in done.stdout and "3 graded in the sandbox" in done.stdout
    rows = (tmp_path / "grades" / "grades.csv").read_text().splitlines()
    assert [row.split(",")[4] for row in rows[1:]] == ["100", "75", "5"]
    for kept in (tmp_path / "grades" / "students" / "bob").glob("*.emurec"):
        words = [sys.executable, "-m", "emu", "step", str(kept), "--do", "where; back"]
        assert subprocess.run(words, check=False, capture_output=True).returncode == 0


def test_each_threat_names_a_test_that_is_there() -> None:
    text = data.document("grading-safety.md")
    rows = re.findall(r"^\| .+ \| .+ \| (.+) \|$", text.split("## Threats")[1], re.MULTILINE)[1:]
    known = {one.key.removeprefix("hostile-") for one in (*cohort.hostile_clocks(), *cohort.hostile_devices())}
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "classroom").glob("test_*.py"))
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(rows) > 15
    assert [n for n in named if n not in {*known, *ATTACKS, *files} and n not in tests] == []
    unnamed = known - set(named)
    assert unnamed <= {"no-class", "syntax", "recursion", "huge-number", "reads-passwd", "zip-bomb"}, unnamed
