"""A judgement in lines of text: for each criterion whether it holds, and where it does not, why and what shows it.

In Linux: tools/testing/selftests print TAP, which says as much of each test in fewer words.
"""

import textwrap

from emu.classroom import verdict
from emu.classroom.verdict import Judgement, Verdict

WIDTH = 100
_INDENT = " " * 8
_MARKS = {verdict.PASSED: "ok", verdict.FAILED: "no", verdict.UNTRIED: "--", verdict.LIMIT: "!!"}


def lines(judgement: Judgement, folder: str = "", hidden_points: int = 0) -> list[str]:
    """All of it; `folder` is where the files of evidence are, `hidden_points` what is judged later."""
    name = max((len(one.criterion) for one in judgement.verdicts), default=0)
    points = max((len(_points(one)) for one in judgement.verdicts), default=0)
    found: list[str] = []
    for one in judgement.verdicts:
        head = f"  {_MARKS[one.outcome]:<3} {one.criterion:<{name}}  {_points(one):>{points}}  "
        found += textwrap.wrap(one.title, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
        found += about(one, folder)
    total = f"{judgement.points} of {judgement.worth} points"
    later = (
        f"; criteria with other seeds and bounds, for {hidden_points} more, are judged later" if hidden_points else ""
    )
    return [*found, "", f"{total}{later}"]


def about(one: Verdict, folder: str = "") -> list[str]:
    """What there is to say of a criterion that does not hold."""
    if one.outcome == verdict.PASSED:
        return []
    if one.outcome == verdict.UNTRIED:
        return _paragraph(f"not tried: {one.why}") if one.why else []
    found = [""]
    if one.place:
        found += _paragraph(f"{one.place}   {one.line}".rstrip())
    found += _paragraph(one.why)
    if one.cause and one.cause != one.why:
        found += _paragraph(f"most likely: {one.cause}")
    if one.legal:
        found += _paragraph(f"it would have been right: {one.legal}")
    if one.detail:
        found += ["", *(f"{_INDENT}  {line}" for line in one.detail)]
    if one.story:
        found += ["", f"{_INDENT}what guest and host did:", *(f"{_INDENT}  {line}" for line in one.story)]
    if one.evidence:
        found += ["", f"{_INDENT}see it: {command(one, folder)}"]
    return [*found, ""]


def command(one: Verdict, folder: str = "") -> str:
    """The command that shows it again."""
    path = f"{folder}{one.evidence}"
    return f"emu step {path}" if path.endswith(".emurec") else f"emu check --again {path}"


def _points(one: Verdict) -> str:
    return f"{one.points}/{one.worth}"


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=f"{_INDENT}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
