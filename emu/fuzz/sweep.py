"""Every short schedule, before anything is left to chance.

In Linux: nothing like it; SPIN does the same to models.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

from emu.fuzz import records
from emu.fuzz.records import Input, Record

MOST = 60_000
_MOST_PLACES = 32  # of an event: each costs an execution with the whole machine
_BOTH_HALVES = 3  # an argument by which steal grows in both of its halves
_ARGUMENTS = {
    records.UPDATE: (0, _BOTH_HALVES),
    records.BURST: (1, *(_BOTH_HALVES << 8 | low for low in (126, 127))),
    records.TO_BORDER: (0, 1, 2, 3),
    records.WRAP: (0, 1, _BOTH_HALVES << 8, _BOTH_HALVES << 8 | 1),
    records.PREEMPTED: (1, 0xFF),
    records.PAD: (0xFF,),
    records.BACK: (0, 1 << 31),
    records.FLIP: (1, 2, 3, 0xFFFFFFFF),
    records.RAW: tuple(offset << 8 | 0xFF for offset in range(13)),
}
_EVENTS = {
    records.AHEAD: (0, 1 << 20, 0xFFFFFFFF),
    records.BACK_IN_TIME: (0, 1 << 20, 0xFFFFFFFF),
    records.INTERRUPT: (0, 1, 2, 3),
    records.ELSEWHERE: tuple(
        at << 16 | value << 8 | which for which in range(2) for at in range(32) for value in (0, 0xFF)
    ),
    records.REFUSE: (0, 1),
    records.HIDE: (0, 1, 2, 3, *(4 << bit for bit in range(8))),
    records.ANSWER: (1, 0xFFFFFFFF),
    records.LEAF: tuple(1 << bit | register for bit in (2, 5, 31) for register in range(4)),
}
_STARTS = ((2, 0), (0xFFFFFFFE, 0), (2, (1 << 32) - 1), (0xFE, 1 << 32))


class Family(NamedTuple):
    """A set of schedules that is gone through completely, and how many there are."""

    name: str
    size: int
    inputs: Iterator[Input]


def families(host: str, accesses: int, events: frozenset[str] = frozenset()) -> list[Family]:
    """Families of schedules for a guest that touches its area `accesses` times, smallest first; `events` are the kinds
    of events that its host does.

    One that would make them more than MOST all together is left out, and so are those after it.
    """
    points = range(accesses + 2)
    starts = _STARTS if host != records.HONEST else _STARTS[:1]
    found: list[Family] = []
    one = first_steps(host)
    _add(found, "no step of the host", len(starts), (Input(host, *start, ()) for start in starts))
    happening = [step for step in first_steps(host, events) if step not in one]
    if happening:
        few = range(min(accesses, _MOST_PLACES) + 1)
        _add(
            *(found, "one event, anywhere", len(few) * len(happening)),
            (Input(host, 2, 0, (Record(kind, at, argument),)) for at in few for kind, argument in happening),
        )
    _add(
        *(found, "one step of the host, anywhere", len(starts) * len(points) * len(one)),
        (
            Input(host, *start, (Record(kind, at, argument),))
            for start in starts
            for at in points
            for kind, argument in one
        ),
    )
    before = _before()
    _add(
        *(found, "1, 127 or 128 updates, and then one in two parts", len(before) * len(points) ** 2 * 6),
        (
            Input(host, 2, 0, (Record(kind, at, argument), *parts))
            for kind, argument in before
            for at in points
            for parts in in_parts(points)
        ),
    )
    for kind, stores in ((records.STEP, 3), (records.HALVES, 4)):
        _add(
            *(found, f"one update, {stores} stores, each anywhere", _multisets(len(points), stores)),
            (
                Input(host, 2, 0, _spread(kind, places))
                for places in combinations_with_replacement(points, stores)
            ),
        )  # fmt: skip
    _add(
        *(found, "two steps of the host, anywhere", (len(points) * len(one)) ** 2),
        (
            Input(host, 2, 0, (Record(first, at, argument), Record(second, after, another)))
            for at in points
            for first, argument in one
            for after in points
            for second, another in one
        ),
    )
    return found


def first_steps(host: str, events: frozenset[str] = frozenset()) -> list[tuple[str, int]]:
    """What a host of this class is made to do first: kinds of records with the arguments that tell most."""
    found = [(kind, argument) for kind in records.KINDS[host] for argument in _ARGUMENTS.get(kind, (_BOTH_HALVES,))]
    return found + [(kind, argument) for kind in records.EVENTS if kind in events for argument in _EVENTS[kind]]


def in_parts(gaps: Iterable[int]) -> Iterator[tuple[Record, ...]]:
    """One update in two parts, the first after one of so many accesses."""
    return (_parts(gap, count, later) for gap in gaps for count in (1, 2, 3) for later in (1, 2))


def _before() -> list[tuple[str, int]]:
    """What may come before one in parts. 127 updates and one more make the lowest byte of version what it was."""
    bursts = [(records.BURST, _BOTH_HALVES << 8 | times - 1) for times in (127, 128)]
    return [(records.UPDATE, _BOTH_HALVES), *bursts]


def _add(found: list[Family], name: str, count: int, inputs: Iterator[Input]) -> None:
    if sum(one.size for one in found) + count <= MOST:
        found.append(Family(name, count, inputs))


def _parts(gap: int, count: int, later: int) -> tuple[Record, ...]:
    """The first `count` stores of an update, and the others so many accesses later."""
    gaps = [0] * 4
    gaps[0], gaps[count] = gap, later
    return tuple(Record(records.HALVES, one, _BOTH_HALVES) for one in gaps)


def _spread(kind: str, places: tuple[int, ...]) -> tuple[Record, ...]:
    gaps = (after - before for before, after in zip((0, *places), places, strict=False))
    return tuple(Record(kind, gap, _BOTH_HALVES) for gap in gaps)


def _multisets(size: int, count: int) -> int:
    product = 1
    for number in range(count):
        product = product * (size + number) // (number + 1)
    return product
