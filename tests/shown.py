"""What a document shows, as something that can be run: its files, its commands, and the outputs beside them.

A document has, besides its prose:

    <!-- file: NAME -->            the block that follows is a file of this name
    ```sh                          lines that begin with `emu` or `grep -F` are commands; `# status N` is how one ends
    <!-- output -->                the `text` block that follows is the output of the command (or Python) shown before
    <!-- output of: COMMAND -->    the same for a command that is shown elsewhere

An output may be shown in part: `<!-- output, lines 1-4 -2 -->` shows these lines (counted from the end where negative),
`<!-- output, with "steal" -->` those that contain the text, and `<!-- output, from "The run" to "pcpu0" -->` a stretch;
three dots stand for what is left out. Everything is run with the reference guests, in one folder for each document, in
the order of the document.

    python -m tests.shown          writes all outputs anew; read the difference
"""

import contextlib
import fcntl
import functools
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from emu import data, toolchain
from emu.__main__ import main
from emu.compiler import reference_compiler

ROOT = Path(__file__).parent.parent
RUN_DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "tutorials/running.md", "tutorials/first-hour.md", "tutorials/history.md")),
    *sorted((ROOT / "tutorials").glob("[0-9]*/README.md")),
)
DOTS = "..."
_FENCED = re.compile(
    r"(?:^<!-- (?P<comment>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_OUTPUT = re.compile(
    r"output(?: of: (?P<of>.+?))?"
    r'(?:, lines (?P<lines>[-\d ]+)|, with (?P<texts>"[^>]*")|, from "(?P<first>[^">]*)" to "(?P<last>[^">]*)")?'
)


class Shown(NamedTuple):
    """One step of a document: `kind` is file, command, python or output.

    `name` is a file's name, else the command; `text` is the block; `span` where it stands. Of an output, `part` says
    which lines are shown.
    """

    kind: str
    name: str
    text: str
    span: tuple[int, int]
    status: int = 0
    part: str = ""

    @property
    def label(self) -> str:
        return f"{self.kind}: {self.name}{self.part}"


def steps(text: str) -> list[Shown]:
    """Everything in a document that is done or shown, in order. Raises ValueError for an output of nothing."""
    found: list[Shown] = []
    last = ""
    for match in _FENCED.finditer(text):
        comment, language, body = match["comment"] or "", match["language"], match["body"]
        span = match.span("body")
        if comment.startswith("file: "):
            found.append(Shown("file", comment.removeprefix("file: "), body, span))
        elif language == "sh":
            for line in body.splitlines():
                command, _, remark = line.partition("  #")
                if command.startswith(("emu ", "grep -F ")):
                    status = int(said[1]) if (said := re.search(r"status (\d+)", remark)) else 0
                    last = command.strip()
                    found.append(Shown("command", last, line, span, status))
        elif language == "python":
            last = "python"
            found.append(Shown("python", last, body, span))
        elif named := _OUTPUT.fullmatch(comment):
            command = named["of"] or last
            if language != "text" or not command:
                raise ValueError(f"an output of nothing: {comment}")
            part = comment[named.end("of") if named["of"] else len("output") :]
            found.append(Shown("output", command, body, span, 0, part))
    return found


def part_of(output: str, part: str) -> str:
    """The lines of an output that `part` names, three dots in place of each run of others."""
    named = _OUTPUT.fullmatch(f"output{part}")
    assert named is not None, part
    lines = output.splitlines()
    if named["lines"]:
        kept: set[int] = set()
        for word in named["lines"].split():
            if word.startswith("-"):
                kept.add(len(lines) - int(word[1:]))
            else:
                first, _, end = word.partition("-")
                kept |= set(range(int(first) - 1, int(end or (len(lines) if word.endswith("-") else first))))
    elif named["texts"]:
        texts = shlex.split(named["texts"])
        kept = {number for number, line in enumerate(lines) if any(text in line for text in texts)}
    elif named["first"]:
        first_at = next((n for n, line in enumerate(lines) if named["first"] in line), len(lines))
        last_at = max((n for n, line in enumerate(lines) if named["last"] in line), default=-1)
        kept = set(range(first_at, last_at + 1))
    else:
        return output
    if not kept <= set(range(len(lines))) or not kept:
        raise ValueError(f"the output has no such lines{part}:\n{output}")
    made: list[str] = []
    for number, line in enumerate(lines):
        if number in kept:
            made.append(line)
        elif made[-1:] != [DOTS]:
            made.append(DOTS)
    return "".join(f"{line}\n" for line in made)


