"""One process of a campaign: it has a harness and an engine, keeps what it finds, and says how it goes.

`python -m emu.fuzz.worker`, with a JSON object as its one argument (see Job). Its standard output is a line of JSON
now and then; what an engine prints goes to its standard error. It never ends because of a target.

In Linux: syz-fuzzer of syzkaller is the process of this kind.
"""

import importlib
import inspect
import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from emu import data
from emu.fuzz import findings, operations, sweep
from emu.fuzz.apart import limit_memory
from emu.fuzz.corpus import dictionary, dictionary_of_operations, written
from emu.fuzz.findings import Findings, HostFindings
from emu.fuzz.harness import MAP_SIZE, Harness
from emu.fuzz.host import HostHarness, harness_for
from emu.fuzz.records import MOST_BYTES, encode
from emu.fuzz.target import Target, target_of

ATHERIS, AFL, HYPOTHESIS, RANDOM, SWEEP = "atheris", "afl", "hypothesis", "random", "sweep"
_EVERY_S = 0.5
_SLOT = 4096  # bytes: two for the length, and any input
_MOST_OF_ORACLE = 16  # ways to violate one oracle that are looked into


class Job(NamedTuple):
    """`target` as `emu.fuzz.target.target_of` reads it; `out` is the campaign's folder; `seconds` and `runs` bound it
    (0: not); with `first` it ends with its first finding; with `sweep` it goes through the short schedules first.

    A worker that died of somebody's device is started again to be `careful`, with the input that it died of, in
    hexadecimal, as the `suspect`.
    """

    target: dict[str, Any]
    out: str
    engine: str
    seed: int
    seconds: float = 0
    runs: int = 0
    first: bool = False
    sweep: bool = True
    number: int = 0
    careful: bool = False
    suspect: str = ""

    @property
    def trying(self) -> Path:
        """Where the input stands that is tried just now, if that may be the last one."""
        return Path(self.out) / f"trying-{self.number}"


class Enough(BaseException):
    """The bound of the job is met. No error: an engine that looks at what fails must let it pass."""


class Session:
    """Tries inputs, keeps what they find, says how it goes, and ends where the job's bound is met.

    Of a guest or a host under test, which say what an input is and what a finding.
    """

    listener: TextIO  # who is told
    most_bytes: int
    look_every: int  # executions between two looks at the clock

    def __init__(self, job: Job, harness: Harness | HostHarness, kept: Findings | HostFindings) -> None:
        self.job = job
        self.listener = sys.stdout
        self._judges, self._kept = harness, kept
        self._swept: list[tuple[str, int]] = []
        self._begun = self._next = time.monotonic()

    def one(self, given: bytes) -> None:
        """Try these bytes. Raises Enough where the job is done."""
        failed = self.fails(given)
        if failed or self._judges.executions % self.look_every == 0:
            self._look()

    def fails(self, given: bytes) -> bool:
        """Whether something fails with these bytes, which is then looked into."""
        raise NotImplementedError

    def families(self) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """Inputs that are short, by families: name, size, inputs."""
        raise NotImplementedError

    def dictionary(self) -> Path:
        """Where a dictionary for the engine stands."""
        raise NotImplementedError

    def sweep(self) -> None:
        """Go through all that is short."""
        for name, size, inputs in self.families():
            for given in inputs:
                self.one(given)
            self._swept.append((name, size))
            self.tell()

    def _look(self) -> None:
        now, job = time.monotonic(), self.job
        enough = (
            (job.runs and self._judges.executions >= job.runs)
            or (job.seconds and now - self._begun >= job.seconds)
            or (job.first and self._kept.known)
        )
        if enough or now >= self._next:
            self._next = now + _EVERY_S
            self.tell()
            self.cover()
        if enough:
            raise Enough

    def state(self) -> dict[str, Any]:
        """How it goes."""
        return {
            **_NOTHING,
            "executions": self._judges.executions,
            "findings": len(self._kept.known),
            "seconds": round(time.monotonic() - self._begun, 2),
            "swept": self._swept,
        }

    def tell(self, **more: Any) -> None:
        """A line for whoever watches."""
        self.listener.write(json.dumps({**self.state(), **more}) + "\n")
        self.listener.flush()

    def tell_found(self, key: str, why: str) -> None:
        """A line about a finding."""
        at = round(time.monotonic() - self._begun, 2)
        self.tell(finding=key, why=why, after=self._judges.executions, at=at)

    def end(self) -> None:
        """The last word: a process that ends without it has died."""
        self.cover()
        self.tell(done=True)

    def cover(self) -> None:
        """Keep what has been covered, where there is more than before."""


