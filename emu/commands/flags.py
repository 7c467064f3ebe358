"""Command lines: argparse, with errors told as every other error is, and flags made from the table of options."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from emu import clock
from emu.faults import HostError
from emu.scenario import BY_NAME, FLAG, OPTIONS, Config, did_you_mean, from_text

MOST_USED = ("vcpus", "pcpus", "task", "policy", "quantum")
THEMES = (
    ("who runs when", ("script", "seed", "pin", "weight", "interleave")),
    ("the steal-time interface", ("host-model", "store-gap", "steal-store", "abi", "without", "lax-cpuid")),
    ("the machine", ("ram", "swap", "start", "mode", "ps-per-insn", "tsc-khz")),
    ("limits", ("time-limit", "insn-limit", "exit-limit", "output-limit")),
)


class Parser(argparse.ArgumentParser):
    """argparse that raises HostError instead of printing its usage and leaving."""

    def __init__(self, command: str, description: str, epilog: str = "", usage: str | None = None) -> None:
        super().__init__(
            prog=f"emu {command}",
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise HostError(message, remedy=f"see `{self.prog} --help`")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """What the words say. Raises HostError for a word that is too many, with the option it resembles."""
        parsed, rest = self.parse_known_args(list(words))
        for word in rest:
            name = word.partition("=")[0]
            if name.startswith("-"):
                known = [flag for flag in self._option_string_actions if flag.startswith("--")]
                raise HostError(f"there is no option {name!r}", remedy=did_you_mean(name, known))
        if rest:
            self.error(f"{rest[0]!r} is one word too many")
        return parsed


class Once(argparse.Action):
    """A flag with one value that is not to be given twice: of two, one would be silently ignored."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: Any = None
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise HostError("given twice", self.option_strings[-1], "give it once")
        setattr(namespace, self.dest, values)


def add_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """A flag for each option of a run's configuration, by theme. Returns the first group, of the most used ones."""
    most_used = parser.add_argument_group("most used")
    _add(most_used, MOST_USED)
    for title, names in THEMES:
        _add(parser.add_argument_group(title), names)
    return most_used


def _add(group: argparse._ArgumentGroup, names: Sequence[str]) -> None:
    defaults = Config()._asdict()
    for option in (BY_NAME[name] for name in names):
        default = shown(option.name, defaults[option.field])
        text = (f"{option.help} (default: {default})" if default else option.help).replace("%", "%%")
        if option.kind is FLAG:
            group.add_argument(f"--{option.name}", action="append_const", const="true", help=option.help)
        else:
            group.add_argument(f"--{option.name}", action="append", metavar=option.metavar or "X", help=text)


def config_from(parsed: argparse.Namespace, base: Config) -> Config:
    """`base` with what was given on the command line; a flag that repeats replaces all of its values in `base`."""
    given = {option.name: getattr(parsed, option.name.replace("-", "_")) for option in OPTIONS}
    return from_text({name: texts for name, texts in given.items() if texts is not None}, base)


def shown(name: str, value: object) -> str:
    """A default as one would type it."""
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        if name in ("ram", "output-limit"):
            return f"{value >> 20}M" if value % (1 << 20) == 0 else f"{value >> 10}K"
        if name in ("quantum", "interleave", "time-limit"):
            for unit in ("s", "ms", "us", "ns"):
                if value % clock.UNITS[unit] == 0:
                    return f"{value // clock.UNITS[unit]}{unit}"
    return str(value)
