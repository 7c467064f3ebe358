"""`emu step`: go through a run step by step, forward and back, and be the host.

Exit status: 0 at the end of the session, 2 for input that cannot be used.
"""

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

from emu.commands.flags import Once, Parser, add_options
from emu.commands.interruption import interruption
from emu.commands.opened import session_of
from emu.faults import HostError, escaped
from emu.view.session import WORDS, Session

_PROMPT = "> "
_EPILOG = (
    "words, with their letters:\n"
    + "\n".join(f"  {f'{word.name} {word.arguments}':<17} {word.short or ' '}  {word.help}" for word in WORDS)
    + """

examples:
  emu step readers/odd_only
  emu step clock --vcpus 2 --task busy
  emu step odd_only.emurec                     a recording, such as explore makes
  emu step readers/odd_only --do "to event:wrmsr; read; step; store; step"

An empty line is a step. Words can also come from a file or a pipe. There, and
in --do, the first one that cannot be done ends the session, with status 2.
"""
)


def main(arguments: list[str]) -> int:
    """Run `emu step` with these words."""
    parsed = _parser().parse(arguments)
    with interruption() as check:
        one = session_of(parsed, check)
        if parsed.do is not None:
            return _talk(one, io.StringIO(parsed.do.replace(";", "\n")), interactive=False)
        if not parsed.plain and sys.stdin.isatty() and sys.stdout.isatty():
            screen(one, os.path.basename(parsed.guest), check)
            return 0
        return _talk(one, sys.stdin, interactive=sys.stdin.isatty())


def session(words: list[str], check: Callable[[], None]) -> Session:
    """The session that `emu step` would begin with these words. Raises HostError for words that cannot be used."""
    return session_of(_parser().parse(words), check)


def screen(one: Session, name: str, check: Callable[[], None]) -> None:
    """Show a session on the whole screen until its user leaves that."""
    from emu.view.courses import survey
    from emu.view.screen import Stepper

    Stepper(one, name, lambda: survey(one.history, check)).run()


def _talk(session: Session, words: TextIO, *, interactive: bool) -> int:
    """Read words until there are no more; a script ends at the first that cannot be done."""
    print(session.here(), flush=True)
    while not session.over:
        if interactive:
            print(_PROMPT, end="", flush=True)
        line = words.readline()
        if not line:
            if interactive:
                print()
            break
        if not interactive and not line.strip():
            continue
        if line.lstrip().startswith("#"):
            continue
        if not interactive:
            print(f"{_PROMPT}{line.strip()}", flush=True)
        try:
            told = session.say(line)
        except HostError as error:
            if not interactive:
                raise
            told = [error.sentence]
        print("\n".join(escaped(one) for one in told), flush=True)
    return 0


def _parser() -> Parser:
    parser = Parser("step", "Go through a run, forward and back, line by line.", _EPILOG, "emu step GUEST [options]")
    parser.add_argument("guest", metavar="GUEST", help="as for `emu run`, or a recording (.emurec)")
    parser.add_argument("--plain", action="store_true", help="line by line, also in a terminal; for screen readers")
    parser.add_argument("--do", action=Once, metavar="WORDS", help="these words, with ; between them, and no others")
    add_options(parser)
    return parser
