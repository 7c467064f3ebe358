"""The input of a host under test: what a guest, and the host around it, do to one vCPU.

Every byte string is an input: records of sixteen bytes, at most eight; what is missing of the last is zero. A record
is `what`, `which`, `size`, `how`, an address of 32 bits and a value of 64, little-endian. Where `how` has bit 0, the
value is what it says; else it is built of pieces that matter: its lowest byte chooses a place, the next says whether
bit 0 is set or, from 192 on, which low bits are, and the third flips a bit from 192 on. Where `how` has bit 1, the
number of an MSR or leaf, and the address of an access, are what the address says; else `which` chooses one, of
accesses mostly a field of an area. What would hit the program that executes a sequence is moved aside.

In Linux: syzkaller's descriptions in sys/linux/dev_kvm.txt.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence

from emu import abi
from emu.conform.generate import LEAVES, MOST_OPERATIONS, MSRS, OUTSIDE, PLACES, RARE, SMALL, STORED
from emu.faults import HostError
from emu.kvm import operations
from emu.kvm.operations import ARENA_GPA, ARENA_SIZE, PAGES, RAM_SIZE, Operation

_RECORD = struct.Struct("<BBBBIQ")
RECORD_SIZE = _RECORD.size
MOST_BYTES = MOST_OPERATIONS * RECORD_SIZE
_RAW_VALUE, _RAW_ADDRESS = 1, 2
_MASK64 = (1 << 64) - 1
_WHAT = ("wrmsr", "rdmsr", "reenter", "wrmsr", "load", "store", "memory", "cpuid", "reset", "save-restore")
_ALL_MSRS = tuple(dict.fromkeys((*MSRS, *RARE)))
_SIZES = (8, 4, 2, 1)
_STEAL_FIELDS = (
    *((abi.KVM_STEAL_TIME_VERSION, 4), (abi.KVM_STEAL_TIME_STEAL, 8), (abi.KVM_STEAL_TIME_FLAGS, 4)),
    (abi.KVM_STEAL_TIME_PREEMPTED, 1),
)
# Fields of areas as they are registered most; what is stored there the host finds.
_FIELDS = tuple(
    (area + offset, size)
    for area in dict.fromkeys(one for one in PLACES[abi.MSR_KVM_STEAL_TIME])
    for offset, size in _STEAL_FIELDS
)
_LOOKED_AT = 64
_SELDOM = 192  # of a byte: from here on it says something strange
_NEAR = 4096  # so far below and above a place an area would lie in part over what is not a sequence's own


def decode(data: bytes) -> list[Operation]:
    """The operations that these bytes mean; at least one."""
    data = data[:MOST_BYTES] or bytes(1)
    return [
        _operation(*_RECORD.unpack(data[at : at + RECORD_SIZE].ljust(RECORD_SIZE, b"\0")))
        for at in range(0, len(data), RECORD_SIZE)
    ]


def encode(sequence: Sequence[Operation]) -> bytes:
    """Bytes that mean this. Raises HostError where none do, as for an access to what is not a sequence's own."""
    found = b"".join(map(_record, sequence[:MOST_OPERATIONS]))
    if len(sequence) > MOST_OPERATIONS or not sequence or decode(found) != list(sequence):
        places = f"{ARENA_GPA:#x} to {ARENA_GPA + ARENA_SIZE:#x}"
        raise HostError("no input means this sequence", remedy=f"1 to {MOST_OPERATIONS} operations, within {places}")
    return found


def _operation(what: int, which: int, size: int, how: int, address: int, value: int) -> Operation:
    name = _WHAT[what % len(_WHAT)]
    if name in ("rdmsr", "wrmsr"):
        msr = address if how & _RAW_ADDRESS else _ALL_MSRS[which % len(_ALL_MSRS)]
        if name == "rdmsr":
            return operations.Rdmsr(_own_msr(msr))
        return operations.Wrmsr(_own_msr(msr), _own_area(value if how & _RAW_VALUE else _built(msr, value)))
    if name == "cpuid":
        leaf = address if how & _RAW_ADDRESS else LEAVES[which % len(LEAVES)]
        return operations.Cpuid(leaf if leaf in LEAVES else LEAVES[leaf % len(LEAVES)], value & 1)
    if name == "reenter":
        return operations.Reenter()
    if name == "reset":
        return operations.Reset()
    if name == "save-restore":
        return operations.SaveRestore()
    if name == "memory":
        return operations.Memory(ARENA_GPA + address % (ARENA_SIZE - _LOOKED_AT + 1), _LOOKED_AT)
    length = _SIZES[size % len(_SIZES)]
    gpa = address if how & _RAW_ADDRESS else ARENA_GPA + which * 4
    if not how & _RAW_ADDRESS and which < 4 * len(_FIELDS):
        gpa, length = _FIELDS[which % len(_FIELDS)]
    gpa = _own_place(gpa, length)
    if name == "load":
        return operations.Load(gpa, length)
    stored = value if how & _RAW_VALUE else STORED[value % len(STORED)]
    return operations.Store(gpa, stored % (1 << 8 * length), length)


