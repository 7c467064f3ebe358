"""What the cells of a lesson's notebook call: our own commands, and a stepper that shows itself.

run("emu run clock")                    prints what the command prints
check("emu run mine.c", passes="PASS")  the same, and says whether it is right
walk = step("clock --task busy")        a walk through a run; walk.say("update", "read"), and walk alone draws it
"""

import contextlib
import importlib
import io
import shlex
from collections.abc import Callable

from emu import data
from emu.commands import step as stepper
from emu.faults import HostError
from emu.teach.guide import DONE, Ran, met
from emu.view.session import Session

_NOT_YET = "Not yet."


def ran(command: str) -> Ran:
    """Run one of our own commands here. Raises HostError for a word that is none."""
    _emu, name, *words = shlex.split(command)
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        try:
            status: int = importlib.import_module(f"emu.commands.{name}").main(words)
        except HostError as error:
            print(*filter(None, (error.detail, error.sentence)), sep="\n")
            status = 2
    return Ran(status, screen.getvalue())


def run(command: str) -> None:
    """Run the command, and print what it prints."""
    print(ran(command).output, end="")


def check(command: str, *, passes: str) -> None:
    """Run the command, and say whether it prints what it should."""
    outcome = ran(command)
    print(outcome.output)
    print(DONE if outcome.passes(passes) else _NOT_YET)


def session(words: str, check: Callable[[], None]) -> Session:
    """A session of the stepper, with the reference build of a guest of ours: a lesson's numbers are those of that."""
    guest, *options = shlex.split(words)
    with contextlib.suppress(HostError):
        guest = str(data.guest_path(guest, reference=True))
    return stepper.session([guest, *options], check)


class Walk:
    """A session of the stepper; `until` is what a lesson wants to be shown, such as `area shows version 2`."""

    def __init__(self, words: str, until: str | None = None) -> None:
        self.session = session(words, lambda: None)
        self._until = until

    def say(self, *words: str) -> None:
        """Say these words, as in `emu step`, and print what they tell."""
        for word in words:
            try:
                told = self.session.say(word)
            except HostError as error:
                told = [error.sentence]
            print(f"> {word}", *told, sep="\n")
        if self._until is not None:
            print(DONE if met(self.session, self._until) else _NOT_YET)

    def _repr_html_(self) -> str:
        from emu.report.notebook import of_history

        return of_history(self.session.history)


def step(words: str, until: str | None = None) -> Walk:
    """A walk through the run that `emu step` with these words would show. Raises HostError where it cannot."""
    return Walk(words, until)
