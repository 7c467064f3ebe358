"""What `emu run` prints at the end: each vCPU's books, the strips of time, and how the run ended, in words.

The layout is made once, as rows of marked text; plain text drops the marks, rich turns them into colours.

In Linux: `perf sched latency` prints such a table, output_lat_thread() in tools/perf/builtin-sched.c; a guest sees its
own in the `steal` column of /proc/stat, show_stat() in fs/proc/stat.c.
"""

import textwrap
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from emu import abi, clock
from emu import result as results
from emu.host.task import parse_task
from emu.result import Result, VcpuResult
from emu.scenario import Config
from emu.view.many import many
from emu.view.scale import readable
from emu.view.strip import Glyphs, Row, close_up, from_afar, glyphs_for
from emu.view.timeline import IDLE, WAITS, Timeline

if TYPE_CHECKING:
    from rich.console import Console

MIN_WIDTH = 60
MAX_WIDTH = 140
MAX_PCPU_ROWS = 8
MAX_WHERE = 8
MIN_CRASH_NS = 1000  # of a crash sooner than this a picture of time shows nothing
SWITCHES_PER_COLUMN = 8  # fewer, and the picture beats: it shows where columns cut quanta, not how time is shared
MIN_COLUMNS = 16
THEME = {
    "run": "green",
    "partly": "green",
    "wait": "red",
    "sleep": "dim",
    "update": "bold yellow",
    "axis": "dim",
    "label": "bold",
    "note": "dim",
    "sign": "dim",
    "title": "bold",
    "end": "bold",
}


def render_plain(
    result: Result, timeline: Timeline, config: Config, width: int = 80, *, encoding: str = "utf-8"
) -> str:
    """The summary as text of at most `width` columns (60 at least), ending in a newline.

    `timeline` is finished with the result's `virtual_ns`; `encoding` is that of where the text goes: blocks or ASCII.
    """
    rows = layout(result, timeline, config, width, glyphs_for(encoding))
    return "".join("".join(text for text, _ in row).rstrip() + "\n" for row in rows)


def render_rich(console: "Console", result: Result, timeline: Timeline, config: Config) -> None:
    """Print the summary on a rich console, in its width, encoding and colours."""
    from rich.text import Text

    for row in layout(result, timeline, config, console.width, glyphs_for(console.encoding)):
        text = Text.assemble(*((part, THEME.get(meaning, "")) for part, meaning in row))
        text.rstrip()
        console.print(text, soft_wrap=True, highlight=False)


def as_json(result: Result) -> dict[str, Any]:
    """The one object that --json prints. The console is decoded as UTF-8, with U+FFFD for bytes that are none."""
    vcpus = [{**one._asdict(), "area": None if one.area is None else one.area._asdict()} for one in result.vcpus]
    return {
        **result._asdict(),
        "vcpus": vcpus,
        "console": result.console.decode("utf-8", "replace"),
        "fault": None if result.fault is None else result.fault._asdict(),
        "where": [one._asdict() for one in result.where],
    }


def layout(result: Result, timeline: Timeline, config: Config, width: int, glyphs: Glyphs) -> list[Row]:
    """The summary in rows of marked text."""
    width = max(MIN_WIDTH, min(width, MAX_WIDTH))
    rows = [*books(result, width, glyphs)]
    if timeline.end_ns and not _crashed_at_once(result, timeline):
        rows += strips(timeline, width, glyphs)
        rows += holders(timeline, width)
    rows.append(())
    rows += _wrapped(ending(result, config), "end", width)
    for one in whereabouts(result):
        rows += _wrapped(one, "", width)
    for note in notes(result, timeline, config):
        rows += _wrapped(note, "note", width)
    return rows


def _crashed_at_once(result: Result, timeline: Timeline) -> bool:
    """Whether a crash left no picture worth its lines: it came at once, or nobody ever waited or slept."""
    if result.reason != results.TRIPLE_FAULT:
        return False
    return result.virtual_ns < MIN_CRASH_NS or timeline.switches <= 1


# --- the table -------------------------------------------------------------------------------------------------------

Column = tuple[str, str, Callable[[VcpuResult], str]]  # heading, meaning, text

_BOOKS: tuple[Column, ...] = (
    ("", "label", lambda one: f"vcpu{one.id}"),
    ("ran ns", "run", lambda one: f"{one.ran_ns:,}"),
    ("", "sign", lambda _: "+"),
    ("stolen ns", "wait", lambda one: f"{one.stolen_ns:,}"),
    ("", "sign", lambda _: "+"),
    ("idle ns", "", lambda one: f"{one.idle_ns:,}"),
    ("", "sign", lambda _: "="),
    ("elapsed ns", "", lambda one: f"{one.elapsed_ns:,}"),
)
_AREA: tuple[Column, ...] = (
    ("share", "run", lambda one: percent(one.ran_ns, one.elapsed_ns)),
    ("updates", "update", lambda one: f"{one.updates:,}"),
    ("version", "update", lambda one: "-" if one.area is None else f"{one.area.version:,}"),
    ("steal ns", "wait", lambda one: "-" if one.area is None else f"{one.area.steal:,}"),
)


