"""Guests build with every compiler there is, into ELFs whose segments have honest rights."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from emu import abi, data, toolchain
from emu import compiler as compilers
from emu.compiler import Compiler
from emu.faults import HostError
from tests.compiled import COMPILERS, INSTALLED, all_guests, compiler_called

NAMES = data.guest_names()
Elfs = dict[str, Path]


@pytest.fixture(scope="module", params=COMPILERS)
def compiler(request: pytest.FixtureRequest) -> Compiler:
    return compiler_called(request.param)


@pytest.fixture(scope="module")
def any_compiler() -> Compiler:
    """One compiler, where a claim is about us and not about compilers."""
    if not COMPILERS:
        pytest.skip("no compiler on this machine")
    return compiler_called(COMPILERS[0])


@pytest.fixture(scope="module")
def elfs(compiler: Compiler) -> Elfs:
    return all_guests(compiler.name).elfs


def _segments(elf: Path) -> list[tuple[int, int, int]]:
    """(address, size in memory, flags) of each segment that occupies memory."""
    with elf.open("rb") as stream:
        loads = [segment.header for segment in ELFFile(stream).iter_segments() if segment["p_type"] == "PT_LOAD"]
        return [(load.p_vaddr, load.p_memsz, load.p_flags) for load in loads if load.p_memsz]


def _symbols(elf: Path) -> dict[str, int]:
    with elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}


# --- What comes out ---


@pytest.mark.parametrize("name", NAMES)
def test_name_ending_in_32_is_32_bit_code(elfs: Elfs, name: str) -> None:
    with elfs[name].open("rb") as stream:
        elf = ELFFile(stream)
        expected = ("EM_386", 32) if name.endswith("32") else ("EM_X86_64", 64)
        assert (elf["e_machine"], elf.elfclass) == expected
        assert elf["e_type"] == "ET_EXEC"


@pytest.mark.parametrize("name", NAMES)
def test_guest_enters_at_start(elfs: Elfs, name: str) -> None:
    with elfs[name].open("rb") as stream:
        entry = ELFFile(stream)["e_entry"]
    assert entry == _symbols(elfs[name])["_start"] == abi.GUEST_GPA


@pytest.mark.parametrize("name", NAMES)
def test_segments_start_on_pages_of_their_own(elfs: Elfs, name: str) -> None:
    end = abi.GUEST_GPA
    for address, size, _ in sorted(_segments(elfs[name])):
        assert address % abi.PAGE_SIZE == 0
        assert address >= end, "two segments share a page"
        end = -(-(address + size) // abi.PAGE_SIZE) * abi.PAGE_SIZE
    assert end <= abi.MIN_RAM - abi.MAX_VCPUS * (abi.STACK_SIZE + abi.PAGE_SIZE), "does not fit in the smallest RAM"


@pytest.mark.parametrize("name", NAMES)
def test_no_page_is_both_writable_and_executable(elfs: Elfs, name: str) -> None:
    rights = [flags for _, _, flags in sorted(_segments(elfs[name]))]
    allowed = [P_FLAGS.PF_R | P_FLAGS.PF_X, P_FLAGS.PF_R, P_FLAGS.PF_R | P_FLAGS.PF_W]
    assert rights[0] == allowed[0]
    assert set(rights[1:]) <= set(allowed[1:])


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_in_memory_belongs_to_a_segment_with_its_rights(elfs: Elfs, name: str) -> None:
    segments = _segments(elfs[name])
    with elfs[name].open("rb") as stream:
        for section in ELFFile(stream).iter_sections():
            flags, size = section["sh_flags"], section["sh_size"]
            if not flags & 2 or not size:  # SHF_ALLOC
                continue
            rights = P_FLAGS.PF_R | (P_FLAGS.PF_W if flags & 1 else 0) | (P_FLAGS.PF_X if flags & 4 else 0)
            homes = [f for a, n, f in segments if a <= section["sh_addr"] and section["sh_addr"] + size <= a + n]
            assert homes == [rights], section.name


@pytest.mark.parametrize("name", NAMES)
def test_elf_names_its_sources_without_the_builders_path(elfs: Elfs, name: str) -> None:
    content = elfs[name].read_bytes()
    assert str(data.guests_dir()).encode() not in content
    with elfs[name].open("rb") as stream:
        dwarf = ELFFile(stream).get_dwarf_info()
        units = {unit.get_top_DIE().attributes["DW_AT_name"].value.decode() for unit in dwarf.iter_CUs()}
    assert any(unit.endswith(data.guest_sources()[name].name) for unit in units), units


@pytest.mark.parametrize("name", ["clock", "hello", "torn32"])
def test_building_twice_gives_the_same_bytes(compiler: Compiler, elfs: Elfs, tmp_path: Path, name: str) -> None:
    source, again = data.guest_sources()[name], tmp_path / "again.elf"
    toolchain.build(source, again, bits=toolchain.bits_of(source), compiler=compiler)
    assert again.read_bytes() == elfs[name].read_bytes()


# --- A user's own guest ---


def _build(compiler: Compiler, folder: Path, name: str, text: str, bits: int = 64) -> Path:
    source, elf = folder / name, folder / f"{name}.elf"
    source.write_text(text, encoding="utf-8")
    toolchain.build(source, elf, bits=bits, compiler=compiler)
    return elf


@pytest.mark.parametrize("bits", [64, 32])
def test_own_start_replaces_the_start_code(compiler: Compiler, tmp_path: Path, bits: int) -> None:
    text = ".intel_syntax noprefix\n.globl _start\n_start:\n    hlt\n"
    assert "main" not in _symbols(_build(compiler, tmp_path, "own.S", text, bits))


def test_own_guest_finds_the_shared_headers_and_its_own(compiler: Compiler, tmp_path: Path) -> None:
    (tmp_path / "mine.h").write_text("#define MINE 7\n", encoding="utf-8")
    text = (
        '#include "mine.h"\n#include "steal.h"\nint main(uint32_t cpu, uint32_t n) { return MINE + (int)(cpu + n); }\n'
    )
    assert "main" in _symbols(_build(compiler, tmp_path, "own.c", text))


def test_broken_source_is_refused_with_the_compilers_first_error(compiler: Compiler, tmp_path: Path) -> None:
    with pytest.raises(HostError) as refusal:
        _build(compiler, tmp_path, "broken.c", "int main(void) { return nonsense; }\n")
    assert "nonsense" in refusal.value.message and "broken.c:1" in refusal.value.where
    assert "\n" not in str(refusal.value) and "nonsense" in refusal.value.detail


def test_shipped_guests_build_without_a_warning(compiler: Compiler) -> None:
    assert all_guests(compiler.name).told == []


@pytest.mark.skipif("clang" not in INSTALLED or "clang" in COMPILERS, reason="no clang beside gcc")
@pytest.mark.parametrize("name", ["async_pf", "clock", "hello", "readers/seqlock32", "smp", "torn32"])
def test_clang_makes_them_without_a_warning_too(name: str, tmp_path: Path) -> None:
    source = data.guest_sources()[name]
    told: list[str] = []
    out = tmp_path / "out.elf"
    bits = toolchain.bits_of(source)
    toolchain.build(source, out, bits=bits, compiler=compiler_called("clang"), tell=told.append)
    assert not told and _segments(out)


def test_guest_without_main_is_refused(compiler: Compiler, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="main"):
        _build(compiler, tmp_path, "empty.c", "int other(void) { return 1; }\n")


@pytest.mark.parametrize("name", ["absent.c", "absent.S", "guest.py", "guest"])
def test_what_is_no_readable_guest_source_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostError):
        toolchain.build(tmp_path / name, tmp_path / "out.elf")


def test_binary_file_with_a_source_name_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "noise.c"
    source.write_bytes(bytes(range(256)))
    with pytest.raises(HostError, match="cannot be read"):
        toolchain.build(source, tmp_path / "out.elf")


# --- The runtime ---

RUNTIME = {"memset", "memcpy", "memmove", "memcmp", "strlen", "__udivdi3", "__umoddi3", "__divdi3", "__moddi3"}


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name])
def test_small_guest_keeps_nothing_of_the_runtime(elfs: Elfs, name: str) -> None:
    assert not RUNTIME & _symbols(elfs[name]).keys()


def test_guest_keeps_of_the_runtime_what_it_uses(compiler: Compiler, tmp_path: Path) -> None:
    text = (
        '#include "guest.h"\nstatic char a[99];\nint main(int cpu, int n) { return memset(a, cpu, n) == (void *)1; }\n'
    )
    assert RUNTIME & _symbols(_build(compiler, tmp_path, "own.c", text)).keys() == {"memset"}


def test_guest_may_bring_its_own_memset(compiler: Compiler, tmp_path: Path) -> None:
    text = (
        "volatile int mine;\n"
        "void *memset(void *to, int byte, __SIZE_TYPE__ size) { mine = byte + (int)size; return to; }\n"
        "static void *(*volatile call)(void *, int, __SIZE_TYPE__) = memset;\n"
        "int main(int cpu) { static char a[9]; return call(a, cpu, 9) == 0; }\n"
    )
    assert {"memset", "mine"} <= _symbols(_build(compiler, tmp_path, "own.c", text)).keys()


# --- Which compiler ---


def _fake(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


posix = pytest.mark.skipif(sys.platform == "win32", reason="shell scripts stand in for compilers")


@posix
def test_a_compiler_that_cannot_link_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: Compiler
) -> None:
    for name in compilers.NAMES_ON_PATH:
        _fake(tmp_path, name, f"echo {name} 1.0")  # says its name and makes nothing
    absolute = compiler._replace(command=(str(shutil.which(compiler.command[0])), *compiler.command[1:]))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CC", str(tmp_path / "gcc"))
    monkeypatch.setattr(compilers, "zig", lambda: absolute)
    assert compilers.find_compiler() is absolute


@posix
def test_cc_comes_first_and_may_have_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcc = shutil.which("gcc")
    if not gcc:
        pytest.skip("no gcc on this machine")
    _fake(tmp_path, "mine", f'shift; exec {gcc} "$@"')
    monkeypatch.setenv("CC", f"{tmp_path / 'mine'} wrapped")
    if not compilers._works(next(compilers._candidates())):
        pytest.skip("this gcc makes no x86-64 ELF")
    assert compilers.find_compiler().command == (str(tmp_path / "mine"), "wrapped")


def test_no_compiler_at_all_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compilers, "zig", lambda: None)
    with pytest.raises(HostError, match="pip install ziglang"):
        compilers.find_compiler()


def test_other_zig_is_no_reference_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "zig", lambda: Compiler("zig", "0.1.0", ("zig",), {}))
    with pytest.raises(HostError, match=compilers.REFERENCE_ZIG):
        compilers.reference_compiler()


def test_a_compiler_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("cc", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    stuck = Compiler("stuck", "1", ("stuck",), compilers._WORD_FLAGS)
    with pytest.raises(HostError, match="could not be run"):
        toolchain.build(data.guest_sources()["hello"], tmp_path / "out.elf", compiler=stuck)


# --- Building all of them ---


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of guests/ with two programs in it, to be changed at will."""
    original, guests = data.guests_dir(), tmp_path / "guests"
    shutil.copytree(original / "include", guests / "include")
    for name in ("guest.ld", "start.S", "start32.S", "trap.S", "runtime.c", "hello.S", "register.c"):
        shutil.copy(original / name, guests / name)
    monkeypatch.setattr(data, "guests_dir", lambda: guests)
    return guests


