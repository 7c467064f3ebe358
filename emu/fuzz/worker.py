"""One process of a campaign: it has a harness and an engine, keeps what it finds, and says how it goes.

`python -m emu.fuzz.worker`, with a JSON object as its one argument (see Job). Its standard output is a line of JSON
now and then; what an engine prints goes to its standard error. It never ends because of a target.

In Linux: syz-fuzzer of syzkaller is the process of this kind.
"""

import importlib
import inspect
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from emu import data
from emu.devices.steal_time import StealTime
from emu.faults import HostError
from emu.fuzz import findings, operations, sweep
from emu.fuzz.findings import Findings, HostFindings
from emu.fuzz.harness import MAP_SIZE, Harness
from emu.fuzz.host import HostHarness
from emu.fuzz.outcome import Failure
from emu.fuzz.own_device import device_of
from emu.fuzz.records import MOST_BYTES, encode
from emu.fuzz.target import Target, beginning, target_of

ATHERIS, AFL, HYPOTHESIS, RANDOM, SWEEP = "atheris", "afl", "hypothesis", "random", "sweep"
_EVERY_S = 0.5
_MOST_OF_ORACLE = 16  # ways to violate one oracle that are looked into


class Job(NamedTuple):
    """`target` as `emu.fuzz.target.target_of` reads it; `out` is the campaign's folder; `seconds` and `runs` bound it
    (0: not); with `first` it ends with its first finding; with `sweep` it goes through the short schedules first."""

    target: dict[str, Any]
    out: str
    engine: str
    seed: int
    seconds: float = 0
    runs: int = 0
    first: bool = False
    sweep: bool = True
    number: int = 0


class Enough(Exception):
    """The bound of the job is met."""


class Session:
    """Executes inputs, and keeps what they find."""

    most_bytes = MOST_BYTES

    def __init__(self, job: Job, target: Target) -> None:
        self.job = job
        self.harness = Harness(target)
        self.findings = Findings(Path(job.out) / "findings", target)
        self.swept: list[tuple[str, int]] = []
        self._looked_into: dict[str, set[tuple[str, int | None]]] = {}
        self._unconfirmed = 0
        self._begun = time.monotonic()
        self._next = self._begun
        self._new_edge = self._begun
        self._edges = self._covered = 0

    def one(self, given: bytes) -> None:
        """Execute these bytes. Raises Enough where the job is done."""
        harness = self.harness
        found = harness.fails(given)
        if found is not None:
            self._found(given, found)
        if harness.executions % 64 == 0 or found is not None:
            self._look()

    def _look(self) -> None:
        now = time.monotonic()
        if self.harness.edges != self._edges:
            self._edges, self._new_edge = self.harness.edges, now
        job = self.job
        enough = (
            (job.runs and self.harness.executions >= job.runs)
            or (job.seconds and now - self._begun >= job.seconds)
            or (job.first and self.findings.known)
        )
        if enough or now >= self._next:
            self._next = now + _EVERY_S
            self.tell()
            if self._edges != self._covered:
                self._covered = self._edges
                self.cover()
        if enough:
            raise Enough

    def tell(self, **more: Any) -> None:
        """A line for whoever watches."""
        _say({**self.state(), **more})

    def state(self) -> dict[str, Any]:
        """How it goes."""
        now = time.monotonic()
        return {
            "executions": self.harness.executions,
            "exactly": self.harness.exactly,
            "edges": self.harness.edges,
            "findings": len(self.findings.known),
            "unconfirmed": self._unconfirmed,
            "since_edge": round(now - self._new_edge, 1),
            "seconds": round(now - self._begun, 2),
            "swept": self.swept,
            "native": self.harness.is_native,
        }

    def _found(self, given: bytes, failed: Failure) -> None:
        ways = self._looked_into.setdefault(failed.oracle, set())
        way = failed.oracle, failed.read
        if way in ways or len(ways) >= _MOST_OF_ORACLE:
            return
        ways.add(way)
        shortest = findings.shortest(self.harness, given)
        made = findings.finding(self.harness, shortest, data.source_text)
        if made is None:
            self._unconfirmed += 1
        elif self.findings.add(made):
            executed, seconds = self.harness.executions, time.monotonic() - self._begun
            self.tell(finding=made.key, oracle=made.oracle, why=made.why, after=executed, at=round(seconds, 2))

    def sweep(self) -> None:
        """Go through the short schedules, all of them."""
        harness = self.harness
        _, _, plain = harness.run(b"")
        for family in sweep.families(harness.target.host, plain.accesses):
            for given in family.inputs:
                self.one(encode(given))
            self.swept.append((family.name, family.size))
            self.tell()

    def cover(self) -> None:
        """Keep which blocks the guest has come to."""
        Path(self.job.out).mkdir(parents=True, exist_ok=True)
        place = Path(self.job.out) / f"blocks-{self.job.number}.json"
        new = place.with_suffix(".new")
        new.write_text(json.dumps(self.harness.blocks()) + "\n", encoding="ascii")
        os.replace(new, place)


