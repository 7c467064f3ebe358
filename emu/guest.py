"""From what a user names to a program: a path or a bare name, an ELF file, a flat image, or a source to be built.

In Linux: search_binary_handler() in fs/exec.c makes the same choice.
"""

from pathlib import Path

from emu.boot.entry import MODES
from emu.boot.image import Image, flat_image
from emu.faults import HostError

MAX_FILE = 256 << 20
SOURCES = (".c", ".S")


def load_guest(guest: str | Path, mode: str = "auto") -> Image:
    """The program that `guest` names: an ELF file, the bare name of a shipped guest, a C or assembler source (which is
    built first), or, with `mode` long, pm32 or real, a flat image.

    Raises HostError where there is none, it cannot be read or built, or it is not for x86.
    """
    path = find_guest(guest)
    source = _build(path) if path.suffix in SOURCES else _read(path)
    where = str(guest)
    if mode in MODES:
        return flat_image(source, where, mode)
    from emu.boot.elf import MAGIC, elf_image

    if not source:
        raise HostError("the file is empty", where)
    if not source.startswith(MAGIC):
        raise HostError(
            "this is not an ELF file", where, f"for a flat image say how to enter it: --mode {'|'.join(MODES)}"
        )
    return elf_image(source, where)


def find_guest(guest: str | Path) -> Path:
    """The file that `guest` names: an existing path, else a shipped guest of that name."""
    path = Path(guest)
    if path.is_file():
        return path
    if path.is_dir():
        raise HostError("this is a folder, not a program", str(guest))
    from emu import data

    if path.suffix or path.name != str(guest):
        raise HostError("there is no such file", str(guest), f"or name one of: {', '.join(data.guest_names())}")
    return data.guest_path(str(guest))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            source = file.read(MAX_FILE + 1)
    except OSError as error:
        raise HostError(f"cannot be read ({error.strerror})", str(path)) from None
    if len(source) > MAX_FILE:
        raise HostError(f"is larger than {MAX_FILE >> 20} MiB", str(path))
    return source


def _build(path: Path) -> bytes:
    import tempfile

    from emu import toolchain

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{path.stem}.elf"
        toolchain.build(path, output, bits=toolchain.bits_of(path))
        return _read(output)
