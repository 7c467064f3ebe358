"""The shortest sequence that still fails: operations are dropped, then what is left is made simpler.

In Linux: no counterpart; syzkaller's prog/minimization.go does the same to programs of system calls.
"""

from collections.abc import Callable, Iterator, Sequence

from emu.kvm import operations
from emu.kvm.operations import ARENA_GPA, Operation

Fails = Callable[[list[Operation]], bool]
_SIMPLE = (0, 1, 2)


def shrink(sequence: Sequence[Operation], fails: Fails) -> list[Operation]:
    """A sequence that `fails` still holds of, though of none with one operation less or one number simpler.

    `fails` must hold of `sequence`; where it does not always (another process had the CPU), the result may be longer.
    """
    current = list(sequence)
    changed = True
    while changed:
        changed = False
        for candidate in _simpler(current):
            if fails(candidate):
                current, changed = candidate, True
                break
    return current


def _simpler(sequence: list[Operation]) -> Iterator[list[Operation]]:
    for width in (4, 2, 1):
        for at in range(len(sequence) - width + 1):
            if len(sequence) > width:
                yield sequence[:at] + sequence[at + width :]
    for at, operation in enumerate(sequence):
        for simpler in _simpler_operations(operation):
            yield [*sequence[:at], simpler, *sequence[at + 1 :]]


def _simpler_operations(operation: Operation) -> Iterator[Operation]:
    """Each simpler than the operation by an order that cannot go round: fewer bits set, or a smaller number."""
    if isinstance(operation, operations.SaveRestore | operations.Reset | operations.Memory):
        yield operations.Reenter()
    elif isinstance(operation, operations.Wrmsr | operations.Store):
        for value in _simpler_numbers(operation.value):
            yield operation._replace(value=value)


def _simpler_numbers(value: int) -> Iterator[int]:
    order = (value.bit_count(), value)
    candidates = [*_SIMPLE, ARENA_GPA, ARENA_GPA | 1]
    candidates += [value & ~(1 << bit) for bit in range(64) if value >> bit & 1]
    for candidate in candidates:
        if (candidate.bit_count(), candidate) < order:
            yield candidate
