"""A criterion of exploring, judged: the verdict on a program, and a recording of the shortest schedule that refutes it.

In Linux: nothing like it.
"""

from collections.abc import Callable, Collection, Mapping

from emu.boot.image import Image
from emu.classroom import verdict
from emu.classroom.asks import Criterion, Explore
from emu.classroom.verdict import Verdict
from emu.explore.cause import cause
from emu.explore.evidence import evidence
from emu.explore.instance import Instance
from emu.explore.node import CUT
from emu.explore.properties import PROPERTIES
from emu.explore.search import PROVED, Counterexample, Search
from emu.faults import HostError
from emu.history import recording

_LEGAL = " and while it lasted only "


def judge(
    criterion: Criterion,
    image: Image,
    files: Mapping[str, bytes],
    own: Collection[str],
    heartbeat: Callable[[], None] = lambda: None,
) -> tuple[Verdict, bytes]:
    """The verdict, and the recording that replays a refutation, else nothing.

    `files` are all sources by the names that the program's debug information has, `own` those that were handed in.
    """
    assert isinstance(criterion.ask, Explore)
    blank = Verdict(criterion.name, criterion.title, verdict.PASSED, criterion.points, criterion.points)
    failed = blank._replace(outcome=verdict.FAILED, points=0, hidden=criterion.hidden)
    instance = Instance(image, **criterion.ask.settings)
    try:
        report = Search(instance, lambda _: heartbeat(), layer_done=_look_for_end).run()
    except Endless as found_endless:
        return endless(criterion, found_endless.why), b""
    except HostError as error:
        return failed._replace(why=error.sentence), b""
    if report.found is None:
        untested = [name for name in criterion.ask.properties if not report.judged.get(name)]
        if report.verdict != PROVED:
            return failed._replace(why=_open(instance, report.complete, report.states)), b""
        if untested:
            meant = "; ".join(PROPERTIES[name] for name in untested)
            return failed._replace(why=f"the program ended before this was ever put to the test: {meant}"), b""
        return blank._replace(hidden=criterion.hidden), b""
    return refuted(criterion, image, report.found, files, own)


def refuted(
    criterion: Criterion, image: Image, found: Counterexample, files: Mapping[str, bytes], own: Collection[str]
) -> tuple[Verdict, bytes]:
    """The verdict where `found` is the first violation, and the recording that replays it; the rest as for `judge`."""
    assert isinstance(criterion.ask, Explore)
    failed = Verdict(criterion.name, criterion.title, verdict.FAILED, 0, criterion.points, hidden=criterion.hidden)
    instance = Instance(image, **criterion.ask.settings)

    def is_own(place: str) -> bool:
        return place.rpartition(":")[0] in own

    def text_of(name: str) -> str | None:
        content = files.get(name)
        return None if content is None else content.decode("utf-8", "replace")

    kept = evidence(instance, found, criterion.name, text_of)
    likely = cause(kept.history(criterion.name), found, is_own)
    why, _, legal = found.violation.why.partition(_LEGAL)
    return (
        failed._replace(
            why=why.rstrip(","),
            cause=likely.text,
            place=likely.place,
            line=line_at(likely.place, text_of),
            story=verdict.bounded([line for line in kept.story if not line.startswith("=> ")]),
            legal=_legal(legal),
            evidence=f"{criterion.name}.emurec",
        ),
        recording.to_bytes(kept),
    )


def together(asked: list[Explore], image: Image) -> tuple[bool, Counterexample | None]:
    """Whether all properties of these, which have the same bounds, hold and were put to the test; else the first
    violation, if there was one: it is also the first of those who ask for its property alone. Raises Endless."""
    names = frozenset(name for one in asked for name in one.properties)
    try:
        instance = Instance(image, **{**asked[0].settings, "properties": names})
        report = Search(instance, layer_done=_look_for_end).run()
    except HostError:
        return False, None
    if report.found is not None:
        return False, report.found
    return report.verdict == PROVED and all(report.judged.get(name) for name in names), None


class Endless(Exception):
    """The run without the host meets a limit: nothing can be proved, and each other run would take as long."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def endless(criterion: Criterion, why: str) -> Verdict:
    """The verdict on a program whose run without the host meets a limit."""
    failed = Verdict(criterion.name, criterion.title, verdict.FAILED, 0, criterion.points, why)
    return failed._replace(hidden=criterion.hidden)


def _look_for_end(search: Search) -> None:
    if search.layers == 1 and any(node.end == CUT for node in search.nodes.values()):
        config = search.instance.config()
        bounds = f"{config.insn_limit:,} instructions or {config.output_limit >> 10:,} KiB of output"
        raise Endless(f"with no step of the host at all, the program goes on for more than {bounds}")


def line_at(place: str, text_of: Callable[[str], str | None]) -> str:
    """The text that stands at `file:line`, without its indentation; empty where there is none."""
    file, _, number = place.rpartition(":")
    lines = (text_of(file) or "").splitlines() if file else []
    return lines[int(number) - 1].strip()[:200] if number.isdecimal() and 0 < int(number) <= len(lines) else ""


def _legal(values: str) -> str:
    return values.removesuffix(" current").removesuffix(" was").removesuffix(" were")


def _open(instance: Instance, complete: bool, states: int) -> str:
    if not complete:
        return f"it was not decided: the program has more than {instance.state_limit:,} states"
    return f"it was not decided: a run met the bound of {instance.insn_limit:,} instructions ({states:,} states)"
