"""What `emu fuzz` and its ways have in common on a command line: a target, a host, a file of bytes."""

import os
import tomllib
from pathlib import Path
from typing import Any

from emu.commands.flags import Once, Parser
from emu.faults import HostError
from emu.fuzz.records import GROUPS, HOSTS, ODD_HOST
from emu.scenario import did_you_mean, is_digits

_MAX_INPUT = 1 << 16
HOSTS_TOLD = """hosts:
  honest   keeps the protocol as KVM does
  odd      keeps it, in ways KVM never would: versions about to wrap, steal at
           the borders of its halves, bytes that mean nothing (the default)
  hostile  keeps nothing; only what no host may bring about is a finding
"""


def add_host(parser: Parser) -> None:
    """The flag that chooses a class of hosts."""
    parser.add_argument("--host", action=Once, metavar="CLASS", help=f"{', '.join(HOSTS)} (default: {ODD_HOST})")


def add_target(parser: Parser) -> None:
    """The flags that say what a target is."""
    add_host(parser)
    parser.add_argument(
        "--start", action=Once, metavar="SYMBOL", help="enter the program there, not where its file says"
    )
    parser.add_argument("--since", action=Once, metavar="FUNCTION", help="begin there, not where an area is registered")
    parser.add_argument(
        "--read", action=Once, metavar="FUNCTION[:REGISTER]", help="a read that the guest does not mark"
    )
    parser.add_argument("--ram", action=Once, metavar="SIZE", help="guest memory (default: what the program needs)")
    parser.add_argument("--insns", action=Once, metavar="N", help="end an execution after so many instructions")
    parser.add_argument(
        "--passes", action=Once, metavar="N,...", help="statuses that mean that all is well (default 0)"
    )
    parser.add_argument("--oracle", action="append", metavar="FILE.py:FUNCTION", help="what must hold; may be repeated")
    groups = ", ".join(GROUPS)
    parser.add_argument("--also", action="append", metavar="WHAT", help=f"it survives too: {groups}; may be repeated")
    parser.add_argument("--clamps", action="store_true", help="its clock never goes back, whatever the host does")


def host_class(word: str | None) -> str:
    """The class of that name. Raises HostError where there is none."""
    if word is not None and word not in HOSTS:
        raise HostError(f"there is no host {word!r}", "--host", did_you_mean(word, HOSTS))
    return word or ODD_HOST


def table_of(parsed: Any) -> dict[str, Any]:
    """The target: its file's table, where it has one, under what the flags say."""
    table: dict[str, Any] = {"guest": parsed.target}
    if parsed.target.endswith(".toml") and Path(parsed.target).is_file():
        table = _toml(Path(parsed.target))
    if parsed.host is not None:
        table["host"] = parsed.host
    if parsed.start is not None:
        table["start"] = parsed.start
    if parsed.since is not None:
        table["since"] = parsed.since
    if parsed.read is not None:
        table["read"] = parsed.read
    if parsed.ram is not None:
        table["ram"] = parsed.ram
    if parsed.insns is not None:
        table["insns"] = count(parsed.insns, "--insns", 0)
    if parsed.passes is not None:
        table["passes"] = [count(word, "--passes", 0) for word in parsed.passes.split(",")]
    if parsed.oracle:
        table["oracles"] = [*table.get("oracles", []), *parsed.oracle]
    if parsed.also:
        table["also"] = [*table.get("also", []), *parsed.also]
    if parsed.clamps:
        table["clamps"] = True
    return table


def _toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(read_small(path).decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HostError(f"this is no TOML ({error})", str(path)) from None
    guest = table.get("guest")
    if type(guest) is str and (path.parent / guest).is_file():
        table["guest"] = os.path.relpath(path.parent / guest)
    return table


def read_small(path: Path) -> bytes:
    """The bytes of a small file. Raises HostError where it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_INPUT + 1)
    except OSError as error:
        raise HostError(f"it cannot be read ({error.strerror})", str(path)) from None
    if len(content) > _MAX_INPUT:
        raise HostError(f"it has more than {_MAX_INPUT:,} bytes", str(path))
    return content


def count(word: str | None, flag: str, default: int) -> int:
    """The whole number that a flag says. Raises HostError, naming the flag."""
    if word is None:
        return default
    if not is_digits(word, 12):
        raise HostError(f"{word!r} is no whole number", flag)
    return int(word)
