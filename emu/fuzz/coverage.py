"""Which lines of a guest were executed: for people (a page), and for tools (lcov's tracefile, DynamoRIO's drcov).

Formats: geninfo(1) of lcov 2; https://dynamorio.org/page_drcov.html, version 2.

In Linux: Documentation/dev-tools/gcov.rst.
"""

import html
import struct
from collections.abc import Callable, Collection
from pathlib import PurePath
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
summary { margin: 1.2rem 0 .4rem; cursor: pointer; font-size: 1.1rem; }
summary span { color: var(--dim); margin-left: 1rem; }
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


def as_page(found: Covered, name: str, begins: str, text_of: Callable[[str], str | None]) -> str:
    """The sources of the program `name`, annotated: one file, nothing loaded from elsewhere.

    Its own source stands first, then those of which most was executed; those of which nothing was are folded. `begins`
    says where each execution does.
    """
    done, every = found.lines
    title = html.escape(f"{name}: what was executed")
    parts = [
        f"<h1>{title}</h1><p>{done} of {every} lines with code were executed. Each execution begins"
        f" {html.escape(begins)}: what the program does before that is not counted.</p>"
    ]

    def rank(one: tuple[str, dict[int, bool]]) -> tuple[bool, int, str]:
        return PurePath(one[0]).stem != PurePath(name).stem, -sum(one[1].values()), one[0]

    for file, hits in sorted(found.files.items(), key=rank):
        text = text_of(file)
        hit_lines = sum(hits.values())
        parts.append(
            f"<details{' open' if hit_lines else ''}><summary><b>{html.escape(file)}</b>"
            f"<span>{hit_lines} of {len(hits)} lines</span></summary>"
        )
        if text is None:
            parts.append("<p>Its text is not here.</p></details>")
            continue
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            hit = hits.get(number)
            kind, sign = {True: ("hit", "+"), False: ("miss", "\N{MINUS SIGN}"), None: ("", "")}[hit]
            cells = f'<td class="n">{number}</td><td class="m">{sign}</td><td>{html.escape(line)}</td>'
            rows.append(f'<tr class="{kind}">{cells}</tr>')
        parts.append(f"<table>{''.join(rows)}</table></details>")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(parts)}</main></body></html>\n'
