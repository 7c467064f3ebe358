"""`emu doctor`: which of the parts that emu can do without are here, what they are for, and how to get the others.

Exit status: 0 whatever is missing, for all of it is optional; 2 for input that cannot be used.
"""

import contextlib
import importlib.util
import json
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from emu import data
from emu.commands.flags import Parser
from emu.compiler import find_compiler, first_line
from emu.faults import HostError, escaped
from emu.sandbox import tiers
from emu.vcpu import native

_WIDTH = 80
_INDENT = " " * 12
_EPILOG = """examples:
  emu doctor
  emu doctor --json
"""


class Part(NamedTuple):
    """`found` says what is there, and is None where nothing is; `remedy` how to get it then."""

    name: str
    found: str | None
    purpose: str
    remedy: str


def main(arguments: list[str]) -> int:
    """Run `emu doctor` with these words."""
    parser = Parser("doctor", "Say which optional parts are here, and how to get the others.", _EPILOG)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parsed = parser.parse(arguments)
    parts = [look() for look in _PARTS]
    if parsed.json:
        print(json.dumps({part.name: part._asdict() for part in parts}))
        return 0
    where = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    print(f"{where}; all of these are optional\n")
    for part in parts:
        print("\n".join(told(part)))
    return 0


def told(part: Part) -> list[str]:
    """The lines on one part, in 80 columns."""
    state = part.found or f"not here; {part.remedy}"
    head = textwrap.wrap(f"{part.name:<11} {escaped(state)}", _WIDTH, subsequent_indent=_INDENT, break_on_hyphens=False)
    return [*head, *textwrap.wrap(f"for {part.purpose}", _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)]


def _compiler() -> Part:
    remedy = "python -m pip install ziglang, or any gcc or clang for x86-64"
    found = None
    with contextlib.suppress(HostError):
        found = str(find_compiler(lambda _line: None))
    return Part("compiler", found, "your own guests in C and assembler, and the Fix of each lesson", remedy)


def _guests() -> Part:
    folder = data.build_dir(reference=True)
    count = len(list(folder.rglob("*.elf"))) if folder.is_dir() else 0
    found = f"{count} built by the pinned compiler" if count else None
    remedy = "make reference, or install the wheel"
    return Part("guests", found, "the numbers of the lessons, to the last digit", remedy)


def _kvm() -> Part:
    from emu.kvm import system

    why = system.missing()
    return Part("kvm", None if why else "/dev/kvm can be used", "emu run --on kvm and emu conform", why or "")


def _gdb() -> Part:
    return Part("gdb", first_line(("gdb", "--version")) or None, "emu gdb", "apt install gdb")


def _browser() -> Part:
    names = ("chromium", "chromium-browser", "google-chrome", "firefox")
    found = next((name for name in names if shutil.which(name)), None)
    purpose = "the pages of emu report, which any other machine can show as well"
    return Part("browser", found, purpose, "apt install firefox")


def _jupyter() -> Part:
    found = "a kernel is installed" if importlib.util.find_spec("ipykernel") else None
    return Part("jupyter", found, "lessons as notebooks", "python -m pip install notebook")


def _screen() -> Part:
    size = shutil.get_terminal_size((0, 0))
    wide = size.columns >= 80 and size.lines >= 24 and sys.stdout.isatty()
    found = f"a terminal of {size.columns}x{size.lines}" if wide else None
    return Part("screen", found, "emu step with panels", "a terminal of 80x24 or more; else it goes line by line")


def _sandbox() -> Part:
    found = next((name for name in tiers.TIERS if not tiers.missing(name)), None)
    remedy = "apt install bubblewrap" if sys.platform.startswith("linux") else "a container with Linux has one"
    return Part("sandbox", found, "emu grade, which judges what others have written", remedy)


def _fuzzing() -> Part:
    there = [name for name in ("atheris", "hypothesis") if importlib.util.find_spec(name) is not None]
    there += ["AFL++"] if shutil.which("afl-fuzz") else []
    found = ", ".join(there) or None
    return Part("fuzzing", found, "emu fuzz, beyond short schedules", "python -m pip install 'kvm-steal-emu[fuzz]'")


def _callbacks() -> Part:
    found = "built" if native.library() is not None else None
    remedy = "install emu where a C compiler is; without it all is the same, and slower"
    return Part("callbacks", found, "long runs five times as fast, emu fuzz ten times", remedy)


_PARTS: tuple[Callable[[], Part], ...] = (
    *(_compiler, _guests, _kvm, _gdb, _browser, _jupyter, _screen, _sandbox),
    *(_fuzzing, _callbacks),
)
