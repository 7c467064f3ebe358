"""Builds the C beside it: when emu is installed (the build hook of pyproject.toml), or when it is run as a program.

A machine without a compiler gets none, and is slower. Standard library alone: nothing of emu is there yet.

In Linux: scripts/Makefile.build.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
SOURCES = tuple(_HERE / f"{name}.c" for name in ("call_sites", "callbacks", "counting", "plans", "written"))
LIBRARY = _HERE / "_callbacks.so"


def compilers() -> list[list[str]]:
    """Commands of C compilers for programs of this machine, best first."""
    chosen = [shlex.split(os.environ[name]) for name in ("HOSTCC", "CC") if os.environ.get(name)]
    named = [[name] for name in ("cc", "gcc", "clang")]
    return [one for one in (*chosen, *named, [sys.executable, "-m", "ziglang", "cc"]) if one and shutil.which(one[0])]


def build() -> bool:
    """Whether the library stands there now, built of the source as it is."""
    new = LIBRARY.with_suffix(f".{os.getpid()}")
    for command in compilers():
        words = [*command, "-std=c11", "-O2", "-shared", "-fPIC", *map(str, SOURCES), "-o", str(new)]
        try:
            done = subprocess.run(words, capture_output=True, timeout=120, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and new.is_file():
            os.replace(new, LIBRARY)
            return True
        new.unlink(missing_ok=True)
    return False


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    pass
else:

    class Callbacks(BuildHookInterface):  # type: ignore[misc]
        """What hatchling calls before it packs a wheel, or makes an editable one."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Build, and say that the wheel is for this platform alone."""
            if self.target_name == "wheel" and sys.platform.startswith("linux") and build():
                build_data["artifacts"].append("emu/vcpu/native/_callbacks.so")
                platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["tag"] = f"py3-none-{platform}"
                build_data["pure_python"] = False


if __name__ == "__main__":
    sys.exit(0 if build() else "no C compiler was found that builds callbacks.c")
