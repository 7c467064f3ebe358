"""From a guest's source to an ELF: which compiler, with which flags, and when it is needed at all.

The first compiler that works is taken: `$CC`, then a gcc or clang on the machine, then the zig that `pip install
ziglang` brings to every system. "Works" is tried, not guessed: each has to link a small 64-bit ELF and a 32-bit one.
The reference guests are built by the pinned zig alone and come out with the same bytes on every machine.

In Linux: arch/x86/Makefile, where a kernel asks its compiler for the same freestanding, red-zone-free code.
"""

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from emu import data
from emu.faults import HostError

REFERENCE_ZIG = "0.17.1"
COMPILE_TIMEOUT_S = 60
FIRST_COMPILE_TIMEOUT_S = 300  # zig builds its own support files once, on slow machines for minutes
NAMES_ON_PATH = ("gcc", "clang", "x86_64-linux-gnu-gcc", "x86_64-elf-gcc", "cc")

_COMPILE_FLAGS = (
    "-std=c17",
    "-ffreestanding",
    "-fno-pic",
    "-fno-pie",
    "-masm=intel",
    "-mgeneral-regs-only",  # a guest's interrupt handlers save no vector registers
    "-mno-red-zone",  # an interrupt pushes onto the same stack
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-fno-sanitize=all",  # zig turns some on by default
    "-fno-strict-aliasing",
    "-O2",
    "-g",
    "-gdwarf-4",
    "-Wall",
    "-Wextra",
)
_LINK_FLAGS = (
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,--gc-sections",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-z,noexecstack",
)
_Targets = Mapping[int, tuple[str, ...]]
_WORD_FLAGS: _Targets = {64: ("-m64",), 32: ("-m32",)}
_ZIG_TARGETS: _Targets = {
    64: ("-target", "x86_64-freestanding-none", "-mcpu=x86_64"),
    32: ("-target", "x86-freestanding-none", "-mcpu=i686"),
}
_CLANG_TARGETS: _Targets = {
    64: ("--target=x86_64-unknown-none-elf", "-fuse-ld=lld"),
    32: ("--target=i686-unknown-none-elf", "-fuse-ld=lld"),
}
_OWN_START = re.compile(r"^\s*_start\s*:|^[\w\s*]*\b_start\s*\(", re.MULTILINE)


class Compiler(NamedTuple):
    """A way to compile. `targets` maps the word size, 64 or 32, to the flags that ask for it.

    `home` is the folder of the compiler's own headers where its debug information would name it, or empty.
    """

    name: str
    version: str
    command: tuple[str, ...]
    targets: _Targets
    home: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.version})"


def find_compiler() -> Compiler:
    """The first compiler that works, of `$CC`, those on PATH, and zig. Raises HostError where none does."""
    for candidate in _candidates():
        if _works(candidate):
            return candidate
    raise HostError(
        "no compiler on this machine makes x86-64 ELF files",
        remedy=f"install one with `{Path(sys.executable).name} -m pip install ziglang`, or set CC",
    )


def zig() -> Compiler | None:
    """The zig of the Python package `ziglang`, or None where it is not installed; not yet tried."""
    package = importlib.util.find_spec("ziglang")
    if package is None or package.origin is None:
        return None
    command = (sys.executable, "-m", "ziglang")
    version = _first_line((*command, "version"))
    home = str(Path(package.origin).resolve().parent)
    return Compiler("zig", version, (*command, "cc"), _ZIG_TARGETS, home) if version else None


def reference_compiler() -> Compiler:
    """The pinned zig, whose guests are the same bytes everywhere. Raises HostError where it is not installed."""
    compiler = zig()
    if compiler and compiler.version == REFERENCE_ZIG:
        return compiler
    found = f"found {compiler.version}" if compiler else "not installed"
    raise HostError(
        f"reference guests need ziglang {REFERENCE_ZIG} ({found})",
        remedy=f"run `{Path(sys.executable).name} -m pip install ziglang=={REFERENCE_ZIG}`",
    )


def build(source: Path, output: Path, *, bits: int = 64, compiler: Compiler | None = None) -> None:
    """Compiles one guest program, .c or .S, with the start code, and links it to an ELF at `output`.

    `bits` is 64 or 32: long mode or 32-bit protected mode. A source that defines `_start` itself gets no start code.
    Raises HostError with the compiler's first complaint, or where there is no such file or no compiler.
    """
    if source.suffix not in data.SOURCE_SUFFIXES:
        raise HostError("this is no guest source", str(source), "give a .c or a .S file")
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"the source cannot be read: {error}", str(source)) from error
    guests = data.guests_dir()
    with_source = [source.resolve()]
    if not _OWN_START.search(text):
        with_source.append(guests / ("start.S" if bits == 64 else "start32.S"))
    if bits == 64:
        with_source.append(guests / "trap.S")
    _make(compiler or find_compiler(), bits, with_source, output.resolve())