class GuestSession(Session):
    """A guest under test."""

    most_bytes, look_every = MOST_BYTES, 64

    def __init__(self, job: Job, target: Target) -> None:
        self.harness = Harness(target)
        self._findings = Findings(Path(job.out) / "findings", target)
        super().__init__(job, self.harness, self._findings)
        self._looked_into: dict[str, set[int | None]] = {}  # by oracle, the reads that it was violated by
        self._unconfirmed = 0
        self._new_edge = self._begun
        self._edges = self._covered = 0

    def fails(self, given: bytes) -> bool:
        """See Session."""
        failed = self.harness.fails(given)
        if failed is None:
            return False
        reads = self._looked_into.setdefault(failed.oracle, set())
        if failed.read not in reads and len(reads) < _MOST_OF_ORACLE:
            reads.add(failed.read)
            made = findings.finding(self.harness, findings.shortest(self.harness, given), data.source_text)
            if made is None:
                self._unconfirmed += 1
            elif self._findings.add(made):
                self.tell_found(made.key, made.why)
        return True

    def dictionary(self) -> Path:
        """See Session."""
        target = self.harness.target
        return written(Path(self.job.out), dictionary(target.host, target.events))

    def families(self) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """See Session."""
        _, _, plain = self.harness.run(b"")
        target = self.harness.target
        for family in sweep.families(target.host, plain.accesses, target.events):
            yield family.name, family.size, map(encode, family.inputs)

    def state(self) -> dict[str, Any]:
        """See Session."""
        harness, now = self.harness, time.monotonic()
        if harness.edges != self._edges:
            self._edges, self._new_edge = harness.edges, now
        return {
            **super().state(),
            "exactly": harness.exactly,
            "edges": harness.edges,
            "unconfirmed": self._unconfirmed,
            "since_edge": round(now - self._new_edge, 1),
            "native": harness.is_native,
        }

    def cover(self) -> None:
        """Keep which blocks the guest has come to."""
        place = Path(self.job.out) / f"blocks-{self.job.number}.json"
        if self._covered == self.harness.edges and place.is_file():
            return
        self._covered = self.harness.edges
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_suffix(".new")
        new.write_text(json.dumps(self.harness.blocks()) + "\n", encoding="ascii")
        os.replace(new, place)


class HostSession(Session):
    """A host under test. What it covers is our own code, which atheris looks at."""

    most_bytes, look_every = operations.MOST_BYTES, 16

    def __init__(self, job: Job) -> None:
        self._harness = harness_for(job.target, careful=job.careful)
        self._findings = HostFindings(Path(job.out) / "findings", job.target)
        super().__init__(job, self._harness, self._findings)
        self._looked_into: set[str] = set()
        self._trying: _Slot | None = None
        if job.target["device"]:
            self.look_every = 1  # silence is a sign that it hangs
            if not job.careful:
                self._trying = _Slot(job.trying)
                limit_memory()

    def fails(self, given: bytes) -> bool:
        """See Session."""
        if self._trying is not None:
            self._trying.put(given)
        failed = self._harness.fails(given)
        if failed is None:
            return False
        # The same judge, operation and field once: what follows from one mistake is legion.
        way = f"{failed.judge} {failed.difference.what}"
        if way not in self._looked_into:
            self._looked_into.add(way)
            made = self._harness.finding(given)
            if made is not None and self._findings.add(made):
                self.tell_found(made.key, made.why)
        return True

    def dictionary(self) -> Path:
        """See Session."""
        return written(Path(self.job.out), dictionary_of_operations())

    def families(self) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """See Session."""
        for name, size, sequences in operations.short_sequences():
            yield name, size, map(operations.encode, sequences)


