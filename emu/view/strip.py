"""A strip of time drawn in characters: one row per vCPU and task, one column per span of virtual time.

Close up a column shows one state: it runs, it waits for a pCPU (this is what steal counts), it sleeps. From afar a
column holds many switches, and shows how much of it was run and how much was waited for. Every character says what a
colour says, so nothing is lost without colours; where the encoding has no blocks, ASCII stands in.

In Linux: `perf sched map` draws the same in letters: map_switch_event() in tools/perf/builtin-sched.c.
"""

from itertools import groupby
from typing import NamedTuple

from emu.view.scale import readable, tick_ns
from emu.view.timeline import Cell, Lane, Strip

Span = tuple[str, str]  # text, and what it means: one of the keys of a theme, or nothing
Row = tuple[Span, ...]

MAX_LANES = 12
_PCPU_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+*"


class Glyphs(NamedTuple):
    """The characters of a strip; `shares` go from next to nothing to all of a column."""

    runs: str
    partly: str
    waits: str
    sleeps: str
    update: str
    tick: str
    rule: str
    shares: str


BLOCKS = Glyphs("█", "▪", "░", " ", "▲", "╷", "─", "▁▂▃▄▅▆▇█")
ASCII = Glyphs("#", "+", ".", " ", "^", "|", "-", "123456789#")


def glyphs_for(encoding: str) -> Glyphs:
    """Blocks where this encoding has them all, else ASCII."""
    try:
        "".join(BLOCKS).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def close_up(strip: Strip, label_width: int, width: int, glyphs: Glyphs) -> list[Row]:
    """The axis, one row per vCPU and task, and the legend, labels right-aligned, in rows of at most `width`.

    With several pCPUs a digit tells which one it runs on.
    """
    rows = [axis(strip, label_width, width, glyphs)]
    drawn = set()
    for lane in strip.lanes[:MAX_LANES]:
        marks = _marks(lane, strip.pcpus, glyphs)
        drawn |= {meaning for _, meaning in marks}
        rows.append(_row(lane.who, label_width, marks))
    rows += _hidden(strip, label_width)
    runs = f"{glyphs.runs} runs" if strip.pcpus == 1 else f"0 to {_PCPU_DIGITS[strip.pcpus - 1]} runs, on that pCPU"
    legend = (
        ("run", runs),
        ("partly", f"{glyphs.partly} runs, briefly"),
        ("wait", f"{glyphs.waits} waits: stolen"),
        ("sleep", "blank sleeps"),
        ("update", f"{glyphs.update} update"),
    )
    return [*rows, *_legend([entry for entry in legend if entry[0] in drawn], label_width, width, strip)]


def from_afar(strip: Strip, label_width: int, width: int, glyphs: Glyphs) -> list[Row]:
    """The axis; for each vCPU how much of each column it ran and waited, and its updates; for each task what it ran."""
    rows = [axis(strip, label_width, width, glyphs)]
    last = len(strip.lanes[0].cells) - 1
    spans = [min(strip.cell_ns, strip.end_ns - number * strip.cell_ns) for number in range(last + 1)]
    many = False
    for lane in strip.lanes[:MAX_LANES]:
        ran = [share(cell.ran_ns, span, glyphs) for cell, span in zip(lane.cells, spans, strict=True)]
        rows.append(_row(f"{lane.who} ran", label_width, [(text, "run") for text in ran]))
        if not lane.is_vcpu:
            continue
        if any(cell.waited_ns for cell in lane.cells):
            waited = [share(cell.waited_ns, span, glyphs) for cell, span in zip(lane.cells, spans, strict=True)]
            rows.append(_row("stolen", label_width, [(text, "wait") for text in waited]))
        if any(cell.updates for cell in lane.cells):
            many = many or any(cell.updates > 9 for cell in lane.cells)
            rows.append(_row("updates", label_width, [(_digit(cell.updates), "update") for cell in lane.cells]))
    rows += _hidden(strip, label_width)
    tenths = "in eighths" if glyphs.shares == BLOCKS.shares else "in tenths, # all"
    legend = [("", f"{glyphs.shares[0]} to {glyphs.shares[-1]}: share of the column, {tenths}")]
    if any(cell.updates for lane in strip.lanes[:MAX_LANES] for cell in lane.cells):
        legend.append(("update", "updates: how many" + (", + above 9" if many else "")))
    return [*rows, *_legend(legend, label_width, width, strip)]


