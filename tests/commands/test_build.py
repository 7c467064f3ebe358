"""`emu build`: an ELF file, or one sentence with the compiler's first complaint."""

import os
import sys

import pytest

from emu import compiler
from emu.__main__ import main

GOOD = "int main(int cpu, int ncpus) { (void)cpu; (void)ncpus; return 9; }\n"


def complaint(capsys, *words: object) -> str:
    assert main(["build", *map(str, words)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("emu: ") and told.err.count("\n") == 1
    return told.err


def test_built_guest_lies_beside_its_source_and_runs(capsys, tmp_path):
    (tmp_path / "nine.c").write_text(GOOD)
    assert main(["build", str(tmp_path / "nine.c")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'nine.elf'}\n"
    assert main(["run", str(tmp_path / "nine.elf"), "--quiet"]) == 9


def test_output_goes_where_it_is_asked_for(capsys, tmp_path):
    (tmp_path / "nine32.c").write_text(GOOD)
    assert main(["build", str(tmp_path / "nine32.c"), "-o", str(tmp_path / "deep" / "x.elf")]) == 0
    assert main(["run", str(tmp_path / "deep" / "x.elf"), "--quiet"]) == 9


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("syntax.c", "int main(void) {\n  return 1 +;\n}\n", "syntax.c:2"),
        ("missing.c", '#include "nowhere.h"\n', "missing.c:1"),
        ("unknown.c", "int main(void) { return f(1); }\n", "unknown.c:1"),
        ("bad.S", ".intel_syntax noprefix\n.globl _start\n_start: frobnicate eax\n", "bad.S:3"),
        ("nomain.c", "int x;\n", "main"),
    ],
)
def test_first_complaint_of_the_compiler_is_told_with_its_line(capsys, tmp_path, name, text, place):
    (tmp_path / name).write_text(text)
    assert place in complaint(capsys, tmp_path / name)
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "told"), [("nowhere.c", "no such file"), (".", "folder"), ("x.py", "no guest source")]
)
def test_what_is_no_source_is_refused(capsys, tmp_path, monkeypatch, name, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text("")
    assert told in complaint(capsys, name)


def test_source_is_never_replaced_by_its_elf_file(capsys, tmp_path):
    path = tmp_path / "nine.c"
    path.write_text(GOOD)
    assert "replace its own source" in complaint(capsys, path, "-o", path)
    assert path.read_text() == GOOD


@pytest.mark.parametrize("place", [".", ""])
def test_folder_is_no_place_for_an_elf_file(capsys, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nine.c").write_text(GOOD)
    assert "folder" in complaint(capsys, "nine.c", "-o", place)


@pytest.mark.skipif(sys.platform == "win32", reason="a file in place of a folder is told otherwise there")
def test_place_that_cannot_be_written_is_refused(capsys, tmp_path):
    (tmp_path / "nine.c").write_text(GOOD)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in complaint(capsys, tmp_path / "nine.c", "-o", tmp_path / "file" / "x.elf")


def test_text_that_is_not_utf8_is_refused(capsys, tmp_path):
    (tmp_path / "x.c").write_bytes(b"\xff")
    assert "cannot be read" in complaint(capsys, tmp_path / "x.c")


@pytest.mark.parametrize("command", ["build", "run"])
def test_no_compiler_at_all_says_how_to_get_one(capsys, tmp_path, monkeypatch, command):
    (tmp_path / "nine.c").write_text(GOOD)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler, "zig", lambda: None)
    assert main([command, str(tmp_path / "nine.c")]) == 2
    told = capsys.readouterr().err
    assert "no compiler" in told and "pip install ziglang" in told and told.count("\n") == 1


def test_chosen_compiler_that_is_none_is_passed_over(capsys, tmp_path, monkeypatch):
    (tmp_path / "nine.c").write_text(GOOD)
    monkeypatch.setenv("CC", os.path.join(str(tmp_path), "no-such-cc"))
    assert main(["build", str(tmp_path / "nine.c")]) == 0