class HostSession:
    """Judges sequences, and keeps those that a host fails in."""

    most_bytes = operations.MOST_BYTES

    def __init__(self, job: Job) -> None:
        asked = job.target
        device = device_of(asked["device"]) if asked.get("device") else StealTime
        self.job = job
        self.harness = HostHarness(kvm=asked["kvm"], known=asked["known"], device=device)
        self.findings = HostFindings(Path(job.out) / "findings")
        self.swept: list[tuple[str, int]] = []
        self._looked_into: set[str] = set()
        self._begun = self._next = time.monotonic()

    def one(self, given: bytes) -> None:
        """Judge what these bytes mean. Raises Enough where the job is done."""
        found = self.harness.fails(given)
        if found is not None:
            # The same judge, operation and field once: what follows from one mistake is legion.
            way = f"{found.judge} {found.difference.what}"
            if way not in self._looked_into:
                self._looked_into.add(way)
                made = self.harness.finding(given)
                if made is not None and self.findings.add(made):
                    at = round(time.monotonic() - self._begun, 2)
                    self.tell(finding=made.key, why=made.why, after=self.harness.executions, at=at)
        if self.harness.executions % 16 == 0 or found is not None:
            now, job = time.monotonic(), self.job
            enough = (
                (job.runs and self.harness.executions >= job.runs)
                or (job.seconds and now - self._begun >= job.seconds)
                or (job.first and self.findings.known)
            )
            if enough or now >= self._next:
                self._next = now + _EVERY_S
                self.tell()
            if enough:
                raise Enough

    def sweep(self) -> None:
        """Go through the short sequences, all of them."""
        for name, size, sequences in operations.short_sequences():
            for sequence in sequences:
                self.one(operations.encode(sequence))
            self.swept.append((name, size))
            self.tell()

    def tell(self, **more: Any) -> None:
        """A line for whoever watches."""
        seconds = round(time.monotonic() - self._begun, 2)
        told = {"executions": self.harness.executions, "findings": len(self.findings.known), "seconds": seconds}
        _say({**_NOTHING, **told, "swept": self.swept, "known": self.harness.known, **more})

    def cover(self) -> None:
        """What it covers is our own code, which atheris looks at."""


def _random(session: Session | HostSession) -> None:
    """Random bytes, and nothing learned: what the engines are measured against."""
    rng = random.Random(session.job.seed)
    while True:
        session.one(rng.randbytes(rng.randrange(session.most_bytes + 1)))


