"""A lesson as a Jupyter notebook, made of the same source: prose in Markdown, tasks in cells that can be run.

The format: nbformat 4.5, https://nbformat.readthedocs.io.
"""

import json
from typing import Any

from emu.teach.lesson import FIX, PREDICT, STEP, Lesson, Part

SETUP = "from emu.commands.cells import check, run, step"


def notebook(lesson: Lesson, *, solved: bool = False) -> str:
    """The file's content; with `solved` every task is done already. Raises OSError where a file is missing."""
    cells = [_prose(f"# {lesson.number}. {lesson.title}"), _code(SETUP)]
    for part in lesson.parts:
        cells.append(_prose(part.text))
        cells += [_code(one) for one in _tasks(lesson, part, solved=solved)]
        cells += [
            _prose(_folded(title, text)) for title, text in (("Hint", part.hint), ("Answer", part.answer)) if text
        ]
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    data = {"cells": numbered, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _tasks(lesson: Lesson, part: Part, *, solved: bool) -> list[str]:
    """The code cells of a part."""
    about = part.about
    if part.kind == PREDICT:
        return [f"# make your guess first\nrun({about['shown by']!r})"]
    if part.kind == STEP:
        words = about["by"].split(" | ")
        said = words if solved else ["where"]
        return [
            f"walk = step({part.subject!r}, until={about['until']!r})\nwalk",
            f"walk.say({', '.join(map(repr, said))})  # one word or several; 'help' lists them",
        ]
    if part.kind == FIX:
        place = lesson.path.parent / "solution" if solved else lesson.path.parent
        text = (place / part.subject).read_text(encoding="utf-8")
        return [f"%%writefile {part.subject}\n{text}", f"check({about['check']!r}, passes={about['passes']!r})"]
    return []


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _prose(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip()}


def _code(text: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "source": text.strip(), "execution_count": None, "outputs": []}
