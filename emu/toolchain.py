"""From a guest's source to an ELF that the machine can load, built again only when something has changed.

A program is linked with the start code, unless it brings its own, and with what it uses of the trap code and the
runtime. What went into an ELF of guests/build/ is remembered beside it. The reference guests are built by the pinned
zig alone and come out with the same bytes on every machine.

In Linux: scripts/Kbuild.include, where a kernel's build remembers the command of every object.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from emu import data
from emu.compiler import Compiler, Tell, digest, find_compiler, reference_compiler, to_stderr
from emu.faults import HostError

_OWN_START = re.compile(r"^\s*_start\s*:|^[\w\s*]*\b_start\s*\(", re.MULTILINE)


def build(
    source: Path, output: Path, *, bits: int = 64, compiler: Compiler | None = None, tell: Tell = to_stderr
) -> None:
    """Compiles one guest program, .c or .S, with the start code, and links it to an ELF at `output`.

    `bits` is 64 or 32: long mode or 32-bit protected mode. A source that defines `_start` itself gets no start code.
    The folder of `output` must exist; in guests/build/ it is made. There, nothing is done where `output` is up to date:
    same source, same headers, same compiler. What it was made from stands in a hidden file beside it. `tell` is called
    with the compiler's warnings. Raises HostError with the compiler's first error, or where there is no such file or
    no compiler.
    """
    typed = str(source)
    if source.suffix not in data.SOURCE_SUFFIXES:
        raise HostError("this is no guest source", typed, "give a .c or a .S file")
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"the source cannot be read: {error}", typed) from error
    compiler = compiler or find_compiler()
    source, output, guests = source.resolve(), output.resolve(), data.guests_dir()
    ours = output.is_relative_to(data.build_dir().resolve())
    if ours and _is_fresh(source, output, bits, compiler):
        return
    if ours:
        output.parent.mkdir(parents=True, exist_ok=True)
    elif not output.parent.is_dir():
        raise HostError("there is no such folder to put the ELF file in", str(output.parent))
    parts = [source]
    if not _OWN_START.search(text):
        parts.append(guests / ("start.S" if bits == 64 else "start32.S"))
    if bits == 64:
        parts.append(guests / "trap.S")
    if source != guests / "runtime.c":
        parts.append(guests / "runtime.c")
    needed = compiler.link(parts, output, bits, typed=typed, tell=tell, shared=parts[1:])
    if not ours:
        return
    made_of = {str(path): digest(path) for path in sorted(needed)}
    stamp = {
        "source": str(source),
        "compiler": _identity(compiler, bits),
        "output": digest(output),
        "made_of": made_of,
    }
    _stamp_path(output).write_text(json.dumps(stamp, indent=1), encoding="utf-8")


def shared_sources() -> list[Path]:
    """What is linked into a 64-bit program besides its own sources, where the start code is always ours."""
    return [data.guests_dir() / name for name in ("start.S", "trap.S", "runtime.c")]


def bits_of(source: Path) -> int:
    """The word size of a guest by its name: torn32.c is 32-bit code."""
    return 32 if source.stem.endswith("32") else 64


def build_guests(
    progress: Callable[[str], None] = lambda line: None, *, reference: bool = False, compiler: Compiler | None = None
) -> dict[str, Path]:
    """Builds every shipped guest into guests/build/ and returns the ELFs' paths by name, sorted.

    What is up to date stays, as in `build`. `reference` builds into guests/build/reference/ with the pinned zig.
    `progress` is called with one line per guest that is built, and one for the compiler.
    Raises HostError as `build` does.
    """
    compiler = reference_compiler() if reference else compiler or find_compiler()
    folder = data.build_dir(reference=reference)
    progress(f"compiler: {compiler}")
    built = {}
    for name, source in data.guest_sources().items():
        elf = folder / f"{name}.elf"
        if not _is_fresh(source, elf, bits_of(source), compiler):
            progress(f"building {name}")
            build(source, elf, bits=bits_of(source), compiler=compiler)
        built[name] = elf
    return built


def reference_hashes(elfs: dict[str, Path]) -> str:
    """The text of guests/reference.sha256 for these ELFs by the guest's name: one line `<sha256>  <name>.elf` each."""
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}.elf\n" for name, path in elfs.items())


def _stamp_path(output: Path) -> Path:
    return output.with_name(f".{output.name}.made")


def _identity(compiler: Compiler, bits: int) -> str:
    # The flags and the start code are ours: a new emu is a new compiler.
    own = digest(Path(__file__)), digest(Path(find_compiler.__code__.co_filename))
    return repr((tuple(compiler), bits, own))


def _is_fresh(source: Path, output: Path, bits: int, compiler: Compiler) -> bool:
    try:
        stamp = json.loads(_stamp_path(output).read_text(encoding="utf-8"))
        return bool(
            stamp["source"] == str(source.resolve())
            and stamp["compiler"] == _identity(compiler, bits)
            and stamp["output"] == digest(output)
            and all(digest(Path(path)) == then for path, then in stamp["made_of"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def main(arguments: list[str]) -> int:
    """`python -m emu.toolchain [--reference] [--hashes] | --find`: builds the shipped guests; returns a status.

    `--hashes` writes guests/reference.sha256 as well. `--find` builds nothing and says which compiler would be taken.
    """
    try:
        if "--find" in arguments:
            print(f"compiler: {find_compiler()}")
            return 0
        elfs = build_guests(print, reference="--reference" in arguments)
    except HostError as error:
        print(f"emu: {error}", file=sys.stderr)
        return 2
    if "--hashes" in arguments:
        (data.guests_dir() / data.REFERENCE_HASHES).write_text(reference_hashes(elfs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
