"""What is the same in all programs is built once, and the programs come out the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emu import data
from emu.boot.elf import elf_image
from emu.classroom import assignment, judge, program, recipe, verdict
from emu.classroom.recipe import Recipe
from emu.compiler import Compiler, find_compiler, reference_compiler
from emu.faults import HostError

sandboxed = pytest.mark.skipif(not hasattr(os, "posix_spawnp"), reason="sandboxes are for Linux")
ROOT = Path(__file__).resolve().parents[2]
CLOCK = assignment.read(data.assignment_dirs()["steal-clock"])
GIVEN = CLOCK.given_files()
SOLUTION = CLOCK.handed_in(CLOCK.folder / "solution")


@pytest.fixture(scope="module", params=["the one found", "zig"])
def compiler(request: pytest.FixtureRequest) -> Compiler:
    return find_compiler() if request.param == "the one found" else reference_compiler()


def test_program_is_the_same_byte_for_byte(compiler: Compiler) -> None:
    made = program.prepared(GIVEN, compiler)
    assert set(made) == {"main.c.o", "start.S.o", "trap.S.o", "runtime.c.o"}
    whole = program.build(SOLUTION, GIVEN, compiler, {})
    assert program.build(SOLUTION, GIVEN, compiler, made) == whole == program.build(SOLUTION, GIVEN, compiler)


def test_what_is_prepared_is_used(compiler: Compiler) -> None:
    made = {**program.prepared(GIVEN, compiler), "main.c.o": b"no object"}
    with pytest.raises(HostError):
        program.build(SOLUTION, GIVEN, compiler, made)


def test_refusal_of_the_linker_names_no_folder(compiler: Compiler) -> None:
    files = {"clock.c": SOLUTION["clock.c"].replace(b"clock_stop", b"clock_halt")}
    said = []
    for made in ({}, program.prepared(GIVEN, compiler)):
        with pytest.raises(HostError) as error:
            program.build(files, GIVEN, compiler, made)
        said.append((error.value.sentence, error.value.detail))
    assert said[0] == said[1] and "clock_stop" in said[0][0] and "/tmp" not in said[0][1]


def test_header_that_was_handed_in_is_seen_by_all_sources(compiler: Compiler) -> None:
    # Where a given source might find it in the place of another one, that source is built again.
    made = {**program.prepared(GIVEN, compiler), "main.c.o": b"no object"}
    files = {**SOLUTION, "stdint.h": b"#include_next <stdint.h>\n"}
    assert program.build(files, GIVEN, compiler, made) == program.build(files, GIVEN, compiler, {})


@pytest.mark.parametrize(
    "text", [b'#include "more.h"\n', b'#if __has_include("clock.c")\n#endif\n', b'#include "clock.c"\n']
)
def test_given_source_that_looks_at_what_is_handed_in_is_not_prepared(text: bytes) -> None:
    assert program.prepared({**GIVEN, "main.c": text + GIVEN["main.c"]}, find_compiler()) == {}


def in_a_process(wanted: Recipe, compiler: Compiler, folder: Path) -> bytes:
    """What the builder of a sandbox answers, without the sandbox."""
    bare = [sys.executable, "-I", "-S", "-B", "-c"]
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from emu.classroom import builder; builder.build()"
    environment = {**os.environ, "TMPDIR": str(folder)}
    asked = recipe.request(wanted, compiler)
    return subprocess.run([*bare, code], input=asked, stdout=subprocess.PIPE, check=True, env=environment).stdout


@sandboxed
def test_builder_of_a_sandbox_makes_the_same_and_leaves_nothing(compiler: Compiler, tmp_path: Path) -> None:
    objects = recipe.of_objects(GIVEN, compiler)
    assert objects is not None
    made = recipe.made(objects, in_a_process(objects, compiler, tmp_path))
    assert made == program.prepared(GIVEN, compiler)
    for known in ({}, made):
        wanted = recipe.of_program(SOLUTION, GIVEN, compiler, known)
        found = recipe.made(wanted, in_a_process(wanted, compiler, tmp_path))
        assert found == {"program.elf": program.build(SOLUTION, GIVEN, compiler)}
    assert list(tmp_path.iterdir()) == []


_REFUSED = {
    "syntax": SOLUTION["clock.c"] + b"int x = ;\n",
    "no such function": SOLUTION["clock.c"] + b"void f(void) { printf(0); }\n",
    "not defined": SOLUTION["clock.c"].replace(b"clock_stop", b"clock_halt"),
    "not UTF-8": b'#error "\xff\xfe"\n',
}


@sandboxed
@pytest.mark.parametrize("kind", _REFUSED)
def test_builder_of_a_sandbox_refuses_in_the_same_words(kind: str, compiler: Compiler, tmp_path: Path) -> None:
    files = {"clock.c": _REFUSED[kind]}
    with pytest.raises(HostError) as here:
        program.build(files, GIVEN, compiler)
    wanted = recipe.of_program(files, GIVEN, compiler)
    with pytest.raises(HostError) as there:
        recipe.made(wanted, in_a_process(wanted, compiler, tmp_path))
    said = [(one.value.sentence, one.value.where, one.value.detail) for one in (here, there)]
    assert said[0] == said[1] and said[0][1].startswith(("clock.c", "main.c")) and str(tmp_path) not in str(said)
    assert list(tmp_path.iterdir()) == []


def test_builder_loads_only_what_builds() -> None:
    # What it loads, it loads for each submission.
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; import emu.classroom.builder; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert {one for one in told.stdout.split() if one.startswith("emu")} == {
        *("emu", "emu.classroom", "emu.classroom.builder")
    }
    assert not {"typing", "json", "re", "subprocess"} & set(told.stdout.split())


_WANTED = Recipe({}, [], ["a.o", "b.o"], "a.c")


def _answer(*contents: bytes) -> bytes:
    return b"+" + b"".join(len(one).to_bytes(8, "little") + one for one in contents)


def test_answer_of_a_builder_is_read_file_by_file() -> None:
    assert recipe.made(_WANTED, _answer(b"one", b"")) == {"a.o": b"one", "b.o": b""}


@pytest.mark.parametrize(
    "answer",
    [
        *(
            b"",
            b"?",
            b"+",
            b"-",
            b"-[]",
            b'-{"message": 1}',
            b"-" + b"[" * 9999,
            _answer(b"one"),
            _answer(b"", b"", b""),
        ),
        *(_answer(b"one", b"two")[:-1], _answer(b"one", b"two") + b"x", b"+" + b"\xff" * 16),
    ],
)
def test_answer_that_is_none_is_not_believed(answer: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        recipe.made(_WANTED, answer)


@pytest.mark.parametrize("variant", ["odd-only", "not-zeroed", "stale-version", "gives-up"])
def test_criteria_that_are_searched_together_are_judged_as_each_by_itself(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CLOCK.handed_in(CLOCK.folder / "wrong" / variant)
    asked = tuple(one for one in CLOCK.criteria if one.kind == "explore" and not one.hidden)
    assert len(asked) == 3
    built, sources = program.build(files, GIVEN), {**files, **GIVEN}
    found = judge.judge_program(asked, built, sources, set(files))
    decided = judge._decided_at_once(asked, elf_image(built, "it"), sources, set(files), lambda _: None)
    assert [told.outcome for told, _ in decided.values()].count(verdict.FAILED) == 1
    monkeypatch.setattr(judge, "_decided_at_once", lambda *_: {})
    assert judge.judge_program(asked, built, sources, set(files)) == found


@sandboxed
@pytest.mark.parametrize(
    ("command", "said"),
    [("/no/such/compiler", "this could not be run: "), ("true", "this said that all went well and made no file")],
)
def test_compiler_that_is_not_there_or_makes_nothing_is_a_refusal(command: str, said: str, tmp_path: Path) -> None:
    compiler = find_compiler()._replace(name="this", command=(command,))
    wanted = recipe.of_program(SOLUTION, GIVEN, compiler)
    with pytest.raises(HostError, match=said):
        recipe.made(wanted, in_a_process(wanted, compiler, tmp_path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HostError, match=said):
        program.build(SOLUTION, GIVEN, compiler, {})
