"""Random sequences: sequence `index` of a seed is the same on every machine and version of Python.

Values are where mistakes live: edges of RAM and pages, reserved bits, versions about to wrap. Every kind of area has
places of its own, so that two of them lie over each other seldom; none lies in the program that executes a sequence.

In Linux: tools/testing/selftests/kvm/x86/msrs_test.c walks a table of such values.
"""

import random
from collections.abc import Callable

from emu import abi
from emu.kvm import operations
from emu.kvm.operations import ARENA_GPA, ARENA_SIZE, RAM_SIZE, Operation

Draw = Callable[[int], int]

MOST_OPERATIONS = 8
# What sequences are made of, for whoever else makes some.
_LAST_PAGE = RAM_SIZE - abi.PAGE_SIZE
OUTSIDE = (RAM_SIZE, 1 << 28, 1 << abi.MAXPHYADDR, 1 << 52, 1 << 63, (1 << 64) - abi.PAGE_SIZE, (1 << 64) - 64)
_STEAL = (0, ARENA_GPA, ARENA_GPA, ARENA_GPA + 64, ARENA_GPA + 128, _LAST_PAGE + 64, RAM_SIZE - 64)
_CLOCK = (
    *(256, ARENA_GPA + 256, ARENA_GPA + 300, ARENA_GPA + 338, ARENA_GPA + 385),
    *(ARENA_GPA + abi.PAGE_SIZE - 32, ARENA_GPA + abi.PAGE_SIZE - 16, _LAST_PAGE + 512, RAM_SIZE - 96, RAM_SIZE - 16),
)
_WALL = (
    *(1024, ARENA_GPA + 1024, ARENA_GPA + 1041, ARENA_GPA + 1090, ARENA_GPA + abi.PAGE_SIZE + 1024),
    *(_LAST_PAGE + 1024, RAM_SIZE - 7, RAM_SIZE - 3, 0),
)
_OTHER = (
    0,
    2048,
    ARENA_GPA + 2048,
    ARENA_GPA + 2048 + 64,
    _LAST_PAGE + 2048,
    RAM_SIZE - 64,
    RAM_SIZE - 4,
    RAM_SIZE - 1,
)
PLACES = {
    abi.MSR_KVM_STEAL_TIME: _STEAL,
    abi.MSR_KVM_SYSTEM_TIME: _CLOCK,
    abi.MSR_KVM_SYSTEM_TIME_NEW: _CLOCK,
    abi.MSR_KVM_WALL_CLOCK: _WALL,
    abi.MSR_KVM_WALL_CLOCK_NEW: _WALL,
    abi.MSR_KVM_ASYNC_PF_EN: _OTHER,
    abi.MSR_KVM_PV_EOI_EN: _OTHER,
}
SMALL = (0, 1, 2, 3, 0x10, 0x20, 0xFF, 0x100, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)
MSRS = (
    *(abi.MSR_KVM_STEAL_TIME,) * 4,
    *(abi.MSR_KVM_SYSTEM_TIME, abi.MSR_KVM_SYSTEM_TIME_NEW, abi.MSR_KVM_WALL_CLOCK, abi.MSR_KVM_WALL_CLOCK_NEW),
    *(abi.MSR_KVM_ASYNC_PF_EN,) * 2,
    *(abi.MSR_KVM_PV_EOI_EN,) * 2,
    *(abi.MSR_KVM_POLL_CONTROL,) * 2,
    *(abi.MSR_KVM_ASYNC_PF_INT, abi.MSR_KVM_ASYNC_PF_INT, abi.MSR_KVM_ASYNC_PF_ACK),
    *(abi.MSR_KVM_MIGRATION_CONTROL,) * 2,
)
RARE = (abi.MSR_KVM_MIGRATION_CONTROL + 1, abi.MSR_KVM_WALL_CLOCK_NEW + 0xFF)
LEAVES = (
    *(abi.KVM_CPUID_SIGNATURE, abi.KVM_CPUID_SIGNATURE, abi.KVM_CPUID_FEATURES, abi.KVM_CPUID_FEATURES),
    *(abi.CPUID_FEATURES, abi.CPUID_EXTENDED_FEATURES),
)
STORED = (0, 1, 2, 3, 0xFF, 0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF, 0xA5A5A5A5, 0x5A5A5A5A5A5A5A5A, (1 << 64) - 1)
_SIZES = (1, 2, 4, 4, 4, 8, 8)
# Where a structure has a field whose old content matters to the host, or that it must leave alone: offset and size.
_STEAL_FIELDS = (
    *((abi.KVM_STEAL_TIME_VERSION, 4),) * 3,
    *((abi.KVM_STEAL_TIME_STEAL, 8), (abi.KVM_STEAL_TIME_FLAGS, 4), (abi.KVM_STEAL_TIME_PREEMPTED, 1)),
)
_CLOCK_FIELDS = (*((abi.PVCLOCK_VERSION, 4),) * 2, (abi.PVCLOCK_PAD0, 4), (abi.PVCLOCK_FLAGS + 1, 2))
_FIELDS = {
    abi.MSR_KVM_STEAL_TIME: _STEAL_FIELDS,
    abi.MSR_KVM_SYSTEM_TIME: _CLOCK_FIELDS,
    abi.MSR_KVM_SYSTEM_TIME_NEW: _CLOCK_FIELDS,
    abi.MSR_KVM_WALL_CLOCK: ((abi.PVCLOCK_WALL_CLOCK_VERSION, 4),),
    abi.MSR_KVM_WALL_CLOCK_NEW: ((abi.PVCLOCK_WALL_CLOCK_VERSION, 4),),
}


