"""An assignment and what was handed in, turned into a judgement.

In Linux: nothing like it.
"""

from collections.abc import Callable, Mapping

from emu.boot.elf import elf_image
from emu.boot.image import Image
from emu.classroom import asks, device_judge, program, proof, run, verdict
from emu.classroom.asks import Criterion, Explore
from emu.classroom.assignment import DEVICE, Assignment
from emu.classroom.verdict import Judgement, Verdict
from emu.faults import HostError

Tell = Callable[[str], None]


def judge(assignment: Assignment, files: Mapping[str, bytes], tell: Tell = lambda _: None) -> Judgement:
    """Build what was handed in, and judge it here, in this process. `tell` is called with what is being judged."""
    if assignment.kind == DEVICE:
        with device_judge.local_host() as host:
            return device_judge.judge(assignment.criteria, files, assignment.given_files(), host, tell)
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
    runs = run.Runs(image)
    decided = _decided_at_once(asked, image, tell)
    for one in asked:
        if one.name in decided:
            found.append(decided[one.name])
            continue
        tell(one.title)
        if isinstance(one.ask, asks.Build):
            found.append(_passed(one))
            continue
        if isinstance(one.ask, asks.Explore):
            told, kept = proof.judge(one, image, sources, own)
        else:
            told, kept = run.judge(one, runs, sources, own)
        found.append(told)
        if kept and len(kept) <= verdict.MAX_EVIDENCE:
            evidence[told.evidence] = kept
    return Judgement(tuple(found), evidence)


def _decided_at_once(asked: tuple[Criterion, ...], image: Image, tell: Tell) -> dict[str, Verdict]:
    """Verdicts by the names of criteria. Those within the same bounds are one search, which a right program passes, and
    which one that never ends fails. A search ends at its first violation: those that ask for what was violated are left
    to be judged by themselves, and the others are searched again."""
    groups: dict[str, list[Criterion]] = {}
    for one in asked:
        if isinstance(one.ask, Explore):
            bounds = {**one.ask.settings, "properties": None}
            groups.setdefault(repr(sorted(bounds.items(), key=lambda pair: pair[0])), []).append(one)
    found: dict[str, Verdict] = {}
    for several in groups.values():
        while len(several) > 1:
            tell(several[0].title)
            try:
                holds, violated = proof.together([one.ask for one in several if isinstance(one.ask, Explore)], image)
            except proof.Endless as endless:
                found |= {one.name: proof.endless(one, endless.why) for one in several}
                break
            if holds:
                found |= {one.name: _passed(one) for one in several}
            if holds or not violated:
                break
            several = [one for one in several if isinstance(one.ask, Explore) and violated not in one.ask.properties]
    return found


def not_built(asked: tuple[Criterion, ...], error: HostError) -> Judgement:
    """The judgement of what does not build."""
    found = []
    for one in asked:
        told = blank(one)
        if isinstance(one.ask, asks.Build):
            detail = verdict.bounded(error.detail.expandtabs().splitlines())
            told = told._replace(outcome=verdict.FAILED, why=_sentence(error), place=error.where[:200], detail=detail)
        found.append(told)
    return Judgement(tuple(found), {})


def _passed(one: Criterion) -> Verdict:
    return Verdict(one.name, one.title, verdict.PASSED, one.points, one.points, hidden=one.hidden)


def blank(one: Criterion) -> Verdict:
    """A criterion that has not been judged."""
    why = "" if isinstance(one.ask, asks.Build) else "the program does not build"
    return Verdict(one.name, one.title, verdict.UNTRIED, 0, one.points, why, hidden=one.hidden)


def _sentence(error: HostError) -> str:
    return (f"{error.message}; {error.remedy}" if error.remedy else error.message)[:1000]
