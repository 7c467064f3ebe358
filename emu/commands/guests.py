"""`emu guests`: the programs that come with emu, each with what it shows and the line that says how to run it."""

import re
import textwrap

from emu import data
from emu.commands.flags import Parser

_WIDTH = 80
_INDENT = " " * 11


def main(arguments: list[str]) -> int:
    """Run `emu guests` with these words."""
    Parser("guests", "List the guests and scenarios that come with emu, and where they are.").parse(arguments)
    folder = data.guests_dir()
    for name, source in (*data.guest_sources().items(), *((path.stem, path) for path in sorted(folder.glob("*.toml")))):
        print("\n".join(entry(name, source.read_text(encoding="utf-8"))))
    print(f"\nsources: {folder}")
    return 0


def entry(name: str, source: str) -> list[str]:
    """The lines about one guest, in 80 columns: the first sentence of its comment, then its first line."""
    comment = []
    for line in source.splitlines():
        if not line.startswith(("//", "#", "/*", " *")):
            break
        comment.append(line.strip("/#* "))
    how, sentence = (comment or [""])[0], _first_sentence(comment[1:])
    first = f"{name:<10} "
    told = textwrap.wrap(sentence, _WIDTH, initial_indent=first, subsequent_indent=_INDENT, break_on_hyphens=False)
    # Options stay with their values where the line has to be broken; a backslash lets a shell take it as one line.
    words = how.replace(" --", "\0--").replace(" ", "\1").replace("\0", " ")
    ways = [way.replace("\1", " ") for way in textwrap.wrap(words, _WIDTH - 15, break_on_hyphens=False)]
    if len(first) > len(_INDENT):
        told = [name, *textwrap.wrap(sentence, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)]
    return (told or [first.rstrip()]) + [_INDENT + line for line in " \\\n  ".join(ways).splitlines()]


def _first_sentence(comment: list[str]) -> str:
    """Of the first paragraph, up to where a sentence ends."""
    lines: list[str] = []
    for line in comment:
        if not line and lines:
            break
        if line:
            lines.append(line)
    text = " ".join(lines)
    return re.split(r"(?<=[.?!]) ", text, maxsplit=1)[0]
