"""From files to a program: those that were handed in and those that are given, side by side in a folder of their own.

In Linux: nothing like it.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from emu import data, toolchain
from emu.compiler import Compiler
from emu.faults import HostError

MAX_PROGRAM = 8 << 20  # bytes of an ELF file
_LOOKS_AROUND = (b"__has_include", b"__has_embed")


def build(
    files: Mapping[str, bytes],
    given: Mapping[str, bytes],
    compiler: Compiler | None = None,
    made: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """The program of these files; a given one wins over one that was handed in. `made` is what `prepared` has made.

    Raises HostError with the compiler's first error, which calls each file by its bare name.
    """
    contents = {**files, **given}
    own = [name for name in files if name.endswith(data.SOURCE_SUFFIXES) and name not in given]
    # A header that was handed in may stand before one of the compiler's.
    if len(own) < len(files) - sum(name in given for name in files):
        made = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        sources = [folder / name for name in (*own, *([] if made else _sources(given)))]
        output = folder / "program.elf"
        objects = [folder / name for name in made]
        for path, content in zip(objects, made.values(), strict=True):
            path.write_bytes(content)
        toolchain.build_together(sources, output, compiler=compiler, tell=lambda _: None, made=objects)
        program = output.read_bytes()
    if len(program) > MAX_PROGRAM:
        raise HostError(f"the program is larger than {MAX_PROGRAM >> 20} MiB", own[0] if own else "")
    return program


def prepared(given: Mapping[str, bytes], compiler: Compiler) -> dict[str, bytes]:
    """What of a program is the same whoever hands the rest in: objects by name; none where that cannot be said of it.

    A given file that looks at what was handed in is not the same for all.
    """
    if any(word in content for content in given.values() for word in _LOOKS_AROUND):
        return {}
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as objects:
        folder = Path(temporary).resolve()
        for name, content in given.items():
            (folder / name).write_bytes(content)
        try:
            made = toolchain.compile_once(
                [folder / name for name in _sources(given)], Path(objects).resolve(), compiler
            )
        except HostError:
            return {}
        return {path.name: path.read_bytes() for path in made}


def _sources(given: Mapping[str, bytes]) -> list[str]:
    return [name for name in given if name.endswith(data.SOURCE_SUFFIXES)]
