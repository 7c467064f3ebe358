"""What came of judging: pure data, written by whoever judged and read by whoever trusts no one.

What comes out of a sandbox is read strictly: every part has its type, its length and its alphabet, or it is refused.

In Linux: the verifier of BPF reads what user space hands in with as little trust.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

PASSED, FAILED, UNTRIED, LIMIT = "passed", "failed", "not tried", "limit"
OUTCOMES = (PASSED, FAILED, UNTRIED, LIMIT)
MAX_RESULT = 16 << 20  # bytes of what a judge may answer
MAX_EVIDENCE = 4 << 20  # bytes of one file
MAX_VERDICTS = 200
_MAX_TEXT, _MAX_LINES, _MAX_COLUMNS = 4000, 200, 400
_EVIDENCE = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\.(emurec|json)")


class Verdict(NamedTuple):
    """Of one criterion. `points` of `worth` were given.

    `why` says what did not hold, `cause` what most likely made it so, at `place` (such as clock.c:12) where `line`
    stands. `story` is what host and guest did until then, `legal` what would have been right, `detail` what a compiler
    said. `evidence` names a file that replays it.
    """

    criterion: str
    title: str
    outcome: str
    points: int
    worth: int
    why: str = ""
    cause: str = ""
    place: str = ""
    line: str = ""
    story: tuple[str, ...] = ()
    legal: str = ""
    detail: tuple[str, ...] = ()
    evidence: str = ""
    hidden: bool = False


class Judgement(NamedTuple):
    """All verdicts in the order of the criteria, and the files of evidence by name."""

    verdicts: tuple[Verdict, ...]
    evidence: Mapping[str, bytes]

    @property
    def points(self) -> int:
        """What was given."""
        return sum(one.points for one in self.verdicts)

    @property
    def worth(self) -> int:
        """What there was to be had."""
        return sum(one.worth for one in self.verdicts)

    @property
    def passed(self) -> bool:
        """Whether all criteria hold."""
        return all(one.outcome == PASSED for one in self.verdicts)


def to_bytes(judgement: Judgement) -> bytes:
    """As JSON: the same judgement, the same bytes."""
    evidence = {name: base64.b64encode(data).decode("ascii") for name, data in sorted(judgement.evidence.items())}
    return json.dumps(
        {"verdicts": [one._asdict() for one in judgement.verdicts], "evidence": evidence}, separators=(",", ":")
    ).encode("ascii")


def from_bytes(data: bytes) -> Judgement:
    """Read it back. Raises ValueError, with what is wrong, for anything that `to_bytes` could not have written."""
    _must(len(data) <= MAX_RESULT, "it is too long")
    try:
        found = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    _must(type(found) is dict and found.keys() == {"verdicts", "evidence"}, "its parts are not those of a judgement")
    verdicts, evidence = found["verdicts"], found["evidence"]
    _must(type(verdicts) is list and len(verdicts) <= MAX_VERDICTS, "it has no list of verdicts")
    _must(type(evidence) is dict and len(evidence) <= MAX_VERDICTS, "it has no table of evidence")
    return Judgement(
        tuple(_verdict(one) for one in verdicts), {_evidence_name(name): _blob(one) for name, one in evidence.items()}
    )


def _verdict(table: Any) -> Verdict:
    _must(type(table) is dict and table.keys() == set(Verdict._fields), "a verdict has other parts")
    for key in ("criterion", "title", "outcome", "why", "cause", "place", "line", "legal", "evidence"):
        _must(type(table[key]) is str and len(table[key]) <= _MAX_TEXT, f"{key} is no text")
    for key in ("story", "detail"):
        lines = table[key]
        _must(type(lines) is list and len(lines) <= _MAX_LINES, f"{key} is no list of lines")
        _must(all(type(one) is str and len(one) <= _MAX_COLUMNS for one in lines), f"{key} has lines that are none")
        table[key] = tuple(lines)
    _must(table["outcome"] in OUTCOMES, "its outcome is none")
    _must(type(table["hidden"]) is bool, "hidden is neither true nor false")
    for key in ("points", "worth"):
        _must(type(table[key]) is int and 0 <= table[key] <= 10_000, f"{key} are no points")
    _must(table["points"] <= table["worth"], "more points than there are")
    if table["evidence"]:
        _evidence_name(table["evidence"])
    return Verdict(**table)


def _evidence_name(name: Any) -> str:
    _must(type(name) is str and _EVIDENCE.fullmatch(name) is not None, "a file of evidence has a strange name")
    return str(name)


def _blob(text: Any) -> bytes:
    _must(type(text) is str and len(text) <= MAX_EVIDENCE * 2, "evidence is too long")
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("evidence is not base64") from None


def bounded(lines: list[str]) -> tuple[str, ...]:
    """Lines as a verdict may carry them: not too many, none too long."""
    return tuple(line[:_MAX_COLUMNS] for line in lines[:_MAX_LINES])


def _must(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)
