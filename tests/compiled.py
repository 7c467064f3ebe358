"""Every shipped guest as each compiler makes it, built once for all tests that look at them."""

import atexit
import functools
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from emu import compiler as compilers
from emu import data, toolchain
from emu.compiler import Compiler

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
COMPILERS += ["zig"] if importlib.util.find_spec("ziglang") else []


class Compiled(NamedTuple):
    """The ELFs by the guests' names, and what the compiler had to say."""

    elfs: dict[str, Path]
    told: list[str]


def compiler_called(name: str) -> Compiler:
    """The compiler of that name; skips the test where none works."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CC", raising=False)
        for candidate in compilers._candidates():
            if candidate.name == name and compilers._works(candidate):
                return candidate
    pytest.skip(f"no working {name} on this machine")


@functools.cache
def all_guests(name: str) -> Compiled:
    """As the compiler of that name makes them."""
    compiler = compiler_called(name)
    folder = Path(tempfile.mkdtemp(prefix=f"guests-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    elfs: dict[str, Path] = {}
    told: list[str] = []
    for guest, source in data.guest_sources().items():
        elfs[guest] = folder / f"{guest}.elf"
        elfs[guest].parent.mkdir(exist_ok=True)
        toolchain.build(source, elfs[guest], bits=toolchain.bits_of(source), compiler=compiler, tell=told.append)
    return Compiled(elfs, told)