def books(result: Result, width: int, glyphs: Glyphs) -> list[Row]:
    """A row for each vCPU: its time, its share and its area; two tables where one would be too wide."""
    whole = _table(_BOOKS + _AREA, result.vcpus, glyphs)
    if sum(len(text) for text, _ in whole[0]) <= width:
        return whole
    return [*_table(_BOOKS, result.vcpus, glyphs), (), *_table(_BOOKS[:1] + _AREA, result.vcpus, glyphs)]


def _table(columns: Iterable[Column], vcpus: tuple[VcpuResult, ...], glyphs: Glyphs) -> list[Row]:
    made = []
    for heading, meaning, text in columns:
        texts = [text(one) for one in vcpus]
        made.append((heading, meaning, texts, max(map(len, (heading, *texts)))))
    signs = [meaning == "sign" for _, meaning, _, _ in made]
    gaps = [""] + [" " if sign or before else "  " for before, sign in pairwise(signs)]
    rows: list[Row] = [
        tuple((gap + heading.rjust(size), "title") for gap, (heading, _, _, size) in zip(gaps, made, strict=True))
    ]
    rows.append(((glyphs.rule * sum(len(text) for text, _ in rows[0]), "note"),))
    for number in range(len(vcpus)):
        rows.append(
            tuple(
                (gap + texts[number].rjust(size), meaning)
                for gap, (_, meaning, texts, size) in zip(gaps, made, strict=True)
            )
        )
    return rows


def percent(part: int, whole: int) -> str:
    """A share in per cent with two decimals, rounded half up in whole numbers; `-` of nothing."""
    if not whole:
        return "-"
    hundredths = (part * 20_000 + whole) // (2 * whole)
    return f"{hundredths // 100}.{hundredths % 100:02} %"


# --- the strips ------------------------------------------------------------------------------------------------------


def strips(timeline: Timeline, width: int, glyphs: Glyphs) -> list[Row]:
    """The first switches close up and the whole run from afar, or the former alone where it shows the whole run."""
    names = max(map(len, timeline.courses))
    close_label = names + 1
    opening = timeline.opening(width - close_label - 1)
    if opening.end_ns == timeline.end_ns:
        return [*_titled(f"The run, {readable(opening.end_ns)}", width), *close_up(opening, close_label, width, glyphs)]
    far_label = names + len(" ran") + 1
    opening = timeline.opening(width - far_label - 1)
    pcpu = "the pCPU" if timeline.pcpus == 1 else "which pCPU"
    rows = _titled(f"The first {readable(opening.end_ns)}: who had {pcpu}, and where the updates fell", width)
    rows += close_up(opening, far_label, width, glyphs)
    columns = min(width - far_label - 1, timeline.switches // (SWITCHES_PER_COLUMN * timeline.pcpus))
    if columns >= MIN_COLUMNS:
        whole = timeline.strip(columns)
        rows += _titled(f"All {readable(whole.end_ns)}, {timeline.switches:,} switches: how the time was shared", width)
        rows += from_afar(whole, far_label, width, glyphs)
    return rows


def holders(timeline: Timeline, width: int) -> list[Row]:
    """One line for each pCPU: what share of its time each holder had it."""
    end_ns = timeline.end_ns or 0
    rows: list[Row] = [()]
    for pcpu in range(timeline.pcpus)[:MAX_PCPU_ROWS]:
        shares = [f"{who} {percent(ns, end_ns)}" for who, ns in timeline.held_ns(pcpu).items() if ns or who != IDLE]
        rows += _wrapped(f"pcpu{pcpu}: {', '.join(shares)}", "", width)
    if timeline.pcpus > MAX_PCPU_ROWS:
        rows += _wrapped(f"... and {timeline.pcpus - MAX_PCPU_ROWS} pCPUs more", "note", width)
    return rows


def _titled(text: str, width: int) -> list[Row]:
    return [(), *_wrapped(text, "title", width)]


def _wrapped(text: str, meaning: str, width: int) -> list[Row]:
    return [((line, meaning),) for line in textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)]


# --- the words -------------------------------------------------------------------------------------------------------


_MORE = "; give a higher one to go on"
_ENDLESS = "; if this is no endless loop, give a higher --insn-limit"


def ending(result: Result, config: Config) -> str:
    """One sentence: how the run ended and after how much. Raises KeyError for a reason that has no sentence."""
    fault = "a triple fault (an exception while a double fault was delivered) ended the run"
    if result.fault is not None:
        fault = f"{result.fault.text},"
    why, hint = {
        results.EXIT: (f"the guest ended the run with status {result.exit_code}", ""),
        results.HALTED: ("halted: every vCPU sleeps and nothing is armed that could wake one,", ""),
        results.TRIPLE_FAULT: (fault, ""),
        results.INTERRUPTED: ("interrupted: these are the books so far,", ""),
        results.TIME_LIMIT: (f"stopped at --time-limit {flag_duration(config.time_limit_ps)}", _MORE),
        results.INSN_LIMIT: (f"stopped at --insn-limit {config.insn_limit:,}", _ENDLESS),
        results.EXIT_LIMIT: (f"stopped at --exit-limit {config.exit_limit:,}", _MORE),
        results.OUTPUT_LIMIT: (f"stopped at --output-limit {flag_size(config.output_limit)}", _MORE),
        "running": ("still running", ""),
    }[result.reason]
    insns = many(result.instructions, "instruction")
    return f"{why} after {readable(result.virtual_ns)} of virtual time, {insns}{hint}"