def _record(one: Operation) -> bytes:
    raw = _RAW_VALUE | _RAW_ADDRESS
    if isinstance(one, operations.Wrmsr):
        return _RECORD.pack(0, 0, 0, raw, one.msr, one.value)
    if isinstance(one, operations.Rdmsr):
        return _RECORD.pack(1, 0, 0, raw, one.msr, 0)
    if isinstance(one, operations.Load | operations.Store):
        size = _SIZES.index(one.size)
        if isinstance(one, operations.Load):
            return _RECORD.pack(4, 0, size, raw, one.gpa & 0xFFFFFFFF, 0)
        return _RECORD.pack(5, 0, size, raw, one.gpa & 0xFFFFFFFF, one.value)
    if isinstance(one, operations.Memory):
        return _RECORD.pack(6, 0, 0, 0, max(one.gpa - ARENA_GPA, 0), 0)
    if isinstance(one, operations.Cpuid):
        return _RECORD.pack(7, 0, 0, raw, one.leaf, one.subleaf)
    what = {operations.Reenter: 2, operations.Reset: 8, operations.SaveRestore: 9}[type(one)]
    return _RECORD.pack(what, 0, 0, 0, 0, 0)


def _built(msr: int, value: int) -> int:
    """A value of pieces: a place for such an area, or a number that matters; low bits; one bit flipped."""
    places = (*PLACES.get(msr, ()), *SMALL, *OUTSIDE)
    low, flip = value >> 8 & 0xFF, value >> 16 & 0xFF
    found = places[(value & 0xFF) % len(places)] | (low if low >= _SELDOM else (1, 1, 1, 0)[low % 4])
    return found ^ (1 << flip - _SELDOM) if flip >= _SELDOM else found


def _own_msr(msr: int) -> int:
    """An MSR that is KVM's, or of nobody: others belong to who executes the sequence."""
    return msr if msr in _ALL_MSRS else _ALL_MSRS[msr % len(_ALL_MSRS)]


def _own_area(value: int) -> int:
    """A value whose area, if it is one, does not lie over what is not a sequence's own."""
    if value >= RAM_SIZE + _NEAR or value < 256:  # no RAM, or the first page, which is; so are small numbers
        return value
    for gpa, size in PAGES:
        if gpa <= value <= gpa + size - 1:
            return value
    return ARENA_GPA + value % ARENA_SIZE


def _own_place(gpa: int, size: int) -> int:
    if any(first <= gpa <= first + length - size for first, length in PAGES):
        return gpa
    if gpa == RAM_SIZE + abi.LARGE_PAGE_SIZE:  # nothing is mapped there
        return gpa
    return ARENA_GPA + gpa % (ARENA_SIZE - 8)


def short_sequences() -> Iterator[tuple[str, int, Iterator[list[Operation]]]]:
    """Families of short sequences that are gone through completely, most of them about steal time: name, size,
    sequences."""
    letters = alphabet()
    every = [operations.Cpuid(leaf) for leaf in LEAVES] + [
        one for msr in _ALL_MSRS for one in (operations.Rdmsr(msr), operations.Wrmsr(msr, 1), operations.Wrmsr(msr, 2))
    ]
    yield "one operation", len(every), ([one] for one in every)
    read_back: list[list[Operation]] = [
        [operations.Wrmsr(msr, value), operations.Rdmsr(msr)] for msr in _ALL_MSRS for value in _telling(msr)
    ]
    yield "a value written and read back", len(read_back), iter(read_back)
    for length in (1, 2, 3):
        sequences = (list(some) for some in itertools.product(letters, repeat=length))
        number = ("one operation", "two operations", "three operations")[length - 1]
        yield f"{number} on steal time", len(letters) ** length, sequences


def _telling(msr: int) -> list[int]:
    """Values for an MSR: each place and number that matters, with each way to switch it on."""
    places, ways = (*PLACES.get(msr, ()), *SMALL, *OUTSIDE), (0, 1, abi.KVM_ASYNC_PF_DELIVERY_AS_INT | 1)
    return list(dict.fromkeys(_own_area(place | way) for place in places for way in ways))


def alphabet() -> list[Operation]:
    """The operations that tell most about a steal-time device."""
    area, other = ARENA_GPA, ARENA_GPA + abi.KVM_STEAL_TIME_SIZE
    steal = abi.MSR_KVM_STEAL_TIME
    version, told = area + abi.KVM_STEAL_TIME_VERSION, area + abi.KVM_STEAL_TIME_STEAL
    return [
        *(operations.Wrmsr(steal, value) for value in (area | 1, other | 1, area, area | 2, 1 << 52 | 1, 1, 0)),
        operations.Rdmsr(steal),
        *(operations.Store(version, value, 4) for value in (1, 0xFFFFFFFE, 0xFFFFFFFF)),
        operations.Store(told, _MASK64, 8),
        operations.Store(area + abi.KVM_STEAL_TIME_PREEMPTED, 1, 1),
        operations.Store(area + abi.KVM_STEAL_TIME_FLAGS, 7, 4),
        *(operations.Reenter(), operations.Reset(), operations.SaveRestore()),
    ]
