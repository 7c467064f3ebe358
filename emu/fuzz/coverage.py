"""Which lines of a guest were executed: for people (a page), and for tools (lcov's tracefile, DynamoRIO's drcov).

Formats: geninfo(1) of lcov 2; https://dynamorio.org/page_drcov.html, version 2.

In Linux: Documentation/dev-tools/gcov.rst.
"""

import html
import struct
from collections.abc import Callable, Collection
from typing import NamedTuple

from emu.boot.image import Image, Piece
from emu.code.lines import line_addresses

_BLOCK = struct.Struct("<IHH")
_STYLE = """
:root { color-scheme: light dark; --hit: #d7f5dd; --miss: #fde2e0; --ink: #1b1f24; --back: #fff; --dim: #6b7280; }
@media (prefers-color-scheme: dark) {
  :root { --hit: #12391f; --miss: #4a1f1c; --ink: #e6edf3; --back: #0d1117; --dim: #8b949e; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font: 13px/1.45 ui-monospace, monospace; }
td { padding: 0 .6rem; white-space: pre-wrap; }
td.n { color: var(--dim); text-align: right; width: 3rem; user-select: none; }
td.m { width: 1rem; } tr.hit { background: var(--hit); } tr.miss { background: var(--miss); }
"""


class Covered(NamedTuple):
    """Of each source file, by line: whether code of it was executed."""

    files: dict[str, dict[int, bool]]

    @property
    def lines(self) -> tuple[int, int]:
        """How many lines were executed, and how many there are with code."""
        every = [hit for lines in self.files.values() for hit in lines.values()]
        return sum(every), len(every)


def covered(image: Image, blocks: Collection[tuple[int, int]]) -> Covered:
    """What these blocks (address, size) come to in lines; nothing where the program has no line table."""
    ranges = sorted(blocks)
    found: dict[str, dict[int, bool]] = {}
    for (file, line), addresses in sorted(line_addresses(image.source).items()):
        hit = any(first <= one < first + size for one in addresses for first, size in ranges)
        found.setdefault(file, {})[line] = hit
    return Covered(found)


def as_lcov(found: Covered) -> str:
    """A tracefile for genhtml and editors."""
    lines = ["TN:"]
    for file, hits in found.files.items():
        lines += [f"SF:{file}", *(f"DA:{number},{int(hit)}" for number, hit in sorted(hits.items()))]
        lines += [f"LF:{len(hits)}", f"LH:{sum(hits.values())}", "end_of_record"]
    return "\n".join(lines) + "\n"


def as_drcov(image: Image, name: str, blocks: Collection[tuple[int, int]]) -> bytes:
    """For Lighthouse, Cutter and the like: one module, which is the program; or one for each distance between where its
    parts are and where it expects them, for the offsets of blocks have 32 bits."""
    parts: dict[int, list[Piece]] = {}
    for piece in image.pieces:
        parts.setdefault(piece.linear - piece.gpa, []).append(piece)
    modules = [(min(one.linear for one in some), max(one.linear + one.size for one in some)) for some in parts.values()]
    inside = [
        _BLOCK.pack(first - base, size, number)
        for first, size in sorted(blocks)
        for number, (base, end) in enumerate(modules)
        if base <= first < end
    ]
    head = f"DRCOV VERSION: 2\nDRCOV FLAVOR: emu\nModule Table: version 2, count {len(modules)}\n"
    head += "Columns: id, base, end, entry, checksum, timestamp, path\n"
    for number, (base, end) in enumerate(modules):
        head += f"{number}, {base:#x}, {end:#x}, {image.entry.rip:#x}, 0x0, 0x0, {name}\n"
    return f"{head}BB Table: {len(inside)} bbs\n".encode() + b"".join(inside)


def as_page(found: Covered, title: str, text_of: Callable[[str], str | None]) -> str:
    """The sources, annotated: one file, nothing loaded from elsewhere."""
    done, every = found.lines
    parts = [f"<h1>{html.escape(title)}</h1><p>{done} of {every} lines with code were executed.</p>"]
    for file, hits in found.files.items():
        text = text_of(file)
        parts.append(f"<h2>{html.escape(file)}</h2><p>{sum(hits.values())} of {len(hits)} lines</p>")
        if text is None:
            parts.append("<p>Its text is not here.</p>")
            continue
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            hit = hits.get(number)
            kind, sign = {True: ("hit", "+"), False: ("miss", "\N{MINUS SIGN}"), None: ("", "")}[hit]
            cells = f'<td class="n">{number}</td><td class="m">{sign}</td><td>{html.escape(line)}</td>'
            rows.append(f'<tr class="{kind}">{cells}</tr>')
        parts.append(f"<table>{''.join(rows)}</table>")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(parts)}</main></body></html>\n'
