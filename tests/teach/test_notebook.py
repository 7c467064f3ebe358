"""A lesson as a notebook, run by a real Jupyter kernel: as it is handed out, and solved."""

import json
from pathlib import Path
from typing import Any

import pytest

from emu import data
from emu.__main__ import main
from emu.faults import HostError
from emu.teach.lesson import FIX, STEP, Lesson, find
from emu.teach.notebook import notebook
from tests import shown

LESSONS = find(data.lesson_dirs())
TORN = next(one for one in LESSONS if one.number == 7)


@pytest.fixture(autouse=True, scope="module")
def reference():
    try:
        with shown.reference_guests():
            yield
    except HostError as error:
        pytest.skip(f"the reference guests cannot be built here: {error}")


def executed(lesson: Lesson, folder: Path, *, solved: bool) -> list[Any]:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.reads(notebook(lesson, solved=solved), as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in book.cells if cell.cell_type == "code"]


def said(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_handed_out_it_runs_and_says_not_yet(tmp_path: Path):
    cells = executed(TORN, tmp_path, solved=False)
    verdicts = [said(cell).splitlines()[-1] for cell in cells if cell.source.startswith(("walk.say", "check("))]
    assert verdicts == ["Not yet."] * sum(task.kind in (STEP, FIX) for task in TORN.tasks)
    drawn = next(cell for cell in cells if cell.source.endswith("\nwalk"))
    assert "<iframe sandbox=" in drawn.outputs[0]["data"]["text/html"]
    assert "refuted" in said(next(cell for cell in cells if "make your guess" in cell.source))


def test_solved_it_says_done_and_the_number_of_the_lesson(tmp_path: Path):
    cells = executed(TORN, tmp_path, solved=True)
    verdicts = [said(cell).splitlines()[-1] for cell in cells if cell.source.startswith(("walk.say", "check("))]
    assert verdicts == ["Done: that is it."] * len(verdicts) and len(verdicts) == 2
    assert "proved, for every schedule within the bound" in said(cells[-1])


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda one: one.name)
def test_every_lesson_can_be_written_as_one(lesson: Lesson, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "lesson.ipynb"
    assert main(["lesson", str(lesson.number), "--notebook", str(path)]) == 0
    book = json.loads(path.read_text(encoding="utf-8"))
    text = "\n".join(cell["source"] for cell in book["cells"])
    assert all(task.answer in text for task in lesson.tasks) and "<!--" not in text
    assert "wrote" in capsys.readouterr().out


def test_notebook_that_cannot_be_written_is_one_sentence(capsys: pytest.CaptureFixture[str]):
    assert main(["lesson", "7", "--notebook", "/nowhere/x.ipynb"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