def _hypothesis(session: Session | HostSession) -> None:
    """Hypothesis draws inputs; it is there everywhere, learns nothing of coverage, and shrinks nothing here."""
    try:
        import hypothesis
        from hypothesis import strategies
    except ImportError:
        raise _missing("hypothesis") from None
    for number in range(1 << 30):

        @hypothesis.settings(
            max_examples=2000,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.seed(session.job.seed << 20 | number)
        @hypothesis.given(strategies.binary(max_size=session.most_bytes))
        def drawn(given: bytes) -> None:
            session.one(given)

        drawn()


def _atheris(session: Session | HostSession) -> None:
    """libFuzzer, by the package `atheris`, led by the guest's own edges."""
    import ctypes

    try:
        core = importlib.import_module("atheris.core_with_libfuzzer")
        atheris = importlib.import_module("atheris")
    except ImportError:
        raise _missing("atheris") from None
    job = session.job
    corpus = Path(job.out) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)

    def one(given: bytes) -> None:
        try:
            session.one(given)
        except Enough:
            session.cover()
            sys.stdout.flush()
            os._exit(0)

    options = [f"-max_len={session.most_bytes}", f"-seed={job.seed % (1 << 31) + 1}", "-reload=1", "-verbosity=0"]
    atheris.Setup(["emu-fuzz", *options, str(corpus)], one)
    if isinstance(session, HostSession):
        atheris.Fuzz()
        return
    # libFuzzer counts what is between these two, as if a compiler had put it there; it wants a PC for each.
    library = ctypes.CDLL(core.__file__)
    begin = ctypes.addressof(session.harness.map)
    library.__sanitizer_cov_8bit_counters_init(ctypes.c_void_p(begin), ctypes.c_void_p(begin + MAP_SIZE))
    table = (ctypes.c_uint64 * (2 * MAP_SIZE))(*[number for one_ in range(MAP_SIZE) for number in (one_ + 1, 0)])
    place = ctypes.addressof(table)
    library.__sanitizer_cov_pcs_init(ctypes.c_void_p(place), ctypes.c_void_p(place + ctypes.sizeof(table)))
    atheris.Fuzz()


def _nothing(session: Session | HostSession) -> None:
    """The sweep is all."""


_ENGINES: dict[str, Callable[[Session | HostSession], None]] = {
    ATHERIS: _atheris,
    HYPOTHESIS: _hypothesis,
    RANDOM: _random,
    SWEEP: _nothing,
}


def _missing(package: str) -> SystemExit:
    return SystemExit(f"the package `{package}` is not installed: python -m pip install 'kvm-steal-emu[fuzz]'")


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _instrument() -> None:
    """Let atheris see which branches of the devices and of the model are taken."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        raise _missing("atheris") from None
    for name in ("emu.devices.steal_time", "emu.devices.kvmclock", "emu.devices.async_pf", "emu.conform.model"):
        module = importlib.import_module(name)
        for one in vars(module).values():
            if isinstance(one, type) and one.__module__ == name:
                for word, function in list(vars(one).items()):
                    if inspect.isfunction(function):
                        setattr(one, word, atheris.instrument_func(function))


def _before(job: Job, target: Target) -> bool:
    """Keep what goes wrong before anything is done; whether that is all there can be."""
    begun = time.monotonic()
    kept = Findings(Path(job.out) / "findings", target)
    known = 0
    for one in findings.before(target, data.source_text):
        if kept.add(one):
            at = round(time.monotonic() - begun, 2)
            _say({**_NOTHING, "findings": len(kept.known), "finding": one.key, "why": one.why, "after": 1, "at": at})
        known += 1
    if not known:
        return False
    try:
        beginning(target)
    except HostError:
        return True  # it cannot be entered, and why has been found
    return job.first


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("executions", "exactly", "edges", "findings", "unconfirmed", "seconds"), 0),
    "since_edge": 0.0,
    "swept": [],
    "native": True,
}


def main(words: list[str]) -> None:
    """Work on a job."""
    job = Job(**json.loads(words[0]))
    session: Session | HostSession
    if "kvm" in job.target:
        if job.engine == ATHERIS:
            _instrument()
        session = HostSession(job)
    else:
        target = target_of(job.target)
        if job.number == 0 and _before(job, target):
            return
        session = Session(job, target)
    try:
        if job.sweep:
            session.sweep()
        _ENGINES[job.engine](session)
    except Enough:
        pass
    session.tell()
    session.cover()


if __name__ == "__main__":
    main(sys.argv[1:])
