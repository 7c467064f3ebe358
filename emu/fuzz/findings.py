"""What was found, by its cause: the shortest input, its story, and a recording that every viewer opens.

A finding is a folder with `input`, `input.txt`, `story.txt`, `finding.json` and `replay.emurec`. It appears when it is
whole.

In Linux: syzkaller's crash folders, with their repro.
"""

import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from emu.conform.text import format_sequence
from emu.explore.cause import cause
from emu.explore.evidence import evidence
from emu.explore.instance import Instance
from emu.explore.node import Way
from emu.explore.properties import ENDS, NO_FAULT, OWN_AREA, UNWRITTEN, ZEROED, Violation
from emu.explore.search import Counterexample, Search
from emu.explore.story import story
from emu.faults import HostError
from emu.fuzz import operations
from emu.fuzz.exact import Told
from emu.fuzz.harness import Harness
from emu.fuzz.host import HostFinding, HostHarness
from emu.fuzz.outcome import OWN_MEMORY, Failure
from emu.fuzz.records import Input, decode, encode, to_text
from emu.fuzz.shrink import shrink
from emu.fuzz.target import Target
from emu.history.history import History
from emu.history.recording import Outcome, Recording, TraceHash, source_texts, to_bytes

_A_FEW_ROUNDS = 64
_LINKED = ("start.S", "start32.S", "runtime.c")
_BEFORE_INSNS = 200_000


# Of a target, and of a host under test, by which a finding was judged.
CLAIMS = ("start", "since", "read", "passes", "clamps", "oracles", "also", "ram")
HOST_CLAIMS = ("kvm", "known", "device")


class Finding(NamedTuple):
    """`key` names what `oracle` and `place` say together; `given` is the input, `recording` replays it."""

    key: str
    oracle: str
    why: str
    place: str
    cause: str
    given: Input
    story: tuple[str, ...]
    recording: bytes


def shortest(harness: Harness, data: bytes) -> bytes:
    """The shortest input that violates the same oracle."""
    found = harness.fails(data)
    if found is None:
        return data

    def fails(given: Input) -> bool:
        again = harness.fails(encode(given))
        return again is not None and again.oracle == found.oracle

    given = decode(data, harness.target.host)
    return encode(shrink(given, fails))


def finding(harness: Harness, data: bytes, text_of: Callable[[str], str | None]) -> Finding | None:
    """A finding made of these bytes, or None where a whole machine does not fail with them."""
    found = harness.confirmed(data)
    if found is None:
        return None
    failed, told = found
    target = harness.target
    config = target.config()
    if told.execution.ended == "budget":
        config = config._replace(insn_limit=told.insns)
    digest = TraceHash()
    history = History(target.image, config, edits=told.edits, trace=digest)
    position = _position(failed, told)
    violation = Violation(failed.oracle, failed.why)
    points = sorted({*told.points, *(edit.position for edit in told.edits)})
    way = Way(told.edits, tuple(one for one in points if one <= position))
    counterexample = Counterexample(violation, way, position)
    lines = tuple(story(history, counterexample))
    said = cause(history, counterexample, _own)
    history.end()
    machine = history.machine
    assert machine.reason is not None
    outcome = Outcome(machine.position, machine.reason, machine.exit_port.code, digest.hexdigest())
    source = target.image.source
    texts = source_texts(source, text_of)
    recording = Recording(target.name, source, config, outcome, history.edits, texts, position, lines)
    place = said.place.rpartition("/")[2]
    given = decode(data, target.host)
    return Finding(
        _key(failed.oracle, place), failed.oracle, failed.why, place, said.text, given, lines, to_bytes(recording)
    )


def before(target: Target, text_of: Callable[[str], str | None]) -> list[Finding]:
    """What goes wrong before anything is done to the guest, with a host that offers steal time and one that does not.

    Their inputs are empty. What a guest may do without the feature is its own business, but for what crashes it.
    """
    found: list[Finding] = []
    for withheld in ((), ("steal-time",)):
        wanted = frozenset((ZEROED, OWN_AREA, NO_FAULT, UNWRITTEN))
        instance = Instance(
            target.image,
            updates=0,
            read=target.declared,
            withheld=withheld,
            properties=wanted,
            insn_limit=_BEFORE_INSNS,
        )
        report = Search(instance).run()
        if report.found is None:
            continue
        violation = report.found.violation
        kept = evidence(instance, report.found, target.name, text_of)
        said = cause(kept.history(target.name), report.found, _own)
        given = Input(target.host, 2, 0, ())
        place = said.place.rpartition("/")[2]
        key = _key(violation.property, place)
        why = violation.why + ("; the host offers no steal time" if withheld else "")
        story_ = kept.story
        found.append(Finding(key, violation.property, why, place, said.text, given, story_, to_bytes(kept)))
    return found


