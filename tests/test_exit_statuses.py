"""How a run's end becomes the status of `emu run`."""

from pathlib import Path

import pytest

from emu import data, toolchain
from emu.__main__ import main
from emu.machine import Machine

PROGRAMS = {
    "byte": "mov eax, 0x1234\n out PORT_EXIT, ax",
    "halted": "cli\n hlt",
    "endless": "1: jmp 1b",
    "printing": "1: out PORT_CONSOLE, al\n jmp 1b",
    "exiting": "1: cpuid\n jmp 1b",
    "faulting": "ud2",
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("statuses")
    compiler = toolchain.find_compiler()
    for name, source in PROGRAMS.items():
        path = folder / f"{name}.S"
        head = '.intel_syntax noprefix\n#include "abi.h"\n.globl _start\n_start:\n'
        path.write_text(f"{head}{source}\n", encoding="utf-8")
        toolchain.build(path, path.with_suffix(".elf"), compiler=compiler)
    return folder


@pytest.mark.parametrize(
    ("program", "options", "status"),
    [
        ("byte", (), 0x34),
        ("halted", ("--task", "busy"), 0),
        ("endless", ("--time-limit", "1us"), 124),
        ("endless", ("--insn-limit", "100"), 124),
        ("printing", ("--output-limit", "1K"), 124),
        ("exiting", ("--exit-limit", "10"), 124),
        ("faulting", (), 125),
    ],
)
def test_end_of_a_run_is_its_status(programs, capsys, program, options, status):
    assert main(["run", str(programs / f"{program}.elf"), *options]) == status


def test_interrupted_run_ends_with_130_and_its_summary(programs, capsys, monkeypatch):
    turn = Machine.turn

    def interrupted(self: Machine) -> None:
        if self.instructions:
            self.interrupt()
        turn(self)

    monkeypatch.setattr(Machine, "turn", interrupted)
    assert main(["run", str(programs / "endless.elf")]) == 130
    assert "ran ns" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("run", "no-such-guest"),
        ("run", "no/such/file.elf"),
        ("run", "hello", "--vcpus", "0"),
        ("run", "hello", "--policy", "lottery"),
        ("run", "hello", "--no-such-option"),
        ("run", str(data.guests_dir() / "guest.ld")),
        ("no-such-command",),
    ],
)
def test_bad_input_ends_with_2_and_one_line(capsys, words):
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("emu: ") and captured.err.count("\n") == 1
    assert captured.out == ""
