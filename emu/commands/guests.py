"""`emu guests`: the programs that come with emu, each with the line that says how to run it."""

from pathlib import Path

from emu import data
from emu.commands.flags import Parser


def main(arguments: list[str]) -> int:
    """Run `emu guests` with these words."""
    Parser("guests", "List the guests and scenarios that come with emu, and where they are.").parse(arguments)
    folder = data.guests_dir()
    for name, source in (*data.guest_sources().items(), *((path.stem, path) for path in sorted(folder.glob("*.toml")))):
        print(f"{name:<10} {_first_line(source)}")
    print(f"\nsources: {folder}")
    return 0


def _first_line(source: Path) -> str:
    with source.open(encoding="utf-8") as file:
        return file.readline().strip().lstrip("/#* ")
