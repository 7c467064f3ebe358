"""`emu grade`: judge many submissions, each in a sandbox of its own, and write what everybody gets.

Exit status: 0 where all were graded, whatever they got; 2 for input that cannot be used; 130 after Ctrl-C, and the same
command goes on from there.
"""

import contextlib
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from emu.classroom import assignment as assignments
from emu.classroom import cluster, grader, pages, people, submissions, tables
from emu.classroom.assignment import Assignment
from emu.classroom.grader import Grader
from emu.classroom.people import Grade
from emu.classroom.store import Store
from emu.classroom.submissions import Submission
from emu.classroom.verdict import Judgement
from emu.commands.flags import Once, Parser
from emu.commands.interruption import interruption
from emu.commands.output_file import output_file
from emu.commands.progress import Ticker, wanted
from emu.compiler import Compiler, find_compiler
from emu.faults import HostError, escaped
from emu.sandbox import tiers
from emu.scenario import did_you_mean, is_digits

_EPILOG = """examples:
  emu grade submissions --assignment lab3
  emu grade submissions --assignment lab3 -j 4 --out marks
  emu grade submissions --assignment lab3 --only ada     one again, by itself
  emu grade submissions --assignment lab3 --cluster tcp://10.0.0.1:8786
  emu grade --gradescope /autograder                     inside an autograder

SUBMISSIONS is a folder with a folder or an archive for each, as Gradescope,
Moodle and GitHub Classroom export them. A roster.csv in it says who they are.
In the folder of --out come grades.csv, junit.xml, summary.html, and for each a
page, its recordings and a results.json. A marks.csv there, with the columns
key, criterion, points and reason, is what you change by hand.

What is known is not judged again; whoever was interrupted gives the same
command again.

exit status: 0 all graded; 2 bad input; 130 Ctrl-C
"""


def main(arguments: list[str]) -> int:
    """Run `emu grade` with these words."""
    parser = _parser()
    parsed = parser.parse(arguments)
    if parsed.gradescope is not None:
        if parsed.submissions is not None:
            parser.error("--gradescope names the submission itself")
        return _for_gradescope(Path(parsed.gradescope), parsed.sandbox)
    if parsed.submissions is None or parsed.assignment is None:
        parser.error("name the folder of submissions, and the assignment with --assignment")
    assignment = assignments.read(Path(parsed.assignment))
    jobs = parsed.jobs or str(os.cpu_count() or 1)
    if not is_digits(jobs, 3) or not 1 <= int(jobs) <= 256:
        raise HostError(f"{jobs!r} cannot be used", "-j", "give a whole number from 1 to 256")
    out = Path(parsed.out or "grades")
    folder = Path(parsed.submissions)
    found = submissions.read_all(folder, assignment)
    roster = folder / "roster.csv"
    listed = people.roster(Path(parsed.roster)) if parsed.roster else people.roster(roster) if roster.is_file() else []
    by_hand = people.marks(out / "marks.csv", assignment) if (out / "marks.csv").is_file() else {}
    _known(parsed.only or [], [one.key for one in found], "--only")
    _known(by_hand, [one.key for one in found], str(out / "marks.csv"))
    compiler = find_compiler()
    store = _store(out, assignment, compiler, sandboxed=not parsed.trust)
    again = set(parsed.only or [])
    ticker = Ticker(sys.stderr, enabled=not parsed.quiet and wanted(sys.stderr, sys.stdout))
    with interruption() as check, _judges(parsed, assignment, compiler, int(jobs)) as judges:
        judged = _judge_all(found, assignment, judges, store, again, ticker, check)
    grades = people.grades(assignment, [(one, judged[one.key]) for one in found], listed, by_hand)
    complaints = people.complaints(assignment, found, listed)
    _write(out, assignment, grades, complaints)
    _tell(parsed, out, assignment, grades, complaints, judges.where)
    return 0


class _Judges(NamedTuple):
    """Who judges, and `where`: `submit` hands files over, `result` says what came of them, `stop` ends all of it."""

    where: str
    submit: Callable[[Mapping[str, bytes]], Future[Any]]
    result: Callable[[Future[Any]], Judgement]
    stop: Callable[[], None]


