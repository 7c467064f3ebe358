"""A compiler that makes guests: which one, how it is asked, and what it says when it refuses.

The first that works is taken: `$CC`, then a gcc or clang on the machine, then the zig that `pip install ziglang` brings
to every system. "Works" is tried, not guessed: each has to link a small 64-bit ELF and a 32-bit one.

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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from emu import complaint, data
from emu.faults import HostError

REFERENCE_ZIG = "0.17.1"
COMPILE_TIMEOUT_S = 60
FIRST_COMPILE_TIMEOUT_S = 300  # zig builds its own support files once, on slow machines for minutes
NAMES_ON_PATH = ("gcc", "clang", "x86_64-linux-gnu-gcc", "x86_64-elf-gcc", "cc")

_FLAGS = ("-g", "-gdwarf-4")
_C_FLAGS = (
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
    "-fno-delete-null-pointer-checks",  # an access through a null pointer happens, and faults
    "-ffunction-sections",  # of runtime.c, a guest keeps only the functions it uses
    "-O2",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",  # main is given two numbers, wanted or not
    "-Werror=implicit-function-declaration",  # else some compilers leave it to the linker to complain
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
_LISTING = "needed.d"
_Targets = Mapping[int, tuple[str, ...]]
Tell = Callable[[str], None]
_WORD_FLAGS: _Targets = {64: ("-m64",), 32: ("-m32",)}
# zig names every feature of the CPU itself, vector registers among them, and then warns of its own choice.
_ZIG_WARNINGS = ("-Wno-excessive-regsave", "-Wno-unknown-warning-option")
_ZIG_TARGETS: _Targets = {
    64: ("-target", "x86_64-freestanding-none", "-mcpu=x86_64", *_ZIG_WARNINGS),
    32: ("-target", "x86-freestanding-none", "-mcpu=i686", *_ZIG_WARNINGS),
}
# What clang warns of in handlers is harmless without vector registers; older ones call it by another name. And some
# flags are for compiling or for linking alone.
_CLANG_WARNINGS = (
    *("-Wno-interrupt-service-routine", "-Wno-unused-command-line-argument"),
    *_ZIG_WARNINGS,
)
_CLANG_WORDS: _Targets = {64: ("-m64", *_CLANG_WARNINGS), 32: ("-m32", *_CLANG_WARNINGS)}
_CLANG_TARGETS: _Targets = {
    64: ("--target=x86_64-unknown-none-elf", "-fuse-ld=lld", *_CLANG_WARNINGS),
    32: ("--target=i686-unknown-none-elf", "-fuse-ld=lld", *_CLANG_WARNINGS),
}
# A file name in a dependency file: a space inside it is escaped, a line goes on after a backslash.
_DEPENDENCY = re.compile(r"(?:\\ |[^\s\\]|\\(?=[^\s]))+")


def to_stderr(text: str) -> None:
    """Where warnings and notes go unless someone asks for them."""
    print(text, file=sys.stderr, flush=True)


class _Kept(NamedTuple):
    """An object that has been compiled, and the digests of all files that were read for it."""

    content: bytes
    read: dict[Path, str]

    @property
    def fresh(self) -> bool:
        """Whether it would be the same now."""
        return all(digest(path) == then for path, then in self.read.items())


_kept: dict[tuple[tuple[str, ...], Path, int], _Kept] = {}


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

    def link(
        self,
        sources: list[Path],
        output: Path,
        bits: int,
        *,
        typed: str = "",
        tell: Tell = to_stderr,
        shared: Collection[Path] = (),
    ) -> set[Path]:
        """Compiles absolute `sources`, links them to `output`, and returns all files that were read for it.

        `typed` is the first source as the user called it; messages call it so. `tell` is called with the warnings of
        each step that has any. Sources that many programs have in common, `shared`, are compiled once in the life of
        this process, and again when they have changed. Raises HostError with the first error, and all of the compiler's
        output as its detail.
        """
        typed = typed or str(sources[0])
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary).resolve()
            objects = self.objects(sources, folder)
            needed = {*sources, _script()}
            for source, made in zip(sources, objects, strict=True):
                known = self.command, source, bits
                kept = _kept.get(known) if source in shared else None
                if kept is not None and kept.fresh:
                    made.write_bytes(kept.content)
                    needed |= kept.read.keys()
                    continue
                self.run(self.compile_command(source, made, bits), folder, sources[0], typed, tell)
                read = {source, *_dependencies(folder / _LISTING, folder)}
                needed |= read
                if source in shared:
                    _kept[known] = _Kept(made.read_bytes(), {path: digest(path) for path in read})
            linked = folder / "guest.elf"
            self.run(self.link_command(objects, linked, bits), folder, sources[0], typed, tell)
            if not linked.is_file():
                raise self.refused(0, "", "", folder, sources[0], typed)
            try:
                shutil.copyfile(linked, output)
            except OSError as error:
                raise HostError(f"the ELF file cannot be written ({error.strerror})", str(output)) from error
        return needed

    def objects(self, sources: Sequence[Path], folder: Path) -> list[Path]:
        """What is compiled to what. Objects have names of their own: a linker copies the random names of a compiler's
        temporary files."""
        found: list[Path] = []
        for number, source in enumerate(sources):
            same = any(one.name == f"{source.name}.o" for one in found)
            found.append(folder / (f"{source.name}-{number}.o" if same else f"{source.name}.o"))
        return found

    def compile_command(self, source: Path, made: Path, bits: int, *, root: Path | None = None) -> tuple[str, ...]:
        """The words, behind the compiler's own, that compile an absolute `source` to `made`, in whose folder they are
        said. What lies in `root` is called by its name there."""
        guests, folder = data.guests_dir(), made.parent
        # The ELF says `guests/clock.c` wherever the checkout stands: same bytes, no path of the builder's machine.
        prefixes = [f"-ffile-prefix-map={guests}=guests"]
        if self.home:
            prefixes.append(f"-ffile-prefix-map={self.home}=compiler")
        if root is not None:
            prefixes.append(f"-ffile-prefix-map={root}{os.sep}=")
        # The folder of compilation stands in the debug information, in front of names that are not absolute.
        prefixes.append(f"-ffile-prefix-map={folder}=.")
        flags = (*_FLAGS, *(_C_FLAGS if source.suffix == ".c" else ()), *prefixes, f"-I{guests / 'include'}")
        listing = str(folder / _LISTING)
        return (*self.targets[bits], *flags, "-MD", "-MF", listing, "-c", str(source), "-o", str(made))

    def link_command(self, objects: Sequence[Path], linked: Path, bits: int) -> tuple[str, ...]:
        """The words that link `objects` to `linked`, in whose folder they are said."""
        return (*self.targets[bits], *_LINK_FLAGS, f"-Wl,-T,{_script()}", *map(str, objects), "-o", str(linked))

    def run(self, words: Sequence[str], folder: Path, source: Path, typed: str, tell: Tell = lambda _: None) -> None:
        """Say these words in `folder`; the rest as for `link`."""
        timeout = FIRST_COMPILE_TIMEOUT_S if self.home else COMPILE_TIMEOUT_S
        try:
            run = subprocess.run(
                (*self.command, *words),
                cwd=folder,
                env={**os.environ, "LC_ALL": "C"},  # messages that complaint.py can read
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self.refused(str(error), "", "", folder, source, typed) from error
        if run.returncode:
            raise self.refused(run.returncode, run.stderr, run.stdout, folder, source, typed)
        if said := run.stderr.strip():
            tell(complaint.bounded(self._named(said, folder, source, typed)))

    def refused(self, status: int | str, errors: str, output: str, folder: Path, source: Path, typed: str) -> HostError:
        """The error to raise for what the compiler said when it ended with `status`; that is 0 where it made nothing
        all the same, and a text that says why where it could not be run."""
        if isinstance(status, str):
            return HostError(f"{self.name} could not be run: {status}", typed)
        if not status:
            return HostError(f"{self.name} said that all went well and made no file", typed)
        said = errors.strip() or output.strip()
        return complaint.refusal(self._named(said, folder, source, typed), typed, self.name)

    def _named(self, said: str, folder: Path, source: Path, typed: str) -> str:
        # `./` is how a linker joins the two names of a file that the debug information has.
        names = {str(data.guests_dir()): "guests/", str(folder): "", "./guests": "guests/"}
        return complaint.named_as_typed(said, source, typed, names)


def find_compiler(tell: Tell = to_stderr) -> Compiler:
    """The first compiler that works, of `$CC`, those on PATH, and zig. Raises HostError where none does.

    `tell` is called with one line where `$CC` is set and is not the one.
    """
    chosen = os.environ.get("CC", "").strip()
    for candidate in _candidates():
        if _works(candidate):
            if chosen and list(candidate.command) != _words(chosen):
                tell(f"emu: note: CC={complaint.printable(chosen)} does not work here, using {candidate}")
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
    version = first_line((*command, "version"))
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
    chosen = _words(os.environ.get("CC", ""))
    for command in ([chosen] if chosen else []) + [[name] for name in NAMES_ON_PATH]:
        program = shutil.which(command[0])
        version = first_line((*command, "--version")) if program else ""
        if version:
            name = " ".join(command)
            words = _CLANG_WORDS if "clang" in version else _WORD_FLAGS
            yield Compiler(name, version, tuple(command), _ZIG_TARGETS if "zig" in name else words)
            if "clang" in version:
                yield Compiler(name, version, tuple(command), _CLANG_TARGETS)
    if found := zig():
        yield found


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quote that is not closed
        return []


def _works(compiler: Compiler) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "probe.c"), Path(folder, "probe.elf")
        source.write_text("#include <stdint.h>\nvoid _start(void) { (void)(uint64_t)0; }\n", encoding="utf-8")
        for bits in compiler.targets:
            try:
                compiler.link([source.resolve()], output, bits, tell=lambda _: None)
            except HostError:
                return False
            if output.read_bytes()[:4] != b"\x7fELF":
                return False
    return True


def _dependencies(listing: Path, folder: Path) -> set[Path]:
    # In make's notation: `object: source header header`. Relative names are relative to the folder of compilation.
    try:
        _, _, names = listing.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ").partition(": ")
    except OSError:
        return set()
    paths = {(folder / name.replace("\\ ", " ")).resolve() for name in _DEPENDENCY.findall(names)}
    # zig's cache may name its own headers where another installation has them; its version stands for them.
    return {path for path in paths if "ziglang" not in path.parts}


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _script() -> Path:
    return data.guests_dir() / "guest.ld"


def first_line(command: tuple[str, ...]) -> str:
    """The first line that a command prints; empty where it fails, takes too long or is not there."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip().partition("\n")[0] if run.returncode == 0 else ""
