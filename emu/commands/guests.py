"""`emu guests`: the programs that come with emu, each with the line that says how to run it."""

from emu import data
from emu.commands.flags import Parser


def main(arguments: list[str]) -> int:
    """Run `emu guests` with these words."""
    Parser("guests", "List the guests that come with emu, and where their sources are.").parse_args(arguments)
    for name, source in data.guest_sources().items():
        with source.open(encoding="utf-8") as file:
            print(f"{name:<10} {file.readline().strip().lstrip('/#* ')}")
    print(f"\nsources: {data.guests_dir()}")
    return 0
