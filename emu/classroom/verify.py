"""Is an assignment sound? Its solution gets all points, each wrong variant loses what it should and is told why, and
the skeleton that the students get builds.

In Linux: nothing like it; a fault-injection framework asks the same of tests: do they notice?
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from emu.classroom import told, verdict
from emu.classroom.assignment import WRONG, Assignment, Wrong
from emu.classroom.verdict import Judgement
from emu.faults import HostError

Judge = Callable[[Assignment, Mapping[str, bytes]], Judgement]


class Finding(NamedTuple):
    """`what` was looked at (`solution`, `student`, `wrong/NAME`), how it was judged, and what is wrong with that."""

    what: str
    judgement: Judgement | None
    complaint: str


def verify(assignment: Assignment, judge: Judge) -> Iterator[Finding]:
    """One finding after the other; `complaint` is empty where all is as it should be."""
    yield _finding(assignment, judge, "solution", _solution)
    yield _finding(assignment, judge, "student", _skeleton)
    if not assignment.wrong:
        yield Finding("wrong", None, "no [[wrong]] variant shows that the criteria can fail")
    for one in assignment.wrong:
        yield _finding(assignment, judge, f"{WRONG}/{one.name}", functools.partial(_variant, one))


def _finding(assignment: Assignment, judge: Judge, what: str, complains: Callable[[Judgement], str]) -> Finding:
    folder = assignment.student_folder if what == "student" else assignment.folder / what
    try:
        judgement = judge(assignment, assignment.handed_in(folder))
    except HostError as error:
        return Finding(what, None, error.sentence)
    return Finding(what, judgement, complains(judgement))


def _solution(judgement: Judgement) -> str:
    lost = _lost(judgement)
    return f"the solution loses {', '.join(lost)}" if lost else ""


def _skeleton(judgement: Judgement) -> str:
    built = all(one.outcome not in (verdict.UNTRIED, verdict.LIMIT) for one in judgement.verdicts)
    if not built:
        return "the skeleton does not build"
    return "the skeleton has all points already" if judgement.passed else ""


def _variant(wrong: Wrong, judgement: Judgement) -> str:
    lost = _lost(judgement)
    if set(lost) != set(wrong.loses):
        return f"it loses {', '.join(lost) or 'nothing'}, and should lose {', '.join(wrong.loses) or 'nothing'}"
    feedback = " ".join(" ".join(line.split()) for one in judgement.verdicts for line in told.about(one))
    return "" if wrong.cause in feedback else f"the feedback does not say {wrong.cause!r}"


def _lost(judgement: Judgement) -> list[str]:
    return [one.criterion for one in judgement.verdicts if one.outcome != verdict.PASSED]
