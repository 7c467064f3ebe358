"""Whether what a judge found is what the specification expects: equal, but for the amounts of time.

Judges in virtual time are compared exactly but for what a clock shows. Of real KVM a thread may have been switched out
at any moment, which brings an update that no operation asked for. So where switches were counted, a version may be
ahead by a multiple of 2, and a steal by what run delay has grown. Where none was counted there is no such slack.
"""

from collections.abc import Sequence
from typing import NamedTuple

from emu.conform.expect import Expected, Observed, Read
from emu.conform.model import CLOCK_VERSION, PREEMPTED, STEAL, VERSION
from emu.kvm import operations
from emu.kvm.operations import Content, Leaf, Operation, Outcome, Value

_MOST_UPDATES = 4096  # in one sequence: a version that is further ahead was not counted up


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
    sequence: Sequence[Operation], expected: Sequence[Expected], observed: Observed, slack: Slack = EXACT
) -> Difference | None:
    """The first difference between a judge and all of `expected`, or None. Each field may agree with any of them."""
    for at, (operation, outcome) in enumerate(zip(sequence, observed.outcomes, strict=True)):
        wanted = [one.outcomes[at] for one in expected]
        if not any(_agree(one, outcome, wanted, slack) for one in wanted):
            return Difference(at, _named(operation), " or ".join(dict.fromkeys(map(format_outcome, wanted))), format_outcome(outcome))
    for page, (gpa, _) in enumerate(operations.PAGES):
        reads = [one.memory[page] for one in expected]
        place = _differs(reads, observed.memory[page], slack)
        if place is not None:
            at = place - gpa
            wanted_bytes = " or ".join(dict.fromkeys(read.data[at : at + 8].hex(" ") for read in reads))
            return Difference(None, f"memory at {place:#x}", wanted_bytes, observed.memory[page][at : at + 8].hex(" "))
    return None


def _agree(wanted: Outcome | Read | None, found: Outcome, all_wanted: list[Outcome | Read | None], slack: Slack) -> bool:
    if wanted is None:
        return True
    if not isinstance(wanted, Read):
        return wanted == found
    if isinstance(found, Value):
        data = found.value.to_bytes(8, "little")[: len(wanted.data)]
        if found.value >> 8 * len(wanted.data):
            return False
    elif isinstance(found, Content):
        data = found.data
    else:
        return False
    return _differs([one for one in all_wanted if isinstance(one, Read)], data, slack) is None


def _differs(wanted: list[Read], data: bytes, slack: Slack) -> int | None:
    """The address of the first byte that agrees with none of what is wanted."""
    if any(read.data == data for read in wanted):
        return None
    gpa = wanted[0].gpa
    checked: set[tuple[str, int]] = set()
    unequal = int.from_bytes(data, "little") ^ int.from_bytes(wanted[0].data, "little")
    while unequal:
        at = (unequal & -unequal).bit_length() - 1 >> 3
        unequal &= ~(0xFF << 8 * at)
        fields = {read.kinds.get(gpa + at) for read in wanted}
        if fields <= checked:
            continue
        if not any(_byte_agrees(read, at, data, slack) for read in wanted):
            return gpa + at
        checked |= {field for field in fields if field is not None}
    return None


def _byte_agrees(read: Read, at: int, data: bytes, slack: Slack) -> bool:
    if read.data[at] == data[at] and read.kinds.get(read.gpa + at) is None:
        return True
    kind, field = read.kinds.get(read.gpa + at, (None, 0))
    if kind is None:
        return False
    start = field - read.gpa
    if kind == PREEMPTED:
        return data[at] in (0, read.data[at])
    if kind == STEAL:
        whole = 0 <= start <= len(data) - 8
        grown = (_number(data, start, 8) - _number(read.data, start, 8)) % (1 << 64) if whole else 0
        return not whole and slack != EXACT or whole and grown <= slack.steal_ns
    if kind in (VERSION, CLOCK_VERSION):
        if not 0 <= start <= len(data) - 4:
            return slack != EXACT
        updates = slack.updates if kind == VERSION else slack.clock_updates
        return _version_agrees(_number(read.data, start, 4), _number(data, start, 4), updates)
    return True


def _version_agrees(wanted: int, found: int, more_updates: int) -> bool:
    ahead = (found - wanted - (wanted & 1)) % (1 << 32)
    return wanted == found or ahead % 2 == 0 and 2 <= ahead <= 2 * min(more_updates, _MOST_UPDATES)


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _named(operation: Operation) -> str:
    from emu.conform.text import format_operation

    return format_operation(operation)


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
