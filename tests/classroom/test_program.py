"""What is the same in all programs is built once, and the programs come out the same."""

import pytest

from emu import data
from emu.boot.elf import elf_image
from emu.classroom import assignment, builder, judge, program
from emu.compiler import Compiler, find_compiler, reference_compiler
from emu.faults import HostError

CLOCK = assignment.read(data.assignment_dirs()["steal-clock"])
GIVEN = CLOCK.given_files()
SOLUTION = CLOCK.handed_in(CLOCK.folder / "solution")


@pytest.fixture(scope="module", params=["the one found", "zig"])
def compiler(request: pytest.FixtureRequest) -> Compiler:
    return find_compiler() if request.param == "the one found" else reference_compiler()


def test_program_is_the_same_byte_for_byte(compiler: Compiler) -> None:
    made = program.prepared(GIVEN, compiler)
    assert set(made) == {"main.c.o", "start.S.o", "trap.S.o", "runtime.c.o"}
    whole = program.build(SOLUTION, GIVEN, compiler)
    assert program.build(SOLUTION, GIVEN, compiler, made) == whole


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
    assert program.build(files, GIVEN, compiler, made) == program.build(files, GIVEN, compiler)


@pytest.mark.parametrize(
    "text", [b'#include "more.h"\n', b'#if __has_include("clock.c")\n#endif\n', b'#include "clock.c"\n']
)
def test_given_source_that_looks_at_what_is_handed_in_is_not_prepared(text: bytes) -> None:
    assert program.prepared({**GIVEN, "main.c": text + GIVEN["main.c"]}, find_compiler()) == {}


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"main.c.o": 1}', b'{"../x.o": ""}', b'{"a.o": "?"}', b"[" * 9999])
def test_answer_that_is_none_is_not_believed(answer: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        builder.made(answer)


@pytest.mark.parametrize("variant", ["odd-only", "not-zeroed", "stale-version", "gives-up"])
def test_criteria_that_are_searched_together_are_judged_as_each_by_itself(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CLOCK.handed_in(CLOCK.folder / "wrong" / variant)
    asked = tuple(one for one in CLOCK.criteria if one.kind == "explore" and not one.hidden)
    assert len(asked) == 3
    built, sources = program.build(files, GIVEN), {**files, **GIVEN}
    found = judge.judge_program(asked, built, sources, set(files))
    assert judge._decided_at_once(asked, elf_image(built, "it"), lambda _: None)
    monkeypatch.setattr(judge, "_decided_at_once", lambda *_: {})
    assert judge.judge_program(asked, built, sources, set(files)) == found
