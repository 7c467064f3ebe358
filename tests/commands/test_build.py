"""`emu build`: an ELF file, or what the compiler said and one sentence with its first error."""

import json
import os
import shutil
import sys

import pytest

from emu import compiler, complaint
from emu.__main__ import main

GOOD = "int main(int cpu, int ncpus) { (void)cpu; (void)ncpus; return 9; }\n"


def refused(capsys, *words: object) -> tuple[str, str]:
    """What was shown before the sentence, and the sentence."""
    assert main(["build", *map(str, words)]) == 2
    told = capsys.readouterr()
    detail, _, sentence = told.err.rstrip("\n").rpartition("\n")
    assert told.out == "" and sentence.startswith("emu: ") and "emu: " not in detail
    return detail, sentence


def sentence(capsys, *words: object) -> str:
    detail, told = refused(capsys, *words)
    assert detail == ""
    return told


def test_built_guest_lies_beside_its_source_and_runs(capsys, tmp_path):
    (tmp_path / "nine.c").write_text(GOOD)
    assert main(["build", str(tmp_path / "nine.c")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'nine.elf'}\n"
    assert main(["run", str(tmp_path / "nine.elf"), "--quiet"]) == 9


def test_output_goes_where_it_is_asked_for(capsys, tmp_path):
    (tmp_path / "nine32.c").write_text(GOOD)
    (tmp_path / "there").mkdir()
    assert main(["build", str(tmp_path / "nine32.c"), "-o", str(tmp_path / "there" / "x.elf")]) == 0
    assert main(["run", str(tmp_path / "there" / "x.elf"), "--quiet"]) == 9


def test_build_leaves_the_elf_file_and_nothing_else(capsys, tmp_path):
    (tmp_path / "nine.c").write_text(GOOD)
    assert main(["build", str(tmp_path / "nine.c")]) == 0
    assert {one.name for one in tmp_path.iterdir()} == {"nine.c", "nine.elf"}


def test_folder_that_is_not_there_is_refused_and_not_made(capsys, tmp_path):
    (tmp_path / "nine.c").write_text(GOOD)
    assert "no such folder" in sentence(capsys, tmp_path / "nine.c", "-o", tmp_path / "absent" / "x.elf")
    assert {one.name for one in tmp_path.iterdir()} == {"nine.c"}


@pytest.mark.parametrize(
    "head", ["int main(void)", "int main(int cpu, int ncpus)", "int main(unsigned cpu, unsigned ncpus)", "int main()"]
)
@pytest.mark.parametrize("name", ["any.c", "any32.c"])
def test_main_may_have_either_form_and_brings_no_warning(capsys, tmp_path, head, name):
    (tmp_path / name).write_text(f'#include "guest.h"\n{head}\n{{\n    return 5;\n}}\n')
    assert main(["build", str(tmp_path / name), "-o", str(tmp_path / "any.elf")]) == 0
    assert capsys.readouterr().err == ""
    assert main(["run", str(tmp_path / "any.elf"), "--quiet", "--vcpus", "2"]) == 5


def test_help_shows_the_signature_of_main_that_guests_use(capsys):
    assert main(["build", "--help"]) == 0
    told = capsys.readouterr().out
    assert '#include "guest.h"' in told and "int main(uint32_t cpu, uint32_t ncpus)" in told


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("syntax.c", "int main(void) {\n  return 1 +;\n}\n", "syntax.c:2"),
        ("missing.c", '#include "nowhere.h"\n', "missing.c:1"),
        ("unknown.c", "int main(void) { return f(1); }\n", "unknown.c:1"),
        ("bad.S", ".intel_syntax noprefix\n.globl _start\n_start: frobnicate eax\n", "bad.S:3"),
        ("linked.c", "int f(int);\nint main(void) { return f(1); }\n", "linked.c:2: `f` is not defined anywhere"),
        ("nomain.c", "int x;\n", "nomain.c: there is no main()"),
    ],
)
def test_first_error_is_told_below_all_that_the_compiler_said(capsys, tmp_path, monkeypatch, name, text, place):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    detail, told = refused(capsys, f"here/{name}")
    assert told.startswith(f"emu: here/{place}") and told.count(name) == 1
    assert "rror: " in detail or "undefined" in detail
    assert str(tmp_path) not in detail + told and "guests/guests" not in detail
    assert [one.name for one in (tmp_path / "here").iterdir()] == [name]


def test_second_error_is_shown_as_well(capsys, tmp_path):
    (tmp_path / "two.c").write_text("int main(void) {\n  walrus;\n  ocelot;\n  return 0;\n}\n")
    detail, told = refused(capsys, tmp_path / "two.c")
    assert "two.c:2" in told and "ocelot" in detail and "ocelot" not in told


def test_error_in_a_header_is_told_with_the_headers_name(capsys, tmp_path, monkeypatch):
    (tmp_path / "mine.h").write_text("int broken(;\n")
    (tmp_path / "mine.c").write_text('#include "mine.h"\nint main(void) { return 0; }\n')
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "mine.c")[1].startswith("emu: mine.h:1: ")


