"""Command lines: argparse, with errors told as every other error is, and flags made from the table of options."""

import argparse
from typing import NoReturn

from emu.faults import HostError
from emu.scenario import OPTIONS, Config, from_text


class Parser(argparse.ArgumentParser):
    """argparse that raises HostError instead of printing its usage and leaving."""

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"emu {command}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise HostError(message, remedy=f"see {self.prog} --help")


def add_options(parser: argparse.ArgumentParser) -> None:
    """A flag for each option of a run's configuration."""
    group = parser.add_argument_group("the machine and its host")
    defaults = Config()._asdict()
    for option in OPTIONS:
        default = shown(option.name, defaults[option.field])
        text = f"{option.help} (default: {default})" if default else option.help
        group.add_argument(
            f"--{option.name}", action="append", metavar=option.metavar or "X", help=text.replace("%", "%%")
        )


def config_from(parsed: argparse.Namespace, base: Config) -> Config:
    """`base` with what was given on the command line."""
    given = {option.name: getattr(parsed, option.name.replace("-", "_")) for option in OPTIONS}
    return from_text({name: texts for name, texts in given.items() if texts is not None}, base)


def shown(name: str, value: object) -> str:
    """A default as one would type it."""
    if value is None or value == ():
        return ""
    if isinstance(value, int):
        if name in ("ram", "output-limit"):
            return f"{value >> 20}M"
        if name in ("quantum", "interleave", "time-limit"):
            for unit, ps in (("s", 10**12), ("ms", 10**9), ("us", 10**6), ("ns", 10**3)):
                if value % ps == 0:
                    return f"{value // ps}{unit}"
    return str(value)
