"""From what a user names to a program: a path or a bare name, an ELF file, a flat image, or a source to be built.

In Linux: search_binary_handler() in fs/exec.c makes the same choice.
"""

from pathlib import Path

from emu.boot.elf_file import MAGIC
from emu.boot.entry import MODES
from emu.boot.image import Image, flat_image
from emu.faults import HostError

MAX_FILE = 256 << 20
SOURCES = (".c", ".S")


def load_guest(guest: str | Path, mode: str = "auto") -> Image:
    """The program that `guest` names: an ELF file, the bare name of a shipped guest, a C or assembler source (which is
    built first), or, with `mode` long, pm32 or real, a flat image of at most MAX_FILE bytes.

    Raises HostError where there is none, it cannot be read or built, or it is not for x86.
    """
    where = str(guest)
    if mode != "auto" and mode not in MODES:
        raise HostError(f"there is no mode {mode!r}", "mode", f"known are auto, {', '.join(MODES)}")
    path = find_guest(guest)
    source = _build(path) if path.suffix in SOURCES else _read(path, where)
    return image_of(source, where, mode)


def image_of(source: bytes, where: str, mode: str = "auto") -> Image:
    """The program whose file holds `source`; `where` names it in errors. Raises HostError as load_guest does."""
    if not source:
        raise HostError("the file is empty", where)
    if mode == "auto":
        from emu.boot.elf import elf_image

        if not source.startswith(MAGIC):
            kinds = "an ELF file, nor a .c or .S source"
            remedy = f"for a flat image say how to enter it: --mode {'|'.join(MODES)}"
            raise HostError(f"this is neither {kinds}", where, remedy)
        return elf_image(source, where)
    if source.startswith(MAGIC):
        remedy = f"leave --mode {mode} away, or make a flat image of it with objcopy -O binary"
        raise HostError("an ELF file says itself how it is entered", where, remedy)
    return flat_image(source, where, mode)


def find_guest(guest: str | Path) -> Path:
    """The file that `guest` names: an existing path, else the built ELF of the shipped guest of that name.

    Raises HostError where it names neither, or something that is not a file.
    """
    from emu import data

    path, where = Path(guest), str(guest)
    bare = path.name == where and not path.suffix
    shipped = where in data.guest_names()
    try:
        # Opening a pipe or a device could wait for ever, so only files are opened.
        if path.is_file():
            return path
        folder, other = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or that holds a NUL
        raise HostError(f"there can be no such file ({_reason(error)})", where) from None
    if shipped:
        return data.guest_path(where)
    if bare and not other:
        raise HostError(f"there is no guest called {where!r}", remedy=_remedy(path))
    if folder:
        raise HostError("this is a folder, not a program", where)
    if other:
        raise HostError("this is a device or a pipe, not a file", where, "write it to a file first")
    raise HostError("there is no such file", where, _remedy(path))


def _remedy(path: Path) -> str:
    """What may have been meant: a source or program of that name beside it, or something that is shipped."""
    from emu import data
    from emu.scenario import did_you_mean

    if not path.suffix:
        for suffix in (".elf", *SOURCES, ".toml"):
            beside = Path(f"{path}{suffix}")
            if beside.is_file():
                return f"did you mean {beside}?"
    scenarios = [one.stem for one in sorted(data.guests_dir().glob("*.toml"))]
    return did_you_mean(path.name, [*data.guest_names(), *scenarios])


def _read(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            source = file.read(MAX_FILE + 1)
    except OSError as error:
        raise HostError(f"the file cannot be read ({_reason(error)})", where) from None
    if len(source) > MAX_FILE:
        raise HostError(f"the file is larger than {MAX_FILE >> 20} MiB", where)
    return source


def _build(path: Path) -> bytes:
    import tempfile

    from emu import toolchain

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{path.stem}.elf"
        toolchain.build(path, output, bits=toolchain.bits_of(path))
        return _read(output, str(path))


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
