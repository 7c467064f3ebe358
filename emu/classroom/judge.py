"""An assignment and what was handed in, turned into a judgement.

In Linux: nothing like it.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

from emu.boot.elf import elf_image
from emu.boot.image import Image
from emu.classroom import criteria, device, device_host, program, proof, run, verdict
from emu.classroom.assignment import DEVICE, Assignment
from emu.classroom.criteria import Criterion, Explore
from emu.classroom.device import Host
from emu.classroom.verdict import Judgement, Verdict
from emu.faults import HostError

Tell = Callable[[str], None]


def judge(assignment: Assignment, files: Mapping[str, bytes], tell: Tell = lambda _: None) -> Judgement:
    """Build what was handed in, and judge it here, in this process. `tell` is called with what is being judged."""
    if assignment.kind == DEVICE:
        with local_host() as host:
            return judge_device(assignment.criteria, files, assignment.given_files(), host, tell)
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
    proved = _proved_at_once(asked, image, tell)
    for one in asked:
        if one.name in proved:
            found.append(_passed(one))
            continue
        tell(one.title)
        if isinstance(one.ask, criteria.Build):
            found.append(_passed(one))
            continue
        told, kept = (proof if isinstance(one.ask, criteria.Explore) else run).judge(one, image, sources, own)
        found.append(told)
        if kept and len(kept) <= verdict.MAX_EVIDENCE:
            evidence[told.evidence] = kept
    return Judgement(tuple(found), evidence)


def judge_device(
    asked: tuple[Criterion, ...],
    files: Mapping[str, bytes],
    given: Mapping[str, bytes],
    host: Host,
    tell: Tell = lambda _: None,
) -> Judgement:
    """Judge a device in the process `host`, into which it has still to be loaded."""
    name = next(iter(files))
    modules = {one.removesuffix(".py"): text.decode("utf-8", "replace") for one, text in {**given, **files}.items()}
    source = modules[name.removesuffix(".py")]
    opened: list[Host | Exception] = []

    def open_host() -> Host:
        if not opened:
            try:
                opened.append(device.loaded(host, modules))
            except (device.Silent, device.Failed) as error:
                opened.append(error)
        if isinstance(opened[0], Exception):
            raise opened[0]
        return opened[0]

    found: list[Verdict] = []
    evidence: dict[str, bytes] = {}
    for one in asked:
        told, kept = device.judge(one, source, name, open_host, lambda title=one.title: tell(title))  # type: ignore[misc]
        if told.outcome == verdict.LIMIT and not isinstance(opened[0], Exception):
            opened[0] = device.Silent(told.why)  # it is gone, or busy with the last question
        found.append(told)
        if kept:
            evidence[told.evidence] = kept
    return Judgement(tuple(found), evidence)


@contextlib.contextmanager
def local_host() -> Iterator[Host]:
    """A process of one's own device, with no sandbox around it."""
    command = [sys.executable, "-I", "-B", device_host.__file__]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Host(process.stdout, process.stdin)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()


def _proved_at_once(asked: tuple[Criterion, ...], image: Image, tell: Tell) -> set[str]:
    """Names of criteria that hold. Those within the same bounds are one search, which a right program passes; after
    one that fails each is judged by itself, for a search ends at its first violation."""
    groups: dict[str, list[Criterion]] = {}
    for one in asked:
        if isinstance(one.ask, Explore):
            bounds = {**one.ask.settings, "properties": None}
            groups.setdefault(repr(sorted(bounds.items(), key=lambda pair: pair[0])), []).append(one)
    found: set[str] = set()
    for several in groups.values():
        if len(several) > 1:
            tell(several[0].title)
            if proof.all_hold([one.ask for one in several if isinstance(one.ask, Explore)], image):
                found |= {one.name for one in several}
    return found


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


def _passed(one: Criterion) -> Verdict:
    return Verdict(one.name, one.title, verdict.PASSED, one.points, one.points, hidden=one.hidden)


def blank(one: Criterion) -> Verdict:
    """A criterion that has not been judged."""
    why = "" if isinstance(one.ask, criteria.Build) else "the program does not build"
    return Verdict(one.name, one.title, verdict.UNTRIED, 0, one.points, why, hidden=one.hidden)


def _sentence(error: HostError) -> str:
    return (f"{error.message}; {error.remedy}" if error.remedy else error.message)[:1000]
