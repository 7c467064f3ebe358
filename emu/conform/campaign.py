"""Many random sequences, by one worker or several: the same seed gives the same sequences, however they are shared out.

In Linux: no counterpart; syz-manager of syzkaller shares out programs to VMs in this way.
"""

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from emu.conform import generate
from emu.conform.compare import Difference
from emu.conform.shrink import shrink
from emu.conform.text import format_sequence
from emu.conform.verdict import Bench, Disagreement
from emu.kvm.operations import Operation

CHUNK = 500
RENEW_EVERY = 1000  # sequences: then one runs in a fresh VM
ENGINE_EVERY = 500  # sequences: then one is executed by the emulator's engine, too
MOST_FINDINGS = 5
ONCE = " (seen once, and not when it was run again)"


class Finding(NamedTuple):
    """A disagreement: sequence `number` of the seed, and `shortest`, what is left of it, with its difference."""

    number: int
    judge: str
    sequence: str
    shortest: str
    difference: Difference


class Report(NamedTuple):
    """What came of a campaign; `known` counts sequences by known difference. Ends early at MOST_FINDINGS findings."""

    seed: int
    sequences: int
    engine: int
    known: dict[str, int]
    findings: list[Finding]


class Task(NamedTuple):
    """Sequences `start` to `stop` of a seed, and by whom they are judged."""

    seed: int
    start: int
    stop: int
    kvm: bool
    with_known: bool


def run(
    seed: int,
    count: int,
    *,
    kvm: bool,
    known: bool = True,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Report:
    """Judge the first `count` sequences of `seed`; `progress` is called with how many are done.

    Raises HostError where `kvm` is asked for and there is none.
    """
    tasks = [Task(seed, at, min(at + CHUNK, count), kvm, known) for at in range(0, count, CHUNK)]
    met: dict[str, int] = {}
    findings: list[Finding] = []
    done = 0
    results = _done(tasks, jobs)
    try:
        for task, (chunk_known, chunk_findings) in zip(tasks, results, strict=True):
            done = task.stop
            for number in chunk_known:
                met[number] = met.get(number, 0) + 1
            findings += chunk_findings
            progress(done, count)
            if len(findings) >= MOST_FINDINGS:
                break
    finally:
        results.close()
    return Report(seed, done, -(-done // ENGINE_EVERY), dict(sorted(met.items())), findings[:MOST_FINDINGS])


def examine(bench: Bench, sequence: Sequence[Operation], index: int = 0, *, engine: bool = False) -> list[Finding]:
    """Judge one sequence, and shrink it for each judge that disagrees."""
    return _shrunk(bench, sequence, index, engine, bench.judge(sequence, engine=engine).disagreements)


def _done(tasks: list[Task], jobs: int) -> Generator[tuple[list[str], list[Finding]], None, None]:
    if jobs == 1:
        try:
            yield from map(_work, tasks)
        finally:
            _close()
        return
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_ignore_ctrl_c) as pool:
        yield from pool.imap(_work, tasks)


def _ignore_ctrl_c() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends the workers


_benches: dict[tuple[bool, bool], Bench] = {}  # of this worker


def _work(task: Task) -> tuple[list[str], list[Finding]]:
    key = task.kvm, task.with_known
    if key not in _benches:
        _benches[key] = Bench(kvm=task.kvm, known=task.with_known)
    bench = _benches[key]
    known: list[str] = []
    findings: list[Finding] = []
    for index in range(task.start, task.stop):
        if index % RENEW_EVERY == 0:
            bench.renew()
        engine = index % ENGINE_EVERY == 0
        sequence = generate.sequence(task.seed, index)
        verdict = bench.judge(sequence, engine=engine)
        known += verdict.known
        if verdict.disagreements and len(findings) < MOST_FINDINGS:
            findings += _shrunk(bench, sequence, index, engine, verdict.disagreements)
    return known, findings


def _close() -> None:
    while _benches:
        _benches.popitem()[1].close()


def _shrunk(
    bench: Bench, sequence: Sequence[Operation], index: int, engine: bool, disagreements: Sequence[Disagreement]
) -> list[Finding]:
    found = []
    for judge, different in disagreements:

        def differs(candidate: Sequence[Operation], judge: str = judge) -> Difference | None:
            again = bench.judge(candidate, engine=engine).disagreements
            return next((one.difference for one in again if one.judge == judge), None)

        text = format_sequence(sequence)
        if differs(sequence) is None:  # KVM's time is not ours
            found.append(Finding(index, judge, text, text, different._replace(what=different.what + ONCE)))
            continue
        shortest = shrink(sequence, lambda candidate: differs(candidate) is not None)
        found.append(Finding(index, judge, text, format_sequence(shortest), differs(shortest) or different))
    return found
