"""What is shipped with emu: guest programs, their include files and their built ELFs; the specification's documents.

The same folder stands at one of two places: `guests/` beside the package in a checkout, `emu/_data/guests/` in an
installed wheel; so does `tutorials/`. Nothing else in emu needs to know which.
"""

from pathlib import Path

from emu.faults import HostError

SOURCE_SUFFIXES = (".S", ".c")
SHARED_SOURCES = ("start", "start32", "trap", "runtime")  # linked into the programs, no programs themselves
CONFORMANCE = "conformance"  # the folder of guests that judge from inside
READERS = "readers"  # the folder of ways to read an area, right and wrong
BUILD = "build"
REFERENCE = "reference"
REFERENCE_HASHES = "reference.sha256"
_SHOWN_SOURCES = (".c", ".h", ".S")
_MAX_SOURCE = 1 << 20


def guests_dir() -> Path:
    """The folder of guest sources, with `include/` and `build/` in it; raises HostError where none is installed."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "guests", package / "_data" / "guests"):
        if (folder / "include").is_dir():
            return folder
    raise HostError("the guest programs are missing from this installation", str(package), "install emu again")


def document(name: str) -> str:
    """The text of a document of the specification, such as "steal-time.md"; raises HostError where it is missing."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "tutorials", package / "_data" / "tutorials"):
        if (path := folder / name).is_file():
            return path.read_text(encoding="utf-8")
    raise HostError(f"the document {name} is missing from this installation", str(package), "install emu again")


def lesson_dirs() -> list[Path]:
    """The folders of the lessons, such as 07-torn, sorted; raises HostError where none is installed."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "tutorials", package / "_data" / "tutorials"):
        if found := sorted(folder.glob("[0-9][0-9]-*")):
            return found
    raise HostError("the lessons are missing from this installation", str(package), "install emu again")


def assignment_dirs() -> dict[str, Path]:
    """The folders of the shipped assignments by their names, sorted; raises HostError where none is installed."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "tutorials", package / "_data" / "tutorials"):
        if found := sorted(one.parent for one in folder.glob("assignments/*/assignment.toml")):
            return {one.name: one for one in found}
    raise HostError("the assignments are missing from this installation", str(package), "install emu again")


def build_dir(*, reference: bool = False) -> Path:
    """Where built guests are: this machine's own, or the reference builds of the pinned compiler. It may not exist."""
    folder = guests_dir() / BUILD
    return folder / REFERENCE if reference else folder


def guest_sources() -> dict[str, Path]:
    """The source file of each guest program by its name, sorted: {"bad_msr": .../bad_msr.c, "conformance/msr": ...}."""
    folder = guests_dir()
    places = (("", folder), *((f"{name}/", folder / name) for name in (CONFORMANCE, READERS)))
    sources = {
        prefix + path.stem: path
        for prefix, place in places
        if place.is_dir()
        for path in place.iterdir()
        if path.suffix in SOURCE_SUFFIXES
    }
    return {name: sources[name] for name in sorted(sources) if name not in SHARED_SOURCES}


def scenario_path(name: str) -> Path | None:
    """The shipped scenario called `name`, such as "demo", or None where there is none."""
    path = guests_dir() / f"{name}.toml"
    return path if path.is_file() else None


def guest_names() -> list[str]:
    """The bare names `emu run` knows, sorted."""
    return list(guest_sources())


def guest_path(name: str, *, reference: bool = False) -> Path:
    """The built ELF of the guest called `name`, such as "clock" or "torn32".

    This machine's own build comes first, then the reference build; `reference` asks for the latter alone.
    Raises HostError where there is no such guest, or where it has not been built.
    """
    if name not in guest_sources():
        raise HostError(f"there is no guest called {name!r}", remedy=f"the guests are {', '.join(guest_names())}")
    folders = [build_dir(reference=True)] if reference else [build_dir(), build_dir(reference=True)]
    for folder in folders:
        if (elf := folder / f"{name}.elf").is_file():
            return elf
    target = "make reference" if reference else "make guests"
    raise HostError(f"the guest {name!r} has not been built", remedy=f"run `{target}` or `python -m emu.toolchain`")


def source_text(name: str) -> str | None:
    """The text of a source file that a guest's debug information names, or None.

    A guest may name any file: only sources here and below, and those that are shipped, are read.
    """
    if not name.endswith(_SHOWN_SOURCES):
        return None
    try:
        shipped = guests_dir().parent
    except HostError:
        shipped = Path.cwd()
    for folder in (Path.cwd(), shipped):
        try:
            path = (folder / name).resolve()
            if path.is_relative_to(folder.resolve()) and path.is_file() and path.stat().st_size <= _MAX_SOURCE:
                return path.read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            continue
    return None