def axis(strip: Strip, label_width: int, width: int, glyphs: Glyphs) -> Row:
    """Ticks at round times, each with its time to the right of it."""
    columns = width - label_width - 1
    step_ns = tick_ns(strip.cell_ns)
    scales = (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1))
    unit = next((name for name, scale in scales if strip.end_ns >= scale <= 10 * step_ns), "ns")
    text = ""
    for at_ns in range(0, strip.end_ns, step_ns):
        label = glyphs.tick + (readable(at_ns, unit).replace(" ", "") if at_ns else "0")
        column = at_ns // strip.cell_ns
        if column + len(label) <= columns:
            text = text.ljust(column) + label
    return _row("", label_width, [(text, "axis")])


def share(part_ns: int, span_ns: int, glyphs: Glyphs) -> str:
    """The character for a part of a column: blank for nothing, rounded to the nearest step but never to nothing."""
    if not part_ns:
        return " "
    steps = len(glyphs.shares)
    return glyphs.shares[max(1, (2 * steps * part_ns + span_ns) // (2 * span_ns)) - 1]


def _marks(lane: Lane, pcpus: int, glyphs: Glyphs) -> list[Span]:
    held = [_mostly(cell) == "run" for cell in lane.cells]
    marks = []
    for number, cell in enumerate(lane.cells):
        meaning = _mostly(cell)
        beside = held[max(0, number - 1)] or (number + 1 < len(held) and held[number + 1])
        if cell.updates:
            meaning = "update"
        elif cell.ran_ns and meaning != "run" and not beside:
            meaning = "partly"  # a run is never lost; beside a longer one it is that one's edge
        text = {
            "run": glyphs.runs if pcpus == 1 else _PCPU_DIGITS[cell.pcpu or 0],
            "partly": glyphs.partly,
            "wait": glyphs.waits,
            "sleep": glyphs.sleeps,
            "update": glyphs.update,
        }[meaning]
        marks.append((text, meaning))
    return marks


def _mostly(cell: Cell) -> str:
    if cell.ran_ns and cell.ran_ns >= max(cell.waited_ns, cell.slept_ns):
        return "run"
    return "wait" if cell.waited_ns and cell.waited_ns >= cell.slept_ns else "sleep"


def _digit(count: int) -> str:
    return " " if not count else str(count) if count < 10 else "+"


def _row(label: str, label_width: int, marks: list[Span]) -> Row:
    joined = [("".join(text for text, _ in run), meaning) for meaning, run in groupby(marks, key=lambda mark: mark[1])]
    return ((label.rjust(label_width) + " ", "label"), *joined)


def _hidden(strip: Strip, label_width: int) -> list[Row]:
    rest = len(strip.lanes) - MAX_LANES
    return [_row("", label_width, [(f"... and {rest} more, not drawn", "note")])] if rest > 0 else []


def _legend(entries: list[Span], label_width: int, width: int, strip: Strip) -> list[Row]:
    """The legend in as many rows as it takes; each entry is (meaning, text)."""
    entries = [*entries, ("", f"one column: {readable(strip.cell_ns)}")]
    room = width - label_width - 1
    rows: list[list[Span]] = [[]]
    used = 0
    for meaning, text in entries:
        if rows[-1] and used + 3 + len(text) > room:
            rows.append([])
            used = 0
        if rows[-1]:
            rows[-1].append(("   ", ""))
            used += 3
        rows[-1].append((text, meaning or "note"))
        used += len(text)
    return [((" " * (label_width + 1), ""), *row) for row in rows]
