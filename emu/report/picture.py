"""A whole run as a picture (SVG): for each vCPU and task when it ran, waited and slept, and where the updates fell.

A column that holds many switches shows shares: what it ran from below, what it waited from above. Waiting is hatched,
so nothing is lost in black and white. Neighbours that look alike are one mark, and there are MOST_MARKS at most.

In Linux: `perf timechart` draws such pictures: tools/perf/builtin-timechart.c.
"""

from html import escape
from typing import NamedTuple

from emu.view.scale import readable, tick_ns
from emu.view.strip import MAX_LANES
from emu.view.timeline import Strip, Timeline

MOST_MARKS = 2000
_WIDTHS = (960, 640, 480, 320, 240, 160, 120, 80, 40, 20)
LEFT, WIDTH = 80, 960  # the labels' room, and that of the time
_ROW, _BAR, _TOP = 30, 20, 24
_RIGHT = 24
_FONT = "font-family='ui-sans-serif,system-ui,sans-serif' font-size='13'"
STYLE = (
    ".run{fill:#2563a8}.wait{fill:url(#hatch)}.hatch{stroke:#b45309}.update{fill:#111827}.axis{stroke:#9ca3af}"
    ".base{stroke:#d1d5db}text{fill:#111827}"
)


class Mark(NamedTuple):
    """A rectangle of one lane: what it shows, columns from and to, height in percent."""

    kind: str
    first: int
    last: int
    percent: int


def picture(timeline: Timeline, *, title: str, alone: bool) -> str:
    """The finished `timeline` as one SVG element; `alone` has its own colours, else those of the page around it."""
    strip, marks = _fitting(timeline)
    lanes = strip.lanes[:MAX_LANES]
    columns = max(len(lanes[0].cells), 1)
    scale = WIDTH / columns
    bottom = _TOP + _ROW * len(lanes)
    height = bottom + 30
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {LEFT + WIDTH + _RIGHT} {height}' role='img' {_FONT}>",
        f"<title>{escape(title)}</title>",
        "<defs><pattern id='hatch' width='6' height='6' patternUnits='userSpaceOnUse' patternTransform='rotate(45)'>"
        "<line class='hatch' x1='0' y1='0' x2='0' y2='6' stroke-width='5'/></pattern></defs>",
    ]
    if alone:
        parts.append(f"<style>{STYLE}</style><rect width='100%' height='100%' fill='#fff'/>")
    parts += _axis(strip, columns, bottom)
    for row, (lane, found) in enumerate(zip(lanes, marks, strict=True)):
        y = _TOP + _ROW * row
        parts.append(f"<text x='{LEFT - 10}' y='{y + 16}' text-anchor='end'>{escape(lane.who)}</text>")
        parts.append(f"<line class='base' x1='{LEFT}' y1='{y + _BAR}' x2='{LEFT + WIDTH}' y2='{y + _BAR}'/>")
        parts += [_drawn(mark, y, scale) for mark in found]
    hidden = len(strip.lanes) - len(lanes)
    more = f" &#160; ... and {hidden} more, not drawn" if hidden else ""
    parts.append(_legend(bottom + 20, strip, more))
    parts.append("</svg>")
    return "".join(parts)


def marks_of(strip: Strip) -> list[list[Mark]]:
    """The rectangles of each lane, neighbours merged, and the updates."""
    found = []
    last = len(strip.lanes[0].cells) - 1
    for lane in strip.lanes[:MAX_LANES]:
        row: list[Mark] = []
        updates: list[Mark] = []
        open_: dict[str, Mark] = {}
        for number, cell in enumerate(lane.cells):
            span = min(strip.cell_ns, strip.end_ns - number * strip.cell_ns) if number == last else strip.cell_ns
            for kind, part in (("run", cell.ran_ns), ("wait", cell.waited_ns)):
                percent = -(-part * 20 // span) * 5 if part else 0  # in twentieths, never none of something
                mark = open_.get(kind)
                if mark is not None and mark.percent == percent:
                    open_[kind] = mark._replace(last=number + 1)
                    continue
                if mark is not None:
                    row.append(mark)
                    del open_[kind]
                if percent:
                    open_[kind] = Mark(kind, number, number + 1, percent)
            if cell.updates:
                updates.append(Mark("update", number, number + 1, 0))
        found.append([*row, *open_.values(), *updates])
    return found


def _fitting(timeline: Timeline) -> tuple[Strip, list[list[Mark]]]:
    for width in _WIDTHS:
        strip = timeline.strip(width)
        marks = marks_of(strip)
        if sum(map(len, marks)) <= MOST_MARKS:
            break
    return strip, marks


def _drawn(mark: Mark, y: int, scale: float) -> str:
    x = LEFT + mark.first * scale
    if mark.kind == "update":
        x += scale / 2
        return f"<path class='update' d='M{x:.1f} {y + _BAR + 1}l3.5 6h-7z'/>"
    width = max((mark.last - mark.first) * scale, 0.8)
    high = _BAR * mark.percent / 100
    top = y if mark.kind == "wait" else y + _BAR - high
    return f"<rect class='{mark.kind}' x='{x:.1f}' y='{top:.1f}' width='{width:.1f}' height='{high:.1f}'/>"


def _axis(strip: Strip, columns: int, bottom: int) -> list[str]:
    per_ns = WIDTH / max(columns * strip.cell_ns, 1)
    step = tick_ns(max(strip.end_ns // 80, 1))
    found = []
    for at in range(0, strip.end_ns + 1, step):
        x = LEFT + at * per_ns
        found.append(f"<line class='axis' x1='{x:.1f}' y1='{_TOP - 6}' x2='{x:.1f}' y2='{bottom}' stroke-width='.5'/>")
        found.append(f"<text x='{x:.1f}' y='{_TOP - 10}' text-anchor='middle' font-size='11'>{readable(at)}</text>")
    return found


def _legend(y: int, strip: Strip, more: str) -> str:
    x = LEFT
    return (
        f"<rect class='run' x='{x}' y='{y - 10}' width='14' height='10'/><text x='{x + 20}' y='{y}'>runs</text>"
        f"<rect class='wait' x='{x + 70}' y='{y - 10}' width='14' height='10'/>"
        f"<text x='{x + 90}' y='{y}'>waits; of a vCPU it is steal</text>"
        f"<text x='{x + 270}' y='{y}'>blank: sleeps, idle</text>"
        f"<path class='update' d='M{x + 407} {y - 8}l3.5 6h-7z'/><text x='{x + 417}' y='{y}'>update of the area"
        f"{more}</text>"
    )
