"""A campaign: workers that are started, listened to, and started again if they die; and what it came to.

In Linux: syz-manager of syzkaller.
"""

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from emu.faults import HostError
from emu.fuzz import afl
from emu.fuzz.findings import kept_in
from emu.fuzz.host import can_be_apart
from emu.fuzz.worker import AFL, ATHERIS, HYPOTHESIS, Job, last_tried

_MOST_DEATHS = 5
_LAST_WORDS = 600
_SILENCE_S = 10  # of a worker that tells each half second
_PATIENCE_S = 30  # beyond its time, before a worker is ended
_INSTALL = "python -m pip install 'kvm-steal-emu[fuzz]', or --engine sweep"
_LAST_CALL_S = 2  # for the other workers, when the first finding is all that is wanted


class State(NamedTuple):
    """How a campaign stands: sums over its workers, and `deaths` of them."""

    seconds: float
    executions: int
    exactly: int
    edges: int
    findings: int
    since_edge: float
    corpus: int
    deaths: int
    swept: tuple[tuple[str, int], ...]
    native: bool


# How a campaign stands that had not to begin.
NOT_BEGUN = State(0.0, 0, 0, 0, 0, 0.0, 0, 0, (), native=True)


class Listener(NamedTuple):
    """Who is called: `told` with the state now and then, `found` with each finding as a worker tells it; `check` may
    raise to end it all."""

    told: Callable[[State], None]
    found: Callable[[dict[str, Any]], None]
    check: Callable[[], None]


def default_engine() -> str:
    """The engine that is installed: atheris, or else Hypothesis. Raises HostError where there is neither."""
    for name in (ATHERIS, HYPOTHESIS):
        if importlib.util.find_spec(name) is not None:
            return name
    raise HostError("no fuzzing engine is installed", "--engine", _INSTALL)


def require(engine: str) -> None:
    """Raise HostError where this engine is a package that is not installed."""
    if engine in (ATHERIS, HYPOTHESIS) and importlib.util.find_spec(engine) is None:
        raise HostError(f"the package `{engine}` is not installed", "--engine", _INSTALL)


def _sum(last: list[dict[str, Any]], seconds: float, corpus: int, deaths: int, lost: int) -> State:
    return State(
        round(seconds, 1),
        lost + sum(one["executions"] for one in last),
        sum(one["exactly"] for one in last),
        max((one["edges"] for one in last), default=0),
        max((one["findings"] for one in last), default=0),
        min((one["since_edge"] for one in last), default=0.0),
        corpus,
        deaths,
        tuple((name, size) for one in last for name, size in one["swept"]),
        all(one["native"] for one in last),
    )


class _Worker:
    def __init__(self, job: Job, heard: "queue.Queue[tuple[int, dict[str, Any] | None]]") -> None:
        self.job = job
        self.last: dict[str, Any] = {}
        self.heard = time.monotonic()
        self.errors = b""
        words = [sys.executable, "-m", "emu.fuzz.worker", json.dumps(job._asdict())]
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _listen(self, heard: "queue.Queue[tuple[int, dict[str, Any] | None]]") -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                if type(told) is dict:
                    heard.put((self.job.number, told))
        self.process.wait()
        heard.put((self.job.number, None))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        number = self.process.stderr.fileno()
        for block in iter(lambda: os.read(number, 4096), b""):
            self.errors = (self.errors + block)[-_LAST_WORDS:]

    def hangs(self, now: float) -> bool:
        """Whether it has been silent for too long, as it is where somebody's device does not come back."""
        own = bool(self.job.target.get("device"))
        return own and not self.job.careful and now - self.heard > _SILENCE_S

    def last_words(self) -> str:
        self._reader.join(1)
        lines = self.errors.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else f"status {self.process.returncode}"


def _after_death(job: Job, deaths: int) -> Job:
    if can_be_apart(job.target):
        return job._replace(careful=True, suspect=last_tried(job))
    return job._replace(seed=job.seed + 1000 * deaths, sweep=False)


