"""A walk through a lesson: lines in, lines out, one part after the other; tasks check themselves.

It knows nothing of terminals and files; what runs commands, and what makes sessions of guests, is given to it.
"""

from collections.abc import Callable
from typing import NamedTuple

from emu.faults import HostError
from emu.teach.lesson import FIX, PREDICT, STEP, Lesson, Part
from emu.view.session import Session

_LOOKS = {"where", "area", "host", "console", "msrs", "mem"}  # words that change nothing
DONE = "Done: that is it."
HELP = "Enter goes on. Also: hint, skip, again, quit (your place is kept), help."


class Prose(str):
    """Markdown of the lesson, which a terminal may show as it likes; all else that a guide says are lines."""

    __slots__ = ()


class Ran(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    output: str

    def passes(self, text: str) -> bool:
        """Whether it ended well and printed this."""
        return self.status == 0 and text in self.output


class Guide:
    """One student's way through `lesson`, beginning with part `at`.

    `session` makes a stepper session from the words of a task, `run` runs a command, `screen` shows a session on the
    whole screen until the student leaves that. `at` is the part that comes next.
    """

    def __init__(
        self,
        lesson: Lesson,
        at: int,
        session: Callable[[str], Session],
        run: Callable[[str], Ran],
        screen: Callable[[Session], None],
    ) -> None:
        self.lesson = lesson
        self.at = min(at, len(lesson.parts))
        self.over = False
        self.solved = 0
        self._session_of = session
        self._run = run
        self._screen = screen
        self._session: Session | None = None

    @property
    def task(self) -> Part | None:
        """The task at hand."""
        part = self.lesson.parts[self.at] if self.at < len(self.lesson.parts) else None
        return part if part is not None and part.kind else None

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self.at >= len(self.lesson.parts)

    def begin(self) -> list[str]:
        """What is to be shown first."""
        return self._shown()

    def say(self, line: str) -> list[str]:
        """Take what the student said; what is to be shown then. Raises HostError for what cannot be done."""
        word = line.strip()
        if word in ("quit", "q"):
            self.over = True
            return []
        if word in ("help", "?"):
            return [HELP]
        if word == "again":
            return self._shown()
        task = self.task
        if task is None:
            return self._on()
        if word == "hint":
            return _prose(task.hint) or ["there is no hint for this one"]
        if word == "skip":
            return [*_prose(task.answer), *self._on()]
        return {PREDICT: self._predict, STEP: self._step, FIX: self._fix}[task.kind](task, word)

    def _predict(self, task: Part, word: str) -> list[str]:
        if not (word.isdecimal() and 1 <= int(word) <= len(task.choices)):
            return [f"answer 1 to {len(task.choices)}, or `hint`, or `skip`"]
        right = word == task.subject
        self.solved += right
        verdict = "Right." if right else f"No, it is {task.subject}: {task.choices[int(task.subject) - 1]}"
        return [verdict, f"See it: {task.about['shown by']}", "", *_prose(task.answer), *self._on()]

    def _step(self, task: Part, word: str) -> list[str]:
        assert self._session is not None  # made when the task was shown
        if word == "screen":
            self._screen(self._session)
            told = [self._session.here()]
        else:
            told = self._session.say("help" if word == "help words" else word)
        last = task.about["by"].split(" | ")[-1]
        looked = word == last or last.partition(" ")[0] not in _LOOKS
        if not (looked and met(self._session, task.about["until"])):
            return told
        self.solved += 1
        return [*told, "", DONE, *_prose(task.answer), *self._on()]

    def _fix(self, task: Part, word: str) -> list[str]:
        if word not in ("", "check"):
            return [f"change {task.subject}, then press Enter: it runs `{task.about['check']}`"]
        ran = self._run(task.about["check"])
        lines = ran.output.rstrip().splitlines()
        if not ran.passes(task.about["passes"]):
            return [*lines, "", f"Not yet: change {task.subject} and press Enter, or ask for a `hint`."]
        self.solved += 1
        return [*lines, "", DONE, *_prose(task.answer), *self._on()]

    def _on(self) -> list[str]:
        self.at += 1
        self._session = None
        return ["", *self._shown()]

    def _shown(self) -> list[str]:
        if self.done:
            self.over = True
            return [f"This was lesson {self.lesson.number}, {self.lesson.title}."]
        part = self.lesson.parts[self.at]
        if part.kind == STEP:
            self._session = self._session_of(part.subject)
            stepper = f"(the stepper, with {part.subject})"
            words = "(`help words` lists its words, `screen` opens it on the whole screen)"
            return [*_prose(part.text), "", stepper, words, self._session.here()]
        return _prose(part.text)


def _prose(text: str) -> list[str]:
    return [Prose(text.rstrip())] if text else []


def met(session: Session, until: str) -> bool:
    """Whether `WORD shows TEXT` holds of a session. Raises HostError for words that mean nothing."""
    word, shows, text = until.partition(" shows ")
    if not shows:
        raise HostError(f"{until!r} says nothing of a session", remedy="write it as `area shows TEXT`")
    return any(text in line for line in session.say(word))
