"""The input of a guest under test: what the host does to it, and before which of the guest's accesses to its area.

Every byte string is an input. Four bytes begin it: the version and the steal that are published first, and two that
are free. Then come records of six bytes, at most 64: a kind, a gap, and 32 bits of argument, little-endian; what is
missing of the last is zero. A gap of less than 192 counts as many accesses of the guest to its area, a larger one
2^(gap - 192) of them, at most 2^20. The kinds that there are depend on the class of the host:

`honest` keeps the protocol as KVM does. `odd` keeps it too, in ways KVM never would: versions about to wrap, steal at
the borders of its halves, the other fields full of something. `hostile` keeps nothing.

Besides its area a guest depends on answers, on time, on interrupts and on other structures. What is done to those are
*events*, with kinds of their own, in groups; a target says which groups it is to survive, and others are nothing to it.
Of the guest's exits, those for CPUID, MSRs, the time and hypercalls count as accesses too.

In Linux: record_steal_time() in arch/x86/kvm/x86.c is the honest host.
"""

import re
import struct
from typing import NamedTuple

from emu.faults import HostError

HONEST, ODD_HOST, HOSTILE = "honest", "odd", "hostile"
HOSTS = (HONEST, ODD_HOST, HOSTILE)
MOST_RECORDS = 64
_HEADER, _RECORD = struct.Struct("<BBH"), struct.Struct("<BBI")
HEADER_SIZE, RECORD_SIZE = _HEADER.size, _RECORD.size
MOST_BYTES = HEADER_SIZE + MOST_RECORDS * RECORD_SIZE
_LITERAL_GAPS, _LONGEST_GAP = 192, 1 << 20

UPDATE, STEP, BURST, HALVES = "update", "step", "burst", "halves"
TO_BORDER, WRAP, PREEMPTED, PAD = "to-border", "wrap", "preempted", "pad"
BACK, FLIP, STUCK, ZERO, RAW = "back", "flip-version", "stuck", "zero", "raw"
_HONEST = (UPDATE, STEP, BURST, HALVES)
_ODD = (TO_BORDER, WRAP, PREEMPTED, PAD)
_HOSTILE = (BACK, FLIP, STUCK, ZERO, RAW)
KINDS = {HONEST: _HONEST, ODD_HOST: _HONEST + _ODD, HOSTILE: _HONEST + _ODD + _HOSTILE}
AHEAD, BACK_IN_TIME, INTERRUPT, ELSEWHERE = "ahead", "back-in-time", "interrupt", "elsewhere"
REFUSE, HIDE, ANSWER, LEAF = "refuse", "hide", "answer", "leaf"
EVENTS = (AHEAD, BACK_IN_TIME, INTERRUPT, ELSEWHERE, REFUSE, HIDE, ANSWER, LEAF)
GROUPS = {
    "time": (AHEAD, BACK_IN_TIME),
    "interrupts": (INTERRUPT,),
    "structures": (ELSEWHERE,),
    "answers": (REFUSE, HIDE, ANSWER, LEAF),
}
LIES = frozenset((BACK_IN_TIME, ELSEWHERE, ANSWER, LEAF))  # what a hostile host alone does
_FIRST_EVENT = 224  # a byte from here on is the kind of an event
MEANS = {
    UPDATE: "a whole update that adds to steal",
    STEP: "the next store of an update: `odd`, `steal`, `even`; the first of one adds to steal",
    BURST: "so many whole updates as the lowest byte of the argument says, and one; from 128 on: 127, 128, 255 or 256",
    HALVES: "as step, of an update that stores steal in two halves",
    TO_BORDER: "an update with which steal crosses 2^32, 2^63 or another border of the kind",
    WRAP: "so many updates that version comes to where its lowest byte, or two, begin anew",
    PREEMPTED: "the byte that says that the vCPU is preempted is written",
    PAD: "a byte of the structure that means nothing is written",
    BACK: "an update that takes away from steal",
    FLIP: "bits of version are flipped",
    STUCK: "an update begins, and the host never goes on",
    ZERO: "all of the area is zeroed",
    RAW: "one byte anywhere in the area is written",
    AHEAD: "the TSC jumps ahead, by the argument times 4096",
    BACK_IN_TIME: "the TSC jumps back by as much; a hostile host's",
    INTERRUPT: "one of the interrupts arrives for which the guest has a handler",
    ELSEWHERE: "a byte of another structure that is registered is written; a hostile host's",
    REFUSE: "the next RDMSR (argument even) or WRMSR (odd) raises #GP",
    HIDE: "the next CPUID tells less: a register, 0 to 3, without the bits of the upper 30, or without any",
    ANSWER: "the next RDMSR answers with bits turned over; a hostile host's",
    LEAF: "the next CPUID answers with bits of one register turned over; a hostile host's",
}
_VERSIONS = (2, 0, 0xFC, 0xFE, 0xFFFE, 0x7FFFFFFE, 0xFFFFFFFC, 0xFFFFFFFE)
_STEALS = (0, 1, (1 << 32) - 1, 1 << 32, (1 << 33) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - (1 << 40))
_TEXT = re.compile(r"\s*after\s+(\d+)\s+([a-z-]+)\s+(0x[0-9a-f]+|\d+)\s*", re.ASCII)
_START = re.compile(r"\s*start\s+version\s+(\d+)\s+steal\s+(\d+)\s*", re.ASCII)


