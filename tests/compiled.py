"""Every shipped guest as each compiler makes it, built once for all tests that look at them."""

import atexit
import functools
import importlib.util
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from emu import compiler as compilers
from emu import data, toolchain
from emu.compiler import Compiler

INSTALLED = [name for name in ("gcc", "clang") if shutil.which(name)]
# zig is clang as well: where gcc is too, clang by itself makes only a few of them, in test_toolchain.py.
COMPILERS = INSTALLED[:1]
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
    """As the compiler of that name makes them. The processes of one run of the tests share the work."""
    compiler = compiler_called(name)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"emu-guests-{name}-{run}"
    user = folder / "users" / str(os.getpid())
    user.parent.mkdir(parents=True, exist_ok=True)
    user.touch()
    atexit.register(_leave, folder, user)
    sources = data.guest_sources()
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 2
    order = list(sources)[::-1] if mine else list(sources)
    for guest in order:
        place = folder / guest
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.with_suffix(".taken").touch(exist_ok=False)
        except FileExistsError:
            continue
        told: list[str] = []
        bits = toolchain.bits_of(sources[guest])
        toolchain.build(sources[guest], place.with_suffix(".elf"), bits=bits, compiler=compiler, tell=told.append)
        place.with_suffix(".new").write_text(json.dumps(told))
        place.with_suffix(".new").rename(place.with_suffix(".told"))
    every: list[str] = []
    for guest in sources:
        done = (folder / guest).with_suffix(".told")
        deadline = time.monotonic() + 120
        while not done.exists():  # another process is at it
            assert time.monotonic() < deadline, f"nobody has built {guest}"
            time.sleep(0.05)
        every += json.loads(done.read_text())
    return Compiled({guest: (folder / guest).with_suffix(".elf") for guest in sources}, every)


def _leave(folder: Path, user: Path) -> None:
    """The last one out turns off the light."""
    user.unlink(missing_ok=True)
    if not any(user.parent.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
