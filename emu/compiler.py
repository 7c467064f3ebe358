"""A compiler that makes guests: which one, how it is asked, and what it says when it refuses.

The first that works is taken: `$CC`, then a gcc or clang on the machine, then the zig that `pip install ziglang` brings
to every system. "Works" is tried, not guessed: each has to link a small 64-bit ELF and a 32-bit one.

In Linux: arch/x86/Makefile, where a kernel asks its compiler for the same freestanding, red-zone-free code.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
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
# A file name in a dependency file: a space inside it is escaped, a line goes on after a backslash.
_DEPENDENCY = re.compile(r"(?:\\ |[^\s\\]|\\(?=[^\s]))+")


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

    def link(self, sources: list[Path], output: Path, bits: int) -> set[Path]:
        """Compiles absolute `sources`, links them to `output`, and returns all files that were read for it.

        Raises HostError with the compiler's first complaint, in one line.
        """
        guests = data.guests_dir()
        # The ELF says `guests/clock.c` wherever the checkout stands: same bytes, no path of the builder's machine.
        prefixes = [f"-ffile-prefix-map={guests}=guests"]
        if self.home:
            prefixes.append(f"-ffile-prefix-map={self.home}=compiler")
        target = self.targets[bits]
        objects: list[str] = []
        needed: set[Path] = set()
        with tempfile.TemporaryDirectory() as folder:
            for number, source in enumerate(sources):
                # Objects have names of their own: a linker copies the random names of a compiler's temporary files.
                objects.append(str(Path(folder, f"{source.stem}-{number}.o")))
                listing = Path(folder, "needed.d")
                flags = (*target, *_COMPILE_FLAGS, *prefixes, f"-I{guests / 'include'}", "-MD", "-MF", str(listing))
                self._run((*flags, "-c", str(source), "-o", objects[-1]), sources[0])
                needed |= {source, *_dependencies(listing)}
            linked, script = Path(folder, "guest.elf"), guests / "guest.ld"
            self._run((*target, *_LINK_FLAGS, f"-Wl,-T,{script}", *objects, "-o", str(linked)), sources[0])
            if not linked.is_file():
                raise HostError(f"{self.name} said that all went well and made no file", str(sources[0]))
            try:
                output.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(linked, output)
            except OSError as error:
                raise HostError(f"the ELF file cannot be written ({error.strerror})", str(output)) from error
        return needed | {script}

    def _run(self, arguments: tuple[str, ...], source: Path) -> None:
        command = (*self.command, *arguments)
        timeout = FIRST_COMPILE_TIMEOUT_S if self.home else COMPILE_TIMEOUT_S
        folder = data.guests_dir()
        try:
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=timeout)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"{self.name} could not be run: {error}", str(source)) from error
        if run.returncode:
            raise HostError(_complaint(run.stderr) or f"{self.name} failed", str(source))


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
        source, output = Path(folder, "probe.c"), Path(folder, "probe.elf")
        source.write_text("#include <stdint.h>\nvoid _start(void) { (void)(uint64_t)0; }\n", encoding="utf-8")
        for bits in compiler.targets:
            try:
                compiler.link([source.resolve()], output, bits)
            except HostError:
                return False
            if output.read_bytes()[:4] != b"\x7fELF":
                return False
    return True


def _dependencies(listing: Path) -> set[Path]:
    # In make's notation: `object: source header header`. Relative names are relative to the compiler's folder.
    try:
        _, _, names = listing.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ").partition(": ")
    except OSError:
        return set()
    paths = {data.guests_dir() / name.replace("\\ ", " ") for name in _DEPENDENCY.findall(names)}
    # zig's cache may name its own headers where another installation has them; its version stands for them.
    return {path for path in paths if "ziglang" not in path.parts}


def _complaint(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower() or "undefined" in line), lines[0] if lines else "")


def _first_line(command: tuple[str, ...]) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip().partition("\n")[0] if run.returncode == 0 else ""