def _own(place: str) -> bool:
    """Whether a line is the author's, and not of what every guest is linked with."""
    return bool(place) and place.rpartition("/")[2].partition(":")[0] not in _LINKED


def _key(oracle: str, place: str) -> str:
    return f"{oracle}-{hashlib.sha256(f'{oracle} {place}'.encode()).hexdigest()[:8]}"


def _position(failed: Failure, told: Told) -> int:
    if failed.read is not None:
        return told.read_ends[failed.read]
    if told.broke_at is not None and failed.oracle in (UNWRITTEN, OWN_MEMORY):
        return told.broke_at + 1
    if failed.oracle == ENDS:  # a few rounds of the loop tell as much as thousands
        return min(max((edit.position for edit in told.edits), default=0) + _A_FEW_ROUNDS, told.ends_at)
    return told.ends_at


def kept_in(folder: Path) -> list[Path]:
    """The folders of findings that are whole, in order; what begins with a dot is not yet, or no more."""
    return sorted(one.parent for one in folder.glob("[!.]*/input"))


class _Folder:
    """A folder of findings. One that is known is replaced by a shorter one alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.known = {one.name: (one / "input").stat().st_size for one in kept_in(folder)}

    def _keep(self, key: str, files: Mapping[str, bytes]) -> bool:
        """Keep a finding of these files, whole; whether it is new, or shorter than what was known."""
        data = files["input"]
        if key in self.known and self.known[key] <= len(data):
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
            for name, content in files.items():
                (new / name).write_bytes(content)
            new.chmod(0o755)
            place, old = self._folder / key, self._folder / f".old-{key}"
            shutil.rmtree(old, ignore_errors=True)
            if place.exists():
                os.replace(place, old)
            os.replace(new, place)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise HostError(f"a finding cannot be kept here ({error.strerror})", str(self._folder)) from None
        self.known[key] = len(data)
        return True


class Findings(_Folder):
    """Findings of a guest under test."""

    def __init__(self, folder: Path, target: Target) -> None:
        super().__init__(folder)
        self._target = target

    def add(self, one: Finding) -> bool:
        """Keep it; whether it is new, or shorter than what was known."""
        told = {
            "oracle": one.oracle,
            "why": one.why,
            "place": one.place,
            "cause": one.cause,
            "host": one.given.host,
            "target": self._target.name,
            "image": self._target.image.sha256,
            **{name: getattr(self._target, name) for name in CLAIMS},
        }
        files = {
            "input": encode(one.given),
            "input.txt": to_text(one.given).encode(),
            "story.txt": _text(one.story),
            "finding.json": _json(told),
            "replay.emurec": one.recording,
        }
        return self._keep(one.key, files)


def settle(folder: Path, harness: Harness | HostHarness | None, early: Iterable[Finding]) -> list[str]:
    """Put findings that the target, as it is now, has no more into `fixed/` beside their folder; their keys."""
    still = {one.key for one in early}
    fixed = []
    for path in kept_in(folder):
        key = path.name
        if key in still or (harness is not None and harness.fails((path / "input").read_bytes()) is not None):
            continue
        place = folder.parent / "fixed" / key
        try:
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(exist_ok=True)
            os.replace(path, place)
        except OSError as error:
            raise HostError(f"a finding cannot be put aside ({error.strerror})", str(place)) from None
        fixed.append(key)
    return fixed


class HostFindings(_Folder):
    """Findings of a host under test; `under` says which, as the job of a campaign does."""

    def __init__(self, folder: Path, under: dict[str, Any]) -> None:
        super().__init__(folder)
        self._under = {name: under[name] for name in HOST_CLAIMS}

    def again(self, one: HostFinding) -> str:
        """The command that does it again."""
        if self._under["device"]:
            return f"emu fuzz replay {shlex.quote(str(self._folder / one.key))}"
        known = "" if self._under["known"] else " --no-known"
        return f"emu conform{known} --sequence '{format_sequence(one.sequence)}'"

    def add(self, one: HostFinding) -> bool:
        """Keep it; whether it is new, or shorter than what was known."""
        lines = [format_sequence([operation]) for operation in one.sequence]
        files = {
            "input": operations.encode(one.sequence),
            "input.txt": _text(lines),
            "story.txt": _text([*one.story, f"again: {self.again(one)}"]),
            "finding.json": _json(
                {"oracle": one.judge, "why": one.why, "place": "", "cause": "", "under": self._under}
            ),
        }
        return self._keep(one.key, files)


def _text(lines: Iterable[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-8")


def _json(told: Mapping[str, object]) -> bytes:
    return (json.dumps(told, indent=1) + "\n").encode("utf-8")