def test_output_of_the_compiler_is_bounded(capsys, tmp_path):
    (tmp_path / "long.c").write_text("int main(void) { return 0; }\n" + "int x = nonsense;\nlong x;\n" * 200)
    detail, _ = refused(capsys, tmp_path / "long.c")
    lines = detail.splitlines()
    assert len(lines) == complaint.MAX_LINES + 1 and lines[-1].startswith("... and ")


def test_error_with_json_is_one_object_with_the_compilers_output_in_it(capsys, tmp_path):
    (tmp_path / "bad.c").write_text("int main(void) { return nonsense; }\n")
    assert main(["run", str(tmp_path / "bad.c"), "--json"]) == 2
    told = capsys.readouterr()
    error = json.loads(told.out)
    assert set(error) == {"error", "where", "remedy", "detail"}
    assert "nonsense" in error["error"] and error["where"].endswith("bad.c:1") and "nonsense" in error["detail"]
    assert told.err.count("\n") == 1


def test_warnings_of_a_guest_that_builds_are_shown(capsys, tmp_path, monkeypatch):
    (tmp_path / "warned.c").write_text("int main(void) {\n  int unused = 1;\n  return 9;\n}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["build", "warned.c"]) == 0
    told = capsys.readouterr()
    assert told.out == "warned.elf\n" and "warned.c:2" in told.err and "unused" in told.err
    assert main(["run", "warned.c", "--quiet"]) == 9
    assert "warned.c:2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('int main(void) { printf("x"); return 0; }\n', "put_text() of guest.h"),
        ('int puts(const char *);\nint main(void) { puts("x"); return 0; }\n', "put_text() of guest.h"),
        ("#include <stdio.h>\nint main(void) { return getchar(); }\n", "put_text() of guest.h"),
        ("int main(void) { char a[9]; memset(a, 0, 9); return a[0]; }\n", "guest.h declares memset"),
    ],
)
def test_use_of_a_c_library_is_answered_with_what_there_is(capsys, tmp_path, text, hint):
    (tmp_path / "libc.c").write_text(text)
    told = refused(capsys, tmp_path / "libc.c")[1]
    assert "there is no C library below a guest" in told and hint in told


@pytest.mark.parametrize(
    ("name", "told"), [("nowhere.c", "no such file"), (".", "folder"), ("x.py", "no guest source")]
)
def test_what_is_no_source_is_refused(capsys, tmp_path, monkeypatch, name, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text("")
    assert told in sentence(capsys, name)


def test_source_is_never_replaced_by_its_elf_file(capsys, tmp_path):
    path = tmp_path / "nine.c"
    path.write_text(GOOD)
    assert "replace its own source" in sentence(capsys, path, "-o", path)
    assert path.read_text() == GOOD


@pytest.mark.parametrize("place", [".", ""])
def test_folder_is_no_place_for_an_elf_file(capsys, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nine.c").write_text(GOOD)
    assert "folder" in sentence(capsys, "nine.c", "-o", place)


@pytest.mark.skipif(sys.platform == "win32", reason="a file in place of a folder is told otherwise there")
def test_place_that_cannot_be_written_is_refused(capsys, tmp_path):
    (tmp_path / "nine.c").write_text(GOOD)
    (tmp_path / "file").write_text("")
    assert "no such folder" in sentence(capsys, tmp_path / "nine.c", "-o", tmp_path / "file" / "x.elf")


def test_text_that_is_not_utf8_is_refused(capsys, tmp_path):
    (tmp_path / "x.c").write_bytes(b"\xff")
    assert "cannot be read" in sentence(capsys, tmp_path / "x.c")


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
    chosen = os.path.join(str(tmp_path), "no-such-cc")
    monkeypatch.setenv("CC", chosen)
    assert main(["build", str(tmp_path / "nine.c")]) == 0
    told = capsys.readouterr().err
    assert told.startswith(f"emu: note: CC={chosen} does not work here, using ") and told.count("\n") == 1


@pytest.mark.parametrize("chosen", [" ", "'", ""])
def test_chosen_compiler_that_is_no_command_does_no_harm(capsys, tmp_path, monkeypatch, chosen):
    (tmp_path / "nine.c").write_text(GOOD)
    monkeypatch.setenv("CC", chosen)
    assert main(["build", str(tmp_path / "nine.c")]) == 0
    assert ("note" in capsys.readouterr().err) == (chosen == "'")


def test_chosen_compiler_that_works_needs_no_note(capsys, tmp_path, monkeypatch):
    gcc = shutil.which("gcc")
    if not gcc or not compiler._works(compiler.Compiler("gcc", "", (gcc,), compiler._WORD_FLAGS)):
        pytest.skip("no gcc for x86-64 on this machine")
    (tmp_path / "nine.c").write_text(GOOD)
    monkeypatch.setenv("CC", gcc)
    assert main(["build", str(tmp_path / "nine.c")]) == 0
    assert capsys.readouterr().err == ""
