"""What README.md shows is what happens: its Python runs, its commands run, its output is the real one."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from emu import data, toolchain
from emu.__main__ import main
from emu.compiler import reference_compiler
from emu.faults import HostError

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.is_file() else ""
GUEST = "mine.c"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def shown(source: str) -> str:
    """The output block under the comment that names what it is the output of."""
    comment = re.escape(f"<!-- output of: {source} -->")
    found = re.findall(rf"^{comment}\n```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, source
    return found[0]


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith("emu ")]


def shows(part: str, whole: str) -> bool:
    """Whether `whole` reads as `part`, where a line of three dots stands for any lines."""
    pattern = r"(?:.*\n)*".join(re.escape(piece) for piece in part.split("...\n"))
    return re.fullmatch(pattern, whole) is not None


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Guests and compiler are the reference ones, whose numbers README shows; the folder holds its C program."""
    try:
        compiler = reference_compiler()
        toolchain.build_guests(reference=True)
    except HostError as missing:
        pytest.skip(f"the reference guests cannot be built here: {missing}")
    by_name = data.guest_path
    monkeypatch.setattr(data, "guest_path", lambda name: by_name(name, reference=True))
    monkeypatch.setattr(toolchain, "find_compiler", lambda: compiler)
    (guest,) = blocks("c")
    (tmp_path / GUEST).write_text(guest, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_command_shown_runs_and_ends_with_the_status_shown(reference, command, capsys):
    words, _, comment = command.partition("#")
    expected = int(found[1]) if (found := re.search(r"status (\d+)", comment)) else 0
    assert main(shlex.split(words)[1:]) == expected, capsys.readouterr().err


def test_demonstration_shown_is_the_real_one(reference, capsys):
    command = "emu run clock --vcpus 2 --task busy"
    assert main(shlex.split(command)[1:]) == 0
    assert shows(shown(command), capsys.readouterr().out)


def test_make_run_and_the_scenario_demo_are_the_demonstration_shown(reference, capsys):
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"\$\(EMU\) run (clock --vcpus 2 --task busy|demo)\n", makefile)
    assert main(["run", "demo"]) == 0
    assert shows(shown("emu run clock --vcpus 2 --task busy"), capsys.readouterr().out)


def test_python_shown_runs_and_prints_what_is_shown(reference):
    (program,) = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "README.md", "exec"), {})
    assert printed.getvalue() == shown("python")


def test_own_guest_prints_no_steal_without_a_competitor_and_some_with_one(reference, capsys):
    found = []
    for options in ([], ["--task", "busy"]):
        assert main(["run", GUEST, "--quiet", *options]) == 0
        found.append(int(capsys.readouterr().out.removesuffix(" ns stolen so far\n")))
    assert found[0] == 0 < found[1]


@pytest.mark.parametrize("whole", ["a\nb\nc\nd\n", "a\nd\n"])
def test_dots_stand_for_any_lines(whole):
    assert shows("a\n...\nd\n", whole)


@pytest.mark.parametrize("whole", ["a\nb\nc\n", "x\na\nd\n", "a\nd\ne\n"])
def test_output_that_differs_is_caught(whole):
    assert not shows("a\n...\nd\n", whole)
