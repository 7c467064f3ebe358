"""From files to a program: those that were handed in and those that are given, side by side in a folder of their own.

In Linux: nothing like it.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from emu import data, toolchain
from emu.compiler import Compiler
from emu.faults import HostError

MAX_PROGRAM = 8 << 20  # bytes of an ELF file


def build(files: Mapping[str, bytes], given: Mapping[str, bytes], compiler: Compiler | None = None) -> bytes:
    """The program of these files; a given one wins over one that was handed in.

    Raises HostError with the compiler's first error, which calls each file by its bare name.
    """
    contents = {**files, **given}
    own = [name for name in files if name.endswith(data.SOURCE_SUFFIXES) and name not in given]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        sources = [folder / name for name in (*own, *(one for one in given if one.endswith(data.SOURCE_SUFFIXES)))]
        output = folder / "program.elf"
        toolchain.build_together(sources, output, compiler=compiler, tell=lambda _: None)
        program = output.read_bytes()
    if len(program) > MAX_PROGRAM:
        raise HostError(f"the program is larger than {MAX_PROGRAM >> 20} MiB", own[0] if own else "")
    return program