def _rebuilt(compiler: Compiler) -> list[str]:
    lines: list[str] = []
    toolchain.build_guests(lines.append, compiler=compiler)
    return [line.removeprefix("building ") for line in lines if line.startswith("building ")]


def _touch(name: str) -> Callable[[Path], None]:
    def touch(guests: Path) -> None:
        path = guests / name
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")

    return touch


def _remove(guests: Path) -> None:
    (guests / "build" / "hello.elf").unlink()


CHANGES = [
    (lambda _: None, []),
    (_touch("hello.S"), ["hello"]),
    (_touch("include/guest.h"), ["register"]),  # hello.S does not include it
    (_touch("include/abi.h"), ["hello", "register"]),
    (_touch("start.S"), ["hello", "register"]),
    (_touch("runtime.c"), ["hello", "register"]),
    (_touch("guest.ld"), ["hello", "register"]),
    (_remove, ["hello"]),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_only_what_changed_is_built_again(
    checkout: Path, any_compiler: Compiler, change: Callable[[Path], None], expected: list[str]
) -> None:
    assert _rebuilt(any_compiler) == ["hello", "register"]
    change(checkout)
    assert _rebuilt(any_compiler) == expected


def test_damaged_elf_is_built_again(checkout: Path, any_compiler: Compiler) -> None:
    _rebuilt(any_compiler)
    (checkout / "build" / "hello.elf").write_bytes(b"noise")
    assert _rebuilt(any_compiler) == ["hello"]


def test_own_header_that_changed_builds_again(any_compiler: Compiler, tmp_path: Path) -> None:
    text = '#include "two words.h"\nint main(void) { return TWO; }\n'
    (tmp_path / "two words.h").write_text("#define TWO 2\n", encoding="utf-8")
    first = _build(any_compiler, tmp_path, "own.c", text).read_bytes()
    (tmp_path / "two words.h").write_text("#define TWO 3\n", encoding="utf-8")
    assert _build(any_compiler, tmp_path, "own.c", text).read_bytes() != first


def test_two_sources_with_one_output_are_two_programs(any_compiler: Compiler, tmp_path: Path) -> None:
    elf = tmp_path / "out.elf"
    toolchain.build(data.guest_sources()["hello"], elf, compiler=any_compiler)
    toolchain.build(data.guest_sources()["hog"], elf, compiler=any_compiler)
    assert "again" in _symbols(elf)


def test_other_word_size_builds_again(any_compiler: Compiler, tmp_path: Path) -> None:
    text = "int main(void) { return 0; }\n"
    wide = _build(any_compiler, tmp_path, "own.c", text, 64).read_bytes()
    assert _build(any_compiler, tmp_path, "own.c", text, 32).read_bytes() != wide


def test_program_called_start_is_a_program(any_compiler: Compiler, tmp_path: Path) -> None:
    assert "main" in _symbols(_build(any_compiler, tmp_path, "start.c", "int main(void) { return 0; }\n"))


def test_another_compiler_builds_again(checkout: Path, any_compiler: Compiler) -> None:
    assert _rebuilt(any_compiler)
    assert _rebuilt(any_compiler._replace(version="newer")) == ["hello", "register"]


# --- Reference builds ---


def test_reference_builds_have_the_committed_hashes() -> None:
    try:
        compilers.reference_compiler()
    except HostError as missing:
        pytest.skip(str(missing))
    elfs = dict(sorted(all_guests("zig").elfs.items()))
    committed = (data.guests_dir() / data.REFERENCE_HASHES).read_text(encoding="utf-8")
    assert toolchain.reference_hashes(elfs) == committed, "run: make reference"


def test_hash_lines_are_those_of_sha256sum(tmp_path: Path) -> None:
    elf = tmp_path / "some.elf"
    elf.write_bytes(b"bytes")
    assert toolchain.reference_hashes({"some": elf}) == f"{hashlib.sha256(b'bytes').hexdigest()}  some.elf\n"


def test_linker_script_and_abi_agree_on_the_base() -> None:
    assert f". = {abi.GUEST_GPA:#x};" in (data.guests_dir() / "guest.ld").read_text(encoding="utf-8")