def whereabouts(result: Result) -> list[str]:
    """Where each vCPU was when the run was cut short, one sentence each, for MAX_WHERE of them."""
    found = [str(one) for one in result.where[:MAX_WHERE]]
    if len(result.where) > MAX_WHERE:
        found.append(f"... and {len(result.where) - MAX_WHERE} vCPUs more")
    return found


def flag_duration(ps: int) -> str:
    """A duration as the option takes it: a whole number of the largest unit that fits, such as `10ms`."""
    unit = next((unit for unit in ("s", "ms", "us") if ps % clock.UNITS[unit] == 0), "ns")
    return f"{ps // clock.UNITS[unit]}{unit}"


def flag_size(size: int) -> str:
    """A size as the option takes it, such as `16M`."""
    shift, unit = next(((s, u) for s, u in ((30, "G"), (20, "M"), (10, "K")) if size % (1 << s) == 0), (0, ""))
    return f"{size >> shift}{unit}"


def notes(result: Result, timeline: Timeline, config: Config) -> list[str]:
    """What a reader of the table would otherwise wonder about, one sentence each."""
    if "steal-time" in config.without:
        return ["steal time was withheld from the guest (--without steal-time), so nothing is published"]
    unregistered: list[str] = []
    disabled: list[str] = []
    outside: list[str] = []
    half: list[str] = []
    late: list[str] = []
    own: list[str] = []
    alone: list[str] = []
    others: list[str] = []
    shared = _shared(result)
    for area_gpa, whom in shared.items():
        verb = "both add" if len(whom) == 2 else "all add"
        others.append(f"{_and(whom)} registered the same area, {area_gpa:#x}, so {verb} to it")
    for one in result.vcpus:
        who = f"vcpu{one.id}"
        course = timeline.courses[who]
        told_ns = course.told_ns
        if not one.msr & abi.KVM_MSR_ENABLED and one.msr and not one.updates:
            others.append(f"{who} wrote {one.msr:#x} to MSR_KVM_STEAL_TIME with bit 0 clear: that enables nothing")
        elif not one.msr & abi.KVM_MSR_ENABLED:
            (disabled if one.updates else unregistered).append(who)
        elif one.area is None:
            outside.append(who)
        else:
            if course.updating:
                half.append(who)
            elif one.stolen_ns > told_ns:
                late.append(f"{one.stolen_ns - told_ns:,} ns of {who}")
            if one.area.steal != told_ns and not course.updating and _area_gpa(one) not in shared:
                own.append(f"{who} (published {told_ns:,} ns)")
        if one.updates == 1 and _undisturbed(timeline, who, config):
            alone.append(who)
    sentences = (
        (unregistered, "no steal-time area was registered by {}"),
        (disabled, "updates were switched off again by {}"),
        (outside, "outside RAM, where nothing is published, is the area of {}"),
        (half, "the run ended in the middle of an update, so the version is odd and no reader takes the value: {}"),
        (late, "stolen since the last update, so not yet published: {}"),
        (own, "the steal in the area is not what was published, as the guest writes there too: {}"),
        (alone, "nothing else wanted the pCPU, so there was one update, the one of the registration: {}"),
    )
    return others + [sentence.format(", ".join(whom)) for whom, sentence in sentences if whom]


def _area_gpa(one: VcpuResult) -> int:
    return one.msr & abi.KVM_STEAL_ADDRESS_MASK


def _shared(result: Result) -> dict[int, list[str]]:
    """The areas that several vCPUs have registered, by address."""
    owners: dict[int, list[str]] = {}
    for one in result.vcpus:
        if one.area is not None:
            owners.setdefault(_area_gpa(one), []).append(f"vcpu{one.id}")
    return {area_gpa: whom for area_gpa, whom in owners.items() if len(whom) > 1}


def _and(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _undisturbed(timeline: Timeline, who: str, config: Config) -> bool:
    """Whether it was given a pCPU once and kept it, and nobody who may use that pCPU ever waited for one."""
    course = timeline.courses[who]
    if course.arrivals != 1 or course.pcpu is None or set(timeline.held_ns(course.pcpu)) - {IDLE} != {who}:
        return False
    bound = {f"vcpu{vcpu}": int(pcpu) for vcpu, _, pcpu in (text.partition("=") for text in config.pin)}
    bound |= {
        f"task{number}": pcpu
        for number, text in enumerate(config.tasks)
        if (pcpu := parse_task(text, f"--task {text}").pcpu) is not None
    }
    return not any(
        other.totals[WAITS] and bound.get(name, course.pcpu) == course.pcpu
        for name, other in timeline.courses.items()
        if name != who
    )
