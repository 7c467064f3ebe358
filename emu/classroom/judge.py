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
    decided = _decided_at_once(asked, image, sources, own, tell)
    for one in asked:
        if one.name in decided:
            told, kept = decided[one.name]
        elif isinstance(one.ask, asks.Build):
            told, kept = _passed(one), b""
        elif isinstance(one.ask, Explore):
            tell(one.title)
            told, kept = proof.judge(one, image, sources, own)
        else:
            tell(one.title)
            told, kept = run.judge(one, runs, sources, own)
        found.append(told)
        if kept and len(kept) <= verdict.MAX_EVIDENCE:
            evidence[told.evidence] = kept
    return Judgement(tuple(found), evidence)


def _decided_at_once(
    asked: tuple[Criterion, ...], image: Image, sources: Mapping[str, bytes], own: set[str], tell: Tell
) -> dict[str, tuple[Verdict, bytes]]:
    """Verdicts and evidence by the names of criteria. Those within the same bounds are one search, which a right
    program passes, and which one that never ends fails. A search ends at its first violation: it decides those that ask
    for what was violated, and the others are searched again."""
    groups: dict[str, list[Criterion]] = {}
    for one in asked:
        if isinstance(one.ask, Explore):
            bounds = {**one.ask.settings, "properties": None}
            groups.setdefault(repr(sorted(bounds.items(), key=lambda pair: pair[0])), []).append(one)
    decided: dict[str, tuple[Verdict, bytes]] = {}
    for several in groups.values():
        while len(several) > 1:
            tell(several[0].title)
            try:
                holds, found = proof.together([_explore(one) for one in several], image)
            except proof.Endless as endless:
                decided |= {one.name: (proof.endless(one, endless.why), b"") for one in several}
                break
            if holds:
                decided |= {one.name: (_passed(one), b"") for one in several}
            if holds or found is None:
                break
            violated = found.violation.property
            for one in several:
                if violated in _explore(one).properties:
                    decided[one.name] = proof.refuted(one, image, found, sources, own)
            several = [one for one in several if one.name not in decided]
    return decided


def _explore(one: Criterion) -> Explore:
    assert isinstance(one.ask, Explore)
    return one.ask


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