class _Slot:
    """A file in which another process can see what is tried, even when this one is no more."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(_SLOT))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SLOT)

    def put(self, given: bytes) -> None:
        self._memory[2 : 2 + len(given)] = given
        self._memory[:2] = len(given).to_bytes(2, "little")


def last_tried(job: Job) -> str:
    """The input that a worker was trying, in hexadecimal; nothing where that is not known."""
    try:
        content = job.trying.read_bytes()
    except OSError:
        return ""
    return content[2 : 2 + int.from_bytes(content[:2], "little")].hex()


def _random(session: Session) -> None:
    """Random bytes, and nothing learned: what the engines are measured against."""
    rng = random.Random(session.job.seed)
    while True:
        session.one(rng.randbytes(rng.randrange(session.most_bytes + 1)))


def _hypothesis(session: Session) -> None:
    """Hypothesis draws inputs; it is there everywhere, learns nothing of coverage, and shrinks nothing here."""
    import hypothesis
    from hypothesis import strategies

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


def _atheris(session: Session) -> None:
    """libFuzzer, by the package `atheris`, led by the guest's own edges."""
    import ctypes

    core = importlib.import_module("atheris.core_with_libfuzzer")
    atheris = importlib.import_module("atheris")
    job = session.job
    corpus = Path(job.out) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)

    def one(given: bytes) -> None:
        try:
            session.one(given)
        except Enough:
            session.end()
            os._exit(0)

    options = [f"-max_len={session.most_bytes}", f"-seed={job.seed % (1 << 31) + 1}", "-reload=1", "-verbosity=0"]
    options.append(f"-dict={session.dictionary()}")
    atheris.Setup(["emu-fuzz", *options, str(corpus)], one)
    if not isinstance(session, GuestSession):
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


def _nothing(session: Session) -> None:
    """The sweep is all."""


_ENGINES: dict[str, Callable[[Session], None]] = {
    ATHERIS: _atheris,
    HYPOTHESIS: _hypothesis,
    RANDOM: _random,
    SWEEP: _nothing,
}


def _instrument() -> None:
    """Let atheris see which branches of the devices and of the model are taken."""
    atheris = importlib.import_module("atheris")
    for name in ("emu.devices.steal_time", "emu.devices.kvmclock", "emu.devices.async_pf", "emu.conform.model"):
        module = importlib.import_module(name)
        for one in vars(module).values():
            if isinstance(one, type) and one.__module__ == name:
                for word, function in list(vars(one).items()):
                    if inspect.isfunction(function):
                        setattr(one, word, atheris.instrument_func(function))


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("executions", "exactly", "edges", "findings", "unconfirmed", "seconds"), 0),
    "since_edge": 0.0,
    "swept": [],
    "native": True,
}


def main(words: list[str]) -> None:
    """Work on a job."""
    job = Job(**json.loads(words[0]))
    # What a device or an oracle of somebody's prints is not for the listener.
    listener = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    session: Session
    if "kvm" in job.target:
        if job.engine == ATHERIS:
            _instrument()
        session = HostSession(job)
    else:
        session = GuestSession(job, target_of(job.target))
    session.listener = listener
    session.tell()
    try:
        if job.suspect:
            session.one(bytes.fromhex(job.suspect))
        if job.sweep:
            session.sweep()
        _ENGINES[job.engine](session)
    except Enough:
        pass
    session.end()


if __name__ == "__main__":
    main(sys.argv[1:])