@contextlib.contextmanager
def reference_guests() -> Iterator[None]:
    """Guests and compiler are the reference ones. Raises HostError where they cannot be built here."""
    compiler = reference_compiler()
    folder = data.build_dir()
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:  # tests run in two processes, and both may be the first
        fcntl.flock(lock, fcntl.LOCK_EX)
        toolchain.build_guests(reference=True)
    by_name = data.guest_path
    with (
        mock.patch.object(data, "guest_path", lambda name, **_: by_name(name, reference=True)),
        mock.patch.object(toolchain, "find_compiler", return_value=compiler),
    ):
        yield


class Outcome(NamedTuple):
    """How a command ended, and all it printed, in the order in which a terminal would show it."""

    status: int
    output: str


def run(command: str) -> Outcome:
    """Run one command line in this process and the current folder."""
    words = shlex.split(command)
    if words[:2] == ["grep", "-F"]:
        lines = Path(words[3]).read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if words[2] in line]
        return Outcome(0 if found else 1, "".join(f"{line}\n" for line in found))
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        status = main(words[1:])
    screen.flush()
    # A path below the current folder may be told in full; the folder is another one each time.
    output = screen.buffer.getvalue().decode().replace(f"{os.getcwd()}{os.sep}", "")  # type: ignore[attr-defined]
    return Outcome(status, output)


def run_python(program: str, name: str) -> Outcome:
    """Run a program shown in document `name`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, name, "exec"), {"__name__": "__main__"})
    return Outcome(0, printed.getvalue())


class Played(NamedTuple):
    """A document's step with what really came of it: a status for a command, an output for an output."""

    step: Shown
    status: int
    output: str


@functools.cache
def played(path: Path) -> tuple[Played, ...]:
    """Everything that the document shows, done. Raises HostError where the reference guests cannot be built."""
    done: list[Played] = []
    outcomes: dict[str, Outcome] = {}
    before = os.getcwd()
    with reference_guests(), tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for step in steps(path.read_text(encoding="utf-8")):
                if step.kind == "file":
                    Path(step.name).write_text(step.text, encoding="utf-8")
                elif step.kind == "python":
                    outcomes["python"] = run_python(step.text, path.name)
                elif step.name not in outcomes:
                    outcomes[step.name] = Outcome(0, "") if needs_kvm(step) or waits(step) else run(step.name)
                outcome = outcomes.get(step.name, Outcome(0, ""))
                output = part_of(outcome.output, step.part) if step.kind == "output" else ""
                done.append(Played(step, outcome.status, output))
        finally:
            os.chdir(before)
    return tuple(done)


def needs_kvm(step: Shown) -> bool:
    """Whether a step is about the real /dev/kvm, which most machines do not offer; tests/kvm runs such a command."""
    return "--on kvm" in step.name


def waits(step: Shown) -> bool:
    """Whether a command waits for somebody: for gdb, as tests/gdb does it, or for words, as tests/commands."""
    words = shlex.split(step.name)
    return words[1] in ("gdb", "lesson") or (words[1] == "step" and "--do" not in words)


def rewritten(path: Path) -> str:
    """The document's text with all outputs as they are now."""
    text = path.read_text(encoding="utf-8")
    for step, _, output in reversed(played(path)):
        if step.kind == "output":
            text = text[: step.span[0]] + output + text[step.span[1] :]
    return text


if __name__ == "__main__":
    for document in RUN_DOCUMENTS:
        document.write_text(rewritten(document), encoding="utf-8")
