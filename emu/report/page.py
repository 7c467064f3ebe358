"""The report of a run as one HTML file that asks nothing of any network.

The frames are compressed, which makes 3,000 of them some tens of kilobytes; every browser since 2023 unpacks them by
itself. Script and style stand beside this module. Nothing of the guest's is ever taken as markup.

In Linux: nothing like it; perf's flame graphs are shared as such single files.
"""

import base64
import json
import re
import zlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from emu.result import Result
from emu.view.scale import readable

_HERE = Path(__file__).parent
_PART = re.compile(r"@([a-z]+)@")


class About(NamedTuple):
    """What a page says of its run: the guest's name, the command that makes the same page, what came of the run.

    `story` are lines of whoever made a recording; `position` is the run's last, `cursor` where to begin.
    """

    guest: str
    command: str
    result: Result
    position: int
    cursor: int
    story: Sequence[str] = ()


def page(about: About, picture: str, film: dict[str, Any]) -> str:
    """The file's text. `picture` is an SVG element, `film` the frames."""
    data = json.dumps({**film, "last": about.position, "cursor": about.cursor}, separators=(",", ":"))
    packed = base64.b64encode(zlib.compress(data.encode("ascii"), 9)).decode("ascii")
    result = about.result
    whole = film["first"] == 0 and len(film["frames"]) == about.position + 1
    stretch = f"positions {film['first']:,} to {film['first'] + len(film['frames']) - 1:,} of {about.position:,}"
    parts = {
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
        "script": (_HERE / "page.js").read_text(encoding="utf-8"),
        "data": packed,
        "guest": escape(about.guest),
        "ended": escape(f"It ended with {result.reason}" + _code(result)),
        "sums": escape(f"{result.instructions:,} instructions, {readable(result.virtual_ns)} of virtual time"),
        "stretch": "all of its positions" if whole else stretch,
        "command": escape(about.command),
        "story": _story(about.story),
        "picture": picture,
        "books": _books(result),
    }
    text = (_HERE / "page.html").read_text(encoding="utf-8")
    return _PART.sub(lambda found: parts[found[1]], text)


def _code(result: Result) -> str:
    return "" if result.exit_code is None else f" {result.exit_code}"


def _story(lines: Sequence[str]) -> str:
    return f"<pre class='story' tabindex='0'>{escape(chr(10).join(lines))}</pre>" if lines else ""


def _books(result: Result) -> str:
    rows = []
    for vcpu in result.vcpus:
        area = "none" if vcpu.area is None else f"{vcpu.area.steal:,} ns, version {vcpu.area.version:,}"
        cells = (f"vcpu{vcpu.id}", *(f"{ns:,}" for ns in (vcpu.ran_ns, vcpu.stolen_ns, vcpu.idle_ns)), area)
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    return "".join(f"<tr>{row}</tr>" for row in rows)
