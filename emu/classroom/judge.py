"""An assignment and what was handed in, turned into a judgement.

In Linux: nothing like it.
"""

from collections.abc import Callable, Mapping

from emu.boot.elf import elf_image
from emu.classroom import criteria, program, proof, run, verdict
from emu.classroom.assignment import Assignment
from emu.classroom.criteria import Criterion
from emu.classroom.verdict import Judgement, Verdict
from emu.faults import HostError

Tell = Callable[[str], None]


def judge(assignment: Assignment, files: Mapping[str, bytes], tell: Tell = lambda _: None) -> Judgement:
    """Build what was handed in, and judge it here, in this process. `tell` is called with what is being judged."""
    tell("builds it")
    given = assignment.given_files()
    try:
        built = program.build(files, given)
    except HostError as error:
        return not_built(assignment.criteria, error)
    return judge_program(assignment.criteria, built, {**files, **given}, set(files) - set(given), tell)


def judge_program(
    asked: tuple[Criterion, ...],
    built: bytes,
    sources: Mapping[str, bytes],
    own: set[str],
    tell: Tell = lambda _: None,
) -> Judgement:
    """Judge a program that has been built of these sources; `own` are the names of those that were handed in."""
    found: list[Verdict] = []
    evidence: dict[str, bytes] = {}
    image = elf_image(built, "the program")
    for one in asked:
        tell(one.title)
        if isinstance(one.ask, criteria.Build):
            found.append(blank(one)._replace(outcome=verdict.PASSED, points=one.points))
            continue
        told, kept = (proof if isinstance(one.ask, criteria.Explore) else run).judge(one, image, sources, own)
        found.append(told)
        if kept and len(kept) <= verdict.MAX_EVIDENCE:
            evidence[told.evidence] = kept
    return Judgement(tuple(found), evidence)


def not_built(asked: tuple[Criterion, ...], error: HostError) -> Judgement:
    """The judgement of what does not build."""
    found = []
    for one in asked:
        told = blank(one)
        if isinstance(one.ask, criteria.Build):
            detail = verdict.bounded(error.detail.expandtabs().splitlines())
            told = told._replace(outcome=verdict.FAILED, why=_sentence(error), place=error.where[:200], detail=detail)
        found.append(told)
    return Judgement(tuple(found), {})


def blank(one: Criterion) -> Verdict:
    """A criterion that has not been judged."""
    why = "" if isinstance(one.ask, criteria.Build) else "the program does not build"
    return Verdict(one.name, one.title, verdict.UNTRIED, 0, one.points, why, hidden=one.hidden)


def _sentence(error: HostError) -> str:
    return (f"{error.message}; {error.remedy}" if error.remedy else error.message)[:1000]