def sequence(seed: int, index: int) -> list[Operation]:
    """Sequence number `index` of `seed`: 1 to MOST_OPERATIONS operations. Only randrange() is drawn from."""
    draw = random.Random(seed << 64 | index).randrange
    made: list[Operation] = []
    written: list[int] = []
    areas = [ARENA_GPA]  # where stores and loads are worth while
    fields = [(ARENA_GPA + offset, size) for offset, size in _STEAL_FIELDS]
    length = 1 + draw(MOST_OPERATIONS)
    while len(made) < length:
        choice = draw(100)
        if choice < 38:
            msr = _msr(draw, written)
            written.append(msr)
            value = _value(draw, msr)
            areas.append(value & ~63 if msr == abi.MSR_KVM_STEAL_TIME else value & ~1)
            of_this = _fields(msr, value)
            fields += of_this
            if of_this and draw(4) == 0 and len(made) < length - 1:  # what the host will find there
                gpa, size = of_this[draw(len(of_this))]
                made.append(operations.Store(gpa, _stored(draw, size), size))
            made.append(operations.Wrmsr(msr, value))
        elif choice < 53:
            made.append(operations.Rdmsr(_msr(draw, written * 2)))
        elif choice < 73:
            gpa, size = _inside(draw, areas) if draw(3) else fields[draw(len(fields))]
            if choice < 66:
                made.append(operations.Store(gpa, _stored(draw, size), size))
            else:
                made.append(operations.Load(gpa, size))
        elif choice < 88:
            made.append(operations.Reenter())
        elif choice < 92:
            made.append(operations.Memory(*_looked_at(draw, areas)))
        elif choice < 94:
            made.append(operations.Cpuid(LEAVES[draw(len(LEAVES))], draw(2)))
        elif choice < 98:
            made.append(operations.Reset())
        else:
            made.append(operations.SaveRestore())
    return made


def _msr(draw: Draw, written: list[int]) -> int:
    """A register; likely one that was written, because a sequence that returns to one says more."""
    choice = draw(len(written) + 2)
    if choice < len(written):
        return written[choice]
    return RARE[draw(len(RARE))] if draw(40) == 0 else MSRS[draw(len(MSRS))]


def _value(draw: Draw, msr: int) -> int:
    places = PLACES.get(msr)
    if places is None:
        return draw(2) if draw(3) == 0 else SMALL[draw(len(SMALL))] if draw(8) else draw(1 << 64)
    choice = draw(16)
    if choice == 0:
        return 0
    base = OUTSIDE[draw(len(OUTSIDE))] if choice < 3 else places[draw(len(places))]
    if msr in (abi.MSR_KVM_WALL_CLOCK, abi.MSR_KVM_WALL_CLOCK_NEW):
        return base
    low = 1 << draw(6) if draw(5) == 0 else 0
    if msr == abi.MSR_KVM_ASYNC_PF_EN:
        low |= draw(16) if draw(3) else abi.KVM_ASYNC_PF_ENABLED | abi.KVM_ASYNC_PF_DELIVERY_AS_INT
    elif msr in (abi.MSR_KVM_SYSTEM_TIME, abi.MSR_KVM_SYSTEM_TIME_NEW):
        low = 0  # no bit is reserved, and an odd place has a place in the list
    return base | low | (draw(4) > 0)


def _inside(draw: Draw, areas: list[int]) -> tuple[int, int]:
    """An address and a size for a load or store: mostly in an area of this sequence, seldom outside RAM."""
    size = _SIZES[draw(len(_SIZES))]
    if draw(40) == 0:
        return RAM_SIZE + abi.LARGE_PAGE_SIZE, size
    at = areas[draw(len(areas))] + (draw(8) * 4 if draw(2) else draw(64))
    for gpa, length in operations.PAGES:
        if gpa <= at <= gpa + length - size:
            return at, size
    return ARENA_GPA + draw(128), size


def _fields(msr: int, value: int) -> list[tuple[int, int]]:
    """The fields of the structure that this WRMSR names, as far as they are a sequence's own to store into."""
    if msr == abi.MSR_KVM_STEAL_TIME:
        value &= abi.KVM_STEAL_ADDRESS_MASK
    elif msr in (abi.MSR_KVM_SYSTEM_TIME, abi.MSR_KVM_SYSTEM_TIME_NEW):
        value &= ~abi.KVM_MSR_ENABLED
    return [
        (value + offset, size)
        for offset, size in _FIELDS.get(msr, ())
        if any(gpa <= value + offset <= gpa + length - size for gpa, length in operations.PAGES)
    ]


def _looked_at(draw: Draw, areas: list[int]) -> tuple[int, int]:
    at = areas[draw(len(areas))]
    return (at, 64) if ARENA_GPA <= at <= ARENA_GPA + ARENA_SIZE - 64 else (ARENA_GPA, 64)


def _stored(draw: Draw, size: int) -> int:
    return STORED[draw(len(STORED))] % (1 << 8 * size)