@contextlib.contextmanager
def _judges(parsed: Any, assignment: Assignment, compiler: Compiler, jobs: int) -> Iterator[_Judges]:
    if parsed.cluster is not None:
        if parsed.trust or parsed.sandbox:
            raise HostError("the sandbox is each worker's own", "--cluster", "leave --trust and --sandbox away")
        with cluster.connect(parsed.cluster) as client, client.get_executor(pure=False) as far:
            yield _Judges(
                f"of the cluster at {parsed.cluster}",
                lambda files: far.submit(cluster.grade, cluster.request(assignment, compiler, files)),
                functools.partial(_from_afar, assignment),
                lambda: far.shutdown(wait=False),
            )
        return
    tier = _tier(parsed)
    by = Grader(assignment, tier, compiler)
    with contextlib.closing(by), ThreadPoolExecutor(jobs) as pool:

        def stop() -> None:
            pool.shutdown(wait=False, cancel_futures=True)
            by.stop()

        yield _Judges(tier.name, lambda files: pool.submit(by.grade, files), lambda one: one.result(), stop)


def _from_afar(assignment: Assignment, one: Future[Any]) -> Judgement:
    """A worker's judgement; of a submission that takes one worker after the other with it, that."""
    from distributed import KilledWorker

    try:
        return cluster.judgement_of(one.result())
    except KilledWorker:
        return grader.lost(assignment, "every worker that judged it has died")


def _tier(parsed: object) -> tiers.Tier:
    if os.name == "nt":
        raise HostError("grading is for Linux, and with --trust for macOS", remedy="use a container, WSL or Gradescope")
    if getattr(parsed, "trust", False):
        print("emu: warning: --trust: the submissions run as you do, and can do what you can", file=sys.stderr)
        return tiers.Trusted()
    return tiers.choose(getattr(parsed, "sandbox", None))


def _known(names: "Mapping[str, object] | list[str]", keys: list[str], where: str) -> None:
    for name in names:
        if name not in keys:
            raise HostError(f"there is no submission {name!r}", where, did_you_mean(name, keys))


def _store(out: Path, assignment: Assignment, compiler: Compiler, *, sandboxed: bool) -> Store:
    circumstances = {
        "emu": version("kvm-steal-emu"),
        "compiler": [compiler.name, compiler.version, compiler.targets],
        "sandboxed": sandboxed,  # what was trusted once is not believed later
        "limits": [grader.BUILDING, grader.JUDGING],
    }
    return Store(out / "results", assignment, circumstances)


def _judge_all(
    found: list[Submission],
    assignment: Assignment,
    judges: _Judges,
    store: Store,
    again: set[str],
    ticker: Ticker,
    check: Callable[[], None],
) -> dict[str, Judgement]:
    """A judgement for each submission; those that are known are not made again, but for the keys in `again`."""
    judged: dict[str, Judgement] = {}
    waiting: dict[str, list[Submission]] = {}
    for one in found:
        if one.problem:
            judged[one.key] = grader.unusable(assignment, one.problem)
            continue
        name = store.key(one.files)
        known = None if one.key in again else store.known(name)
        if known is not None:
            judged[one.key] = known
        else:
            waiting.setdefault(name, []).append(one)  # what is the same to the byte is judged once
    begun, total = time.monotonic(), len(waiting)
    done = 0

    def progress() -> str:
        left = (time.monotonic() - begun) / done * (total - done) if done else 0
        tail = f", about {left:.0f} s left" if done else ""
        return f"judged {done} of {total}{tail}; Ctrl-C ends it, and the same command goes on"

    running = {judges.submit(several[0].files): name for name, several in waiting.items()}
    try:
        while running:
            check()
            ticker(progress)
            ready, _ = wait(running, 0.2, FIRST_COMPLETED)
            for finished in ready:
                name = running.pop(finished)
                judgement = judges.result(finished)
                store.keep(name, judgement)
                judged.update({same.key: judgement for same in waiting[name]})
                done += 1
    except BaseException:
        judges.stop()
        raise
    finally:
        ticker.clear()
    return judged


def _write(out: Path, assignment: Assignment, grades: list[Grade], complaints: list[str]) -> None:
    """All that comes of it, each file whole or not at all; what belongs to nobody any more goes."""
    files: dict[str, bytes] = {
        "grades.csv": tables.as_csv(assignment, grades),
        "junit.xml": tables.as_junit(assignment, grades),
        "summary.html": pages.summary(assignment, grades, complaints),
    }
    for one in grades:
        place = f"students/{one.submission.key}"
        files[f"{place}/index.html"] = pages.student(assignment, one)
        files[f"{place}/results.json"] = tables.as_gradescope(one)
        files |= {f"{place}/{name}": content for name, content in one.judgement.evidence.items()}
    folders = {str(Path(name).parent) for name in files}
    try:
        for name in sorted(folders):
            (out / name).mkdir(parents=True, exist_ok=True)
        for old in sorted((out / "students").glob("*")) if (out / "students").is_dir() else ():
            if f"students/{old.name}" not in folders:
                shutil.rmtree(old)
                continue
            for path in old.iterdir():
                if f"students/{old.name}/{path.name}" not in files:
                    path.unlink()
    except OSError as error:
        raise HostError(
            f"the results cannot be put here ({error.strerror})", str(out), "name a folder with --out"
        ) from None
    for name, content in sorted(files.items()):
        with contextlib.suppress(OSError):
            if (out / name).read_bytes() == content:
                continue
        with output_file(str(out / name), "--out") as file:
            file.write(content)