def bits_of(source: Path) -> int:
    """The word size of a guest by its name: torn32.c is 32-bit code."""
    return 32 if source.stem.endswith("32") else 64


def build_guests(
    progress: Callable[[str], None] = lambda line: None, *, reference: bool = False, compiler: Compiler | None = None
) -> list[Path]:
    """Builds every shipped guest into guests/build/ and returns the ELFs' paths, sorted by name.

    What is up to date stays: a guest is built again when a source, a header, the flags or the compiler has changed.
    `reference` builds into guests/build/reference/ with the pinned zig. `progress` is called with one line per guest.
    Raises HostError as `build` does.
    """
    compiler = reference_compiler() if reference else compiler or find_compiler()
    folder = data.build_dir(reference=reference)
    key = _key(compiler)
    progress(f"compiler: {compiler}")
    built = []
    for name, source in data.guest_sources().items():
        elf, stamp = folder / f"{name}.elf", folder / f".{name}.key"
        if not (elf.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == key):
            progress(f"building {name}")
            build(source, elf, bits=bits_of(source), compiler=compiler)
            stamp.write_text(key, encoding="utf-8")
        built.append(elf)
    return built


def reference_hashes(paths: list[Path]) -> str:
    """The text of guests/reference.sha256 for these ELFs: one line `<sha256>  <file name>` each."""
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)


def _candidates() -> Iterator[Compiler]:
    chosen = os.environ.get("CC")
    for command in ([shlex.split(chosen)] if chosen else []) + [[name] for name in NAMES_ON_PATH]:
        program = shutil.which(command[0])
        version = _first_line((*command, "--version")) if program else ""
        if version:
            name = " ".join(command)
            yield Compiler(name, version, tuple(command), _ZIG_TARGETS if "zig" in name else _WORD_FLAGS)
            if "clang" in version:
                yield Compiler(name, version, tuple(command), _CLANG_TARGETS)
    if found := zig():
        yield found


def _works(compiler: Compiler) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#include <stdint.h>\nint main(uint32_t cpu) { return (int)cpu; }\n", encoding="utf-8")
        for bits in compiler.targets:
            output = Path(folder, f"probe{bits}.elf")
            try:
                build(source, output, bits=bits, compiler=compiler)
            except HostError:
                return False
            if output.read_bytes()[:4] != b"\x7fELF":
                return False
    return True


def _make(compiler: Compiler, bits: int, sources: list[Path], output: Path) -> None:
    guests = data.guests_dir()
    # The ELF says `guests/clock.c` wherever the checkout stands: same bytes, and no path of the builder's machine.
    prefixes = [f"-ffile-prefix-map={guests}=guests"]
    if compiler.home:
        prefixes.append(f"-ffile-prefix-map={compiler.home}=compiler")
    target = compiler.targets[bits]
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for source in sources:
            # Objects have names of their own: a linker copies the random names of a compiler's temporary files.
            objects.append(str(Path(folder, f"{source.stem}.o")))
            flags = (*target, *_COMPILE_FLAGS, *prefixes, f"-I{guests / 'include'}")
            _run(compiler, (*flags, "-c", str(source), "-o", objects[-1]), sources[0])
        linked = Path(folder, "guest.elf")
        script = f"-Wl,-T,{guests / 'guest.ld'}"
        _run(compiler, (*target, *_LINK_FLAGS, script, *objects, "-o", str(linked)), sources[0])
        if not linked.is_file():
            raise HostError(f"{compiler.name} said that all went well and made no file", str(sources[0]))
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(linked, output)


def _run(compiler: Compiler, arguments: tuple[str, ...], source: Path) -> None:
    command = (*compiler.command, *arguments)
    timeout = FIRST_COMPILE_TIMEOUT_S if compiler.home else COMPILE_TIMEOUT_S
    folder = data.guests_dir()
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{compiler.name} could not be run: {error}", str(source)) from error
    if run.returncode:
        raise HostError(_complaint(run.stderr) or f"{compiler.name} failed", str(source))


def _complaint(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower() or "undefined" in line), lines[0] if lines else "")


def _first_line(command: tuple[str, ...]) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip().partition("\n")[0] if run.returncode == 0 else ""


def _key(compiler: Compiler) -> str:
    guests = data.guests_dir()
    digest = hashlib.sha256(repr((compiler, _COMPILE_FLAGS, _LINK_FLAGS)).encode())
    for path in sorted([*guests.glob("*.[Sc]"), *guests.glob("*.ld"), *guests.glob("include/*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


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
