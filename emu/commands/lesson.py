"""`emu lesson`: lessons to be read, guessed, stepped through and mended, which check themselves.

Exit status: 0 at the end of the session, 2 for input that cannot be used.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from emu import data
from emu.commands import cells, step
from emu.commands.flags import Once, Parser
from emu.commands.interruption import interruption
from emu.commands.output_file import output_file
from emu.faults import HostError, escaped
from emu.teach import progress
from emu.teach.guide import HELP, Guide, Prose
from emu.teach.lesson import FIX, Lesson, find
from emu.teach.notebook import notebook
from emu.view.session import Session

_PROMPT = "lesson> "
_WIDEST = 100
_TITLE = re.compile(r"^#+ (.+)$", re.MULTILINE)  # rich would centre it in a box
_EPILOG = """examples:
  emu lesson            the lessons, and how far you are
  emu lesson 7          go through one, or go on where you left it
  emu lesson 7 --again  from its beginning
  emu lesson 7 --text   the text alone
  emu lesson 7 --notebook torn.ipynb
                        the lesson for Jupyter

A lesson that has something to mend puts its file into a folder here, such as
07-torn/; a file that is there already is yours, and stays as it is.
"""


def main(arguments: list[str]) -> int:
    """Run `emu lesson` with these words."""
    parsed = _parser().parse(arguments)
    lessons = find(data.lesson_dirs())
    if parsed.number is None:
        print("\n".join(_map(lessons)))
        return 0
    lesson = next((one for one in lessons if str(one.number) == parsed.number.lstrip("0")), None)
    if lesson is None:
        known = ", ".join(str(one.number) for one in lessons)
        raise HostError(f"there is no lesson {parsed.number!r}", remedy=f"there are {known}")
    if parsed.text:
        print(lesson.path.read_text(encoding="utf-8"), end="")
        return 0
    if parsed.notebook is not None:
        return _notebook(lesson, parsed.notebook)
    with interruption() as check:
        return _walk(lesson, sys.stdin, 0 if parsed.again else max(progress.load().get(lesson.name, 0), 0), check)


def _notebook(lesson: Lesson, path: str) -> int:
    try:
        content = notebook(lesson).encode("utf-8")
    except OSError as error:
        raise HostError(f"a file of the lesson cannot be read ({error.strerror})", lesson.name) from None
    with output_file(path, "--notebook") as file:
        file.write(content)
    print(f"wrote {path}; open it with Jupyter, where emu is installed too")
    return 0


def _map(lessons: list[Lesson]) -> list[str]:
    kept = progress.load()
    found = []
    for one in lessons:
        at = kept.get(one.name)
        state = "" if at is None else "done" if at < 0 else f"part {at + 1} of {len(one.parts)}"
        found.append(f"{one.number:>3}  {one.title:<28} {len(one.tasks)} tasks  {state}".rstrip())
    return [*found, "", "`emu lesson N` begins one, or goes on where you left it"]


def _walk(lesson: Lesson, words: TextIO, at: int, check: Callable[[], None]) -> int:
    with contextlib.chdir(_workplace(lesson)):
        interactive = words.isatty() and sys.stdout.isatty()

        def screen(session: Session) -> None:
            if not interactive:
                raise HostError("there is no screen here", remedy="say the words of the stepper instead")
            step.screen(session, f"lesson {lesson.number}", check)

        guide = Guide(lesson, at, lambda words: cells.session(words, check), cells.ran, screen)
        told = [Prose(f"# {lesson.number}. {lesson.title}"), "", *([HELP, ""] if at == 0 else []), *guide.begin()]
        kept = None
        while True:
            _print(told, formatted=interactive)
            place = -1 if guide.done else guide.at
            if place != kept:
                progress.keep(lesson.name, place)
                kept = place
            if guide.over:
                return 0
            if interactive:
                print(_PROMPT, end="", flush=True)
            line = words.readline()
            if not line:
                print()
                return 0
            if not interactive:
                print(f"{_PROMPT}{line.strip()}", flush=True)
            try:
                told = guide.say(line)
            except HostError as error:
                told = [error.sentence]


def _workplace(lesson: Lesson) -> str:
    """The folder to work in: one for the lesson, with its files, where something is to be mended; else this one."""
    files = [task.subject for task in lesson.tasks if task.kind == FIX]
    if not files:
        return os.getcwd()
    place = Path.cwd() if Path.cwd().name == lesson.name else Path.cwd() / lesson.name
    try:
        place.mkdir(exist_ok=True)
        for name in files:
            if not (place / name).exists():
                shutil.copyfile(lesson.path.parent / name, place / name)
                print(f"{place.name}/{name} is yours to change")
    except OSError as error:
        raise HostError(f"the lesson's files cannot be put here ({error.strerror})", str(place)) from None
    return str(place)


def _print(told: list[str], *, formatted: bool) -> None:
    """The lines; the lesson's own text as it looks best in a terminal, where it is one."""
    for one in told:
        if isinstance(one, Prose) and formatted:
            from rich.console import Console
            from rich.markdown import Markdown

            columns = min(shutil.get_terminal_size().columns, _WIDEST)
            Console(width=columns, highlight=False).print(Markdown(_TITLE.sub("**\\1**", one)))
        else:
            print("\n".join(escaped(line) for line in one.splitlines() or [""]))
    sys.stdout.flush()


def _parser() -> Parser:
    parser = Parser("lesson", "Go through a lesson.", _EPILOG, "emu lesson [N] [options]")
    parser.add_argument("number", nargs="?", metavar="N", help="the lesson's number; without one they are listed")
    parser.add_argument("--again", action="store_true", help="from the beginning, wherever you were")
    parser.add_argument("--text", action="store_true", help="print the text (Markdown), and nothing else")
    parser.add_argument("--notebook", action=Once, metavar="FILE", help="write the lesson as a Jupyter notebook")
    return parser
