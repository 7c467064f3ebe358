"""A lesson, read from its one source: a Markdown file that a forge shows, `emu lesson` walks through, the tests check.

Prose is prose. A comment begins a task, which reaches to what is hidden below it, else to the next heading or task:

    <!-- predict: 2; shown by: COMMAND; with: TEXT -->
        a question and numbered choices, of which this is the right one; the output of the command has the text in it
    <!-- step: GUEST OPTIONS; until: WORD shows TEXT; by: WORDS | WORDS -->
        to be done in the stepper, until this word of it shows this text; one way there is given, and with `then` words
        that show what the answer tells. A way that ends with a look is done with that look, not before
    <!-- fix: FILE; check: COMMAND; fails: TEXT; passes: TEXT -->
        the file has a hole; the command fails and prints the one text with it, and passes with the other without

    <!-- facts: 31 0x40000000 (where they come from) -->
        numbers of the text that no command shows; it is for the tests alone
    <!-- output of: COMMAND -->
        before a block of text: the tests write and compare it, as in the other documents

Below a task, `<details>` with the summary Hint or Answer hold what is shown on request, or afterwards.

In Linux: nothing like it; Rustlings and vimtutor are the examples.
"""

import re
from pathlib import Path
from typing import NamedTuple

from emu.faults import HostError

PREDICT, STEP, FIX = "predict", "step", "fix"
_NEEDS = {
    PREDICT: {"shown by", "with"},
    STEP: {"until", "by"},
    FIX: {"check", "fails", "passes"},
}
_FOLDER = re.compile(r"(\d\d)-[a-z0-9-]+")
_TASK = re.compile(r"^<!-- (predict|step|fix): (.*?) -->\n", re.MULTILINE | re.DOTALL)
_DETAILS = re.compile(r"<details><summary>(Hint|Answer)</summary>\n(.*?)</details>\n*", re.DOTALL)
_KEY = re.compile(rf"; (?=(?:{'|'.join([*set.union(*_NEEDS.values()), 'then'])}): )")
_FOR_TESTS = re.compile(r"<!-- (?:facts|output)[^\n]* -->\n?")
_HEADING = re.compile(r"^## ", re.MULTILINE)
_CHOICE = re.compile(r"^(\d)\. (.*)$", re.MULTILINE)


class Part(NamedTuple):
    """Prose (`kind` is empty), or a task: what its comment says, its text, and what is hidden below it."""

    kind: str
    text: str
    subject: str = ""
    about: dict[str, str] = {}  # noqa: RUF012 - read only
    hint: str = ""
    answer: str = ""

    @property
    def choices(self) -> list[str]:
        """The numbered lines of a question."""
        return [text for _, text in _CHOICE.findall(self.text)]


class Lesson(NamedTuple):
    """`name` is its folder's, such as 07-torn; `path` its file."""

    number: int
    name: str
    title: str
    parts: tuple[Part, ...]
    path: Path

    @property
    def tasks(self) -> list[Part]:
        """What there is to do in it."""
        return [part for part in self.parts if part.kind]


def find(folders: list[Path]) -> list[Lesson]:
    """The lessons in these folders, in order. Raises HostError for one that cannot be read."""
    return sorted(read(one) for one in folders if _FOLDER.fullmatch(one.name))


def read(folder: Path) -> Lesson:
    """The lesson in this folder. Raises HostError, naming the place, for tasks that are not what they should be."""
    path = folder / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise HostError(f"the lesson cannot be read ({error})", str(path)) from None
    head, _, body = text.partition("\n")
    found = re.fullmatch(r"# (\d+)\. (.+)", head)
    if found is None:
        raise HostError("a lesson begins with its number and title", str(path), "such as `# 7. Torn`")
    return Lesson(int(found[1]), folder.name, found[2], tuple(_parts(body, str(path))), path)


def _parts(body: str, where: str) -> list[Part]:
    found: list[Part] = []
    at = 0
    for task in _TASK.finditer(body):
        found += _prose(body[at : task.start()])
        ends = [one.start() for one in (_HEADING.search(body, task.end()), _TASK.search(body, task.end())) if one]
        at = min(ends, default=len(body))
        if hidden := list(_DETAILS.finditer(body, task.end(), at)):
            at = hidden[-1].end()
        found.append(_task(task[1], task[2], body[task.end() : at], where))
    return [*found, *_prose(body[at:])]


def _prose(text: str) -> list[Part]:
    text = _FOR_TESTS.sub("", text).strip()
    return [Part("", text + "\n")] if text else []


def _task(kind: str, words: str, text: str, where: str) -> Part:
    subject, *rest = _KEY.split(" ".join(words.split()))
    about = dict(one.split(": ", 1) for one in rest)
    if wrong := _NEEDS[kind] ^ (about.keys() - {"then"}):
        raise HostError(f"a {kind} task has {', '.join(sorted(_NEEDS[kind]))}", where, f"look at {min(wrong)!r}")
    hidden = {name: part.strip() for name, part in _DETAILS.findall(text)}
    shown = _DETAILS.sub("", text).strip() + "\n"
    part = Part(kind, shown, subject, about, hidden.get("Hint", ""), hidden.get("Answer", ""))
    if kind == PREDICT and not (subject.isdecimal() and 1 <= int(subject) <= len(part.choices)):
        raise HostError(f"the right choice is none of the {len(part.choices)}", where)
    return part