def _tell(
    parsed: object, out: Path, assignment: Assignment, grades: list[Grade], complaints: list[str], sandbox: str
) -> None:
    failures = pages.failures(assignment, grades)
    if getattr(parsed, "json", False):
        rows = [
            {
                "key": one.submission.key,
                "name": one.person.name,
                "points": one.points,
                "of": assignment.points,
                "late_days": one.late_days,
                "problem": one.submission.problem,
                "criteria": {v.criterion: [v.outcome, one.points_of(v.criterion)] for v in one.judgement.verdicts},
            }
            for one in grades
        ]
        lost = {name: {"lost_by": count, "mostly": why} for name, count, why in failures}
        print(json.dumps({"sandbox": sandbox, "grades": rows, "criteria": lost, "remarks": complaints}))
        return
    print(f"{assignment.title}: {len(grades)} graded in the sandbox {sandbox}; {pages.average(grades, assignment)}\n")
    width = max(len(name) for name, _, _ in failures)
    for name, count, why in failures:
        print(escaped(f"  {name:<{width}}  lost by {count:>3}  {f'mostly: {why}' if why else ''}".rstrip()[:160]))
    unusable = [one for one in grades if one.submission.problem]
    if unusable:
        print("\nwhat could not be judged:")
        print("\n".join(escaped(f"  {one.submission.key}: {one.submission.problem}") for one in unusable))
    if complaints:
        print("\nto be looked at:")
        print("\n".join(escaped(f"  {one}") for one in complaints))
    print(f"\nsee {out}/summary.html, {out}/grades.csv")


def _for_gradescope(place: Path, sandbox: str | None) -> int:
    """Grade the one submission of an autograder, and write its results.json."""
    assignment = assignments.read(place / "source" / "assignment")
    one = submissions.read([place / "submission"], "submission", assignment)
    with contextlib.closing(Grader(assignment, tiers.choose(sandbox), find_compiler())) as by:
        judgement = grader.unusable(assignment, one.problem) if one.problem else by.grade(one.files)
    # Gradescope itself knows who, and how late.
    on_time = assignment._replace(late=assignments.Late())
    grade = people.grades(on_time, [(one, judgement)], [], {})[0]
    results = place / "results"
    try:
        results.mkdir(exist_ok=True)
    except OSError as error:
        raise HostError(f"the results cannot be put here ({error.strerror})", str(results)) from None
    with output_file(str(results / "results.json"), "--gradescope") as file:
        file.write(tables.as_gradescope(grade))
    print(f"{grade.points} of {assignment.points} points; see {results / 'results.json'}")
    return 0


def _parser() -> Parser:
    usage = "emu grade SUBMISSIONS --assignment FOLDER [options]"
    parser = Parser("grade", "Judge many submissions safely, and write what everybody gets.", _EPILOG, usage)
    parser.add_argument("submissions", nargs="?", metavar="SUBMISSIONS", help="the folder of what was handed in")
    parser.add_argument("--assignment", action=Once, metavar="FOLDER", help="the assignment's folder")
    parser.add_argument("-j", "--jobs", action=Once, metavar="N", help="so many at once (default: one for each CPU)")
    parser.add_argument("--out", action=Once, metavar="FOLDER", help="where the results go (default: grades)")
    parser.add_argument("--roster", action=Once, metavar="FILE", help="who they are (default: SUBMISSIONS/roster.csv)")
    parser.add_argument("--only", action="append", metavar="KEY", help="judge this one again; repeatable")
    parser.add_argument("--sandbox", action=Once, choices=tiers.TIERS, help="this tier (default: the first there is)")
    parser.add_argument("--trust", action="store_true", help="without a sandbox, for work that you have read")
    parser.add_argument("--cluster", action=Once, metavar="ADDRESS", help="judge on the workers of a Dask scheduler")
    parser.add_argument(
        "--gradescope", action=Once, metavar="FOLDER", help="be an autograder there, for one submission"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    return parser
