"""The shortest input that still fails in the same way: records are dropped, then what is left is made simpler.

In Linux: prog/minimization.go of syzkaller does the same to programs of system calls.
"""

from collections.abc import Callable, Iterator

from emu.fuzz.records import Input, Record

Fails = Callable[[Input], bool]
MOST_TRIES = 4000
_SIMPLE = (0, 1, 2, 3)


def shrink(given: Input, fails: Fails) -> Input:
    """An input of which `fails` still holds, though of none with a record less or one thing simpler.

    `fails` must hold of `given`. After MOST_TRIES it is what has been found by then.
    """
    tries = 0
    changed = True
    while changed:
        changed = False
        for candidate in _simpler(given):
            tries += 1
            if tries > MOST_TRIES:
                return given
            if fails(candidate):
                given, changed = candidate, True
                break
    return given


def _simpler(given: Input) -> Iterator[Input]:
    records = given.records
    for width in (16, 4, 1):
        for at in range(len(records) - width + 1):
            left = records[at + width :]
            if left:
                # What follows stays where it was.
                gap = sum(one.gap for one in records[at : at + width]) + left[0].gap
                kept = (left[0]._replace(gap=gap), *left[1:]) if gap < 192 else left
                yield given._replace(records=(*records[:at], *kept))
            yield given._replace(records=(*records[:at], *left))
    if given.version != 2:
        yield given._replace(version=2)
    if given.steal:
        yield given._replace(steal=0)
    for at, one in enumerate(records):
        for simpler in _simpler_records(one):
            yield given._replace(records=(*records[:at], simpler, *records[at + 1 :]))


def _simpler_records(one: Record) -> Iterator[Record]:
    for argument in (*_SIMPLE, one.argument >> 16, one.argument & 0xFF, one.argument >> 1):
        if argument < one.argument:
            yield one._replace(argument=argument)
    for gap in (0, 1, one.gap // 2, one.gap - 1):
        if 0 <= gap < min(one.gap, 193):
            yield one._replace(gap=gap)
