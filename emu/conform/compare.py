"""Whether what a judge found is what the specification expects: equal, but for the amounts of time.

Judges in virtual time are compared exactly but for what a clock shows. Of real KVM a thread may have been switched out
at any moment, which brings an update that no operation asked for. So where switches were counted, a version may be
ahead by a multiple of 2, and a steal by what run delay has grown. Where none was counted there is no such slack.
"""

from collections.abc import Sequence
from typing import NamedTuple

from emu.conform.expect import Expected, Observed, Read
from emu.conform.model import AMOUNT, CLOCK_VERSION, PREEMPTED, STEAL, VERSION
from emu.conform.text import format_operation
from emu.kvm import operations
from emu.kvm.operations import Content, Leaf, Operation, Outcome, Value

MOST_UPDATES = 4096  # in one sequence: a version that is further ahead was not counted up


class Slack(NamedTuple):
    """How far real time may have gone: run delay in ns, and how many updates more there may have been."""

    steal_ns: int = 0
    updates: int = 0
    clock_updates: int = 0


EXACT = Slack()


class Difference(NamedTuple):
    """`at` is the number of the operation, from 0, or None for memory after the last one."""

    at: int | None
    what: str
    expected: str
    found: str


def difference(
    sequence: Sequence[Operation], expected: Expected, observed: Observed, slack: Slack = EXACT
) -> Difference | None:
    """The first difference between what a judge found and what is expected, or None."""
    for at, (wanted, found) in enumerate(zip(expected.outcomes, observed.outcomes, strict=True)):
        if not _agree(wanted, found, slack):
            return Difference(at, format_operation(sequence[at]), format_outcome(wanted), format_outcome(found))
    for read, data in zip(expected.memory, observed.memory, strict=True):
        at_gpa = _differs(read, data, slack)
        if at_gpa is not None:
            at = at_gpa - read.gpa
            return Difference(
                None, f"memory at {at_gpa:#x}", read.data[at : at + 8].hex(" "), data[at : at + 8].hex(" ")
            )
    return None


def _agree(wanted: Outcome | Read | None, found: Outcome, slack: Slack) -> bool:
    if wanted is None:
        return True
    if not isinstance(wanted, Read):
        return wanted == found
    if isinstance(found, Value):
        size = len(wanted.data)
        return not found.value >> 8 * size and _differs(wanted, found.value.to_bytes(size, "little"), slack) is None
    return isinstance(found, Content) and _differs(wanted, found.data, slack) is None


def _differs(wanted: Read, data: bytes, slack: Slack) -> int | None:
    """The address of the first byte that is not as wanted, or None."""
    if wanted.data == data:
        return None
    unequal = int.from_bytes(data, "little") ^ int.from_bytes(wanted.data, "little")
    while unequal:
        at = (unequal & -unequal).bit_length() - 1 >> 3
        unequal &= ~(0xFF << 8 * at)
        if not _byte_agrees(wanted, at, data, slack):
            return wanted.gpa + at
    return None


def _byte_agrees(wanted: Read, at: int, data: bytes, slack: Slack) -> bool:
    """Whether a byte that is not equal need not be."""
    kind, field = wanted.kinds.get(wanted.gpa + at, (None, 0))
    start = field - wanted.gpa
    if kind == PREEMPTED:
        return data[at] == 0
    if kind == STEAL:
        if not 0 <= start <= len(data) - 8:
            return slack.steal_ns > 0  # part of the field was looked at, which says nothing of the amount
        return (_number(data, start, 8) - _number(wanted.data, start, 8)) % (1 << 64) <= slack.steal_ns
    if kind in (VERSION, CLOCK_VERSION):
        updates = slack.updates if kind == VERSION else slack.clock_updates
        if not 0 <= start <= len(data) - 4:
            return updates > 0
        return _version_agrees(_number(wanted.data, start, 4), _number(data, start, 4), updates)
    return kind == AMOUNT


def _version_agrees(wanted: int, found: int, more_updates: int) -> bool:
    ahead = (found - wanted - (wanted & 1)) % (1 << 32)
    return wanted == found or ahead % 2 == 0 and 2 <= ahead <= 2 * min(more_updates, MOST_UPDATES)


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def format_outcome(outcome: Outcome | Read | None) -> str:
    """What came of an operation, in a few words."""
    if outcome is None:
        return "anything"
    if isinstance(outcome, Read):
        return outcome.data.hex(" ") if len(outcome.data) > 8 else f"{int.from_bytes(outcome.data, 'little'):#x}"
    if isinstance(outcome, Value):
        return f"{outcome.value:#x}"
    if isinstance(outcome, Content):
        return outcome.data.hex(" ")
    if isinstance(outcome, Leaf):
        return " ".join(f"{register:#x}" for register in outcome)
    if isinstance(outcome, operations.Refused):
        return f"{_VECTORS.get(outcome.vector, outcome.vector)}({outcome.error})"
    return "done"


_VECTORS = {13: "#GP", 14: "#PF"}