def run(job: Job, jobs: int, listener: Listener) -> State:
    """Run `jobs` workers, which differ in number and seed, until the bounds of the job are met.

    Raises HostError where workers die again and again.
    """
    if job.engine == AFL:
        return _run_afl(job, jobs, listener)
    heard: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    share = -(-job.runs // jobs) if job.runs else 0
    workers = [
        _Worker(job._replace(number=number, seed=job.seed + number, runs=share, sweep=job.sweep and not number), heard)
        for number in range(jobs)
    ]
    begun, deaths, lost = time.monotonic(), 0, 0
    alive = set(range(jobs))
    last_call = begun + job.seconds + _PATIENCE_S if job.seconds else float("inf")

    def state() -> State:
        corpus = Path(job.out) / "corpus"
        kept = sum(1 for _ in corpus.iterdir()) if corpus.is_dir() else 0
        return _sum([one.last for one in workers if one.last], time.monotonic() - begun, kept, deaths, lost)

    try:
        while alive:
            listener.check()
            with contextlib.suppress(queue.Empty):
                number, line = heard.get(timeout=0.2)
                worker = workers[number]
                if line is not None:
                    worker.last, worker.heard = line, time.monotonic()
                    if "finding" in line:
                        listener.found(line)
                        if job.first:
                            last_call = min(last_call, time.monotonic() + _LAST_CALL_S)
                elif worker.process.returncode == 0 and worker.last.get("done"):
                    alive.discard(number)
                else:
                    deaths += 1
                    if deaths >= _MOST_DEATHS or not worker.last:
                        raise HostError(f"a worker has died ({worker.last_words()})", "the campaign")
                    left = max(job.seconds - (time.monotonic() - begun), 1) if job.seconds else 0
                    lost += worker.last["executions"]
                    workers[number] = _Worker(_after_death(worker.job, deaths)._replace(seconds=left), heard)
            for number in alive:
                if workers[number].hangs(time.monotonic()):
                    workers[number].process.kill()
            if time.monotonic() > last_call:
                break
            listener.told(state())
    finally:
        for one in workers:
            if one.process.poll() is None:
                one.process.terminate()
        for one in workers:
            try:
                one.process.wait(5)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
            one.job.trying.unlink(missing_ok=True)
    return state()


def _run_afl(job: Job, jobs: int, listener: Listener) -> State:
    """The same, led by instances of afl-fuzz, which share what they find among themselves."""
    begun, out = time.monotonic(), Path(job.out)
    for number in range(jobs):
        (out / f"status-{number}.json").unlink(missing_ok=True)
    processes = afl.start(job, jobs)
    known: set[str] = {one["key"] for one in findings(out)}
    last_call = begun + job.seconds + _PATIENCE_S if job.seconds else float("inf")
    first = True

    def state() -> State:
        last = [one for one in (afl.told(out, number) for number in range(jobs)) if one]
        queues = sum(1 for _ in (out / "afl").glob("*/queue/id*"))
        return _sum(last, time.monotonic() - begun, queues, 0, 0)

    try:
        while first or any(one.poll() is None for one in processes):
            first = False
            listener.check()
            time.sleep(0.2)
            for one in findings(out):
                if one["key"] not in known:
                    known.add(one["key"])
                    done = state()
                    listener.found({**one, "after": done.executions, "at": done.seconds})
            now = state()
            listener.told(now)
            enough = (job.first and known) or (job.runs and now.executions >= job.runs) or time.monotonic() > last_call
            if enough:
                break
        failed = [number for number, one in enumerate(processes) if one.poll() not in (None, 0)]
        if failed and not state().executions:
            words = (out / f"afl-{failed[0]}.log").read_text("utf-8", "replace").strip().splitlines() or ["nothing"]
            raise HostError(f"afl-fuzz has ended ({words[-1][:200]})", f"see {out}/afl-{failed[0]}.log")
    finally:
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            process.wait()
    return state()


def blocks(out: Path) -> list[tuple[int, int]]:
    """Blocks of the guest that any worker has come to."""
    found: set[tuple[int, int]] = set()
    for path in sorted(out.glob("blocks-*.json")):
        with contextlib.suppress(OSError, ValueError):
            found |= {(int(address), int(size)) for address, size in json.loads(path.read_text(encoding="ascii"))}
    return sorted(found)


def findings(out: Path) -> list[dict[str, Any]]:
    """What finding.json of each finding says, with its `key` and the `bytes` of its input."""
    told = []
    for path in kept_in(out / "findings"):
        with contextlib.suppress(OSError, ValueError):
            one = json.loads((path / "finding.json").read_text(encoding="utf-8"))
            told.append({"key": path.name, **one, "bytes": os.path.getsize(path / "input")})
    return told