class Record(NamedTuple):
    """Before the access that comes `gap` accesses after the last record's, the host does `kind` with `argument`."""

    kind: str
    gap: int
    argument: int


class Input(NamedTuple):
    """What a host of the class `host` does: it publishes `version` and `steal`, and then goes by the records."""

    host: str
    version: int
    steal: int
    records: tuple[Record, ...]


def decode(data: bytes, host: str) -> Input:
    """What these bytes mean to a host of that class. Every byte string means something."""
    version, steal, _ = _HEADER.unpack(data[:HEADER_SIZE].ljust(HEADER_SIZE, b"\0"))
    if host == HONEST:
        version, steal = 0, 0
    kinds = KINDS[host]
    found = []
    for at in range(HEADER_SIZE, min(len(data), MOST_BYTES), RECORD_SIZE):
        kind, gap, argument = _RECORD.unpack(data[at : at + RECORD_SIZE].ljust(RECORD_SIZE, b"\0"))
        name = kinds[kind % len(kinds)] if kind < _FIRST_EVENT else EVENTS[kind % len(EVENTS)]
        found.append(Record(name, _gap(gap), argument))
    return Input(host, _VERSIONS[version % len(_VERSIONS)], _STEALS[steal % len(_STEALS)], tuple(found))


def encode(given: Input) -> bytes:
    """Bytes that mean this. Raises HostError where none do."""
    if given.version not in _VERSIONS or given.steal not in _STEALS or len(given.records) > MOST_RECORDS:
        raise HostError(
            "no input means this", remedy=f"versions: {_VERSIONS}, steals: {_STEALS}, at most {MOST_RECORDS} records"
        )
    found = [_HEADER.pack(_VERSIONS.index(given.version), _STEALS.index(given.steal), 0)]
    kinds = KINDS[given.host]
    for one in given.records:
        if one.kind not in kinds and one.kind not in EVENTS:
            known = ", ".join((*kinds, *EVENTS))
            raise HostError(f"a host that is {given.host} does no {one.kind!r}", remedy=f"it does {known}")
        kind = kinds.index(one.kind) if one.kind in kinds else _FIRST_EVENT + EVENTS.index(one.kind)
        found.append(_RECORD.pack(kind, _gap_byte(one.gap), one.argument))
    return b"".join(found)


def has_events(data: bytes) -> bool:
    """Whether there are events in what these bytes mean."""
    return max(data[HEADER_SIZE:MOST_BYTES:RECORD_SIZE], default=0) >= _FIRST_EVENT


def _gap(byte: int) -> int:
    return byte if byte < _LITERAL_GAPS else min(1 << byte - _LITERAL_GAPS, _LONGEST_GAP)


def _gap_byte(gap: int) -> int:
    if gap < _LITERAL_GAPS:
        return gap
    byte = _LITERAL_GAPS + gap.bit_length() - 1
    if _gap(min(byte, 255)) != gap:
        raise HostError(f"a gap of {gap} cannot be said", remedy="below 192, or a power of two up to 2^20")
    return byte


def to_text(given: Input) -> str:
    """Lines that `from_text` reads back."""
    lines = [f"host {given.host}", f"start version {given.version} steal {given.steal}"]
    lines += [f"after {one.gap} {one.kind} {one.argument:#x}" for one in given.records]
    return "\n".join(lines) + "\n"


def from_text(text: str, where: str) -> Input:
    """An input from its lines; `#` begins a remark. Raises HostError, naming the line, for anything else."""
    host, version, steal, records = "", _VERSIONS[0], _STEALS[0], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        place = f"{where}:{number}"
        if not words:
            continue
        if words.startswith("host "):
            host = words.removeprefix("host ").strip()
            if host not in HOSTS:
                raise HostError(f"there is no host {host!r}", place, f"it is one of {', '.join(HOSTS)}")
        elif found := _START.fullmatch(words):
            version, steal = int(found[1]), int(found[2])
        elif found := _TEXT.fullmatch(words):
            argument = int(found[3], 0)
            if argument >> 32:
                raise HostError(f"{found[3]} does not fit into 32 bits", place)
            records.append(Record(found[2], int(found[1]), argument))
        else:
            raise HostError(f"{words[:60]!r} is no line of an input", place, "write such as: after 3 step 0x10")
    if not host:
        raise HostError("the class of the host is missing", where, f"begin with: host {ODD_HOST}")
    given = Input(host, version, steal, tuple(records))
    try:
        encode(given)
    except HostError as error:
        raise HostError(error.message, where, error.remedy) from None
    return given
