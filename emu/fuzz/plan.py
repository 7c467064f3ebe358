"""What the stores of an input are: all of them before the guest runs, since a host does not look at what guests write.

In Linux: record_steal_time() in arch/x86/kvm/x86.c for the order of an update's stores.
"""

import struct
from typing import NamedTuple

from emu import abi
from emu.fuzz import records
from emu.fuzz.records import Input, Record
from emu.vcpu.native import EVEN, ODD

_PLAY = struct.Struct("<IHBBQQ")
_STEAL, _VERSION = abi.KVM_STEAL_TIME_STEAL, abi.KVM_STEAL_TIME_VERSION
_PREEMPTED, _PAD = abi.KVM_STEAL_TIME_PREEMPTED, abi.KVM_STEAL_TIME_PREEMPTED + 1
_SIZE = abi.KVM_STEAL_TIME_SIZE
_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1
_BORDERS = (1 << 31, 1 << 32, 1 << 33, 1 << 63)
_BURSTS = (127, 128, 255, 256)  # after which the lowest byte of version is nearly what it was, or is
# Of four bytes only the version that is published first is near its end: no host makes 2^31 updates during a read.
_WRAPS = (0xFE, 0xFFFE)
MOST_PLAYS = 2048


class Store(NamedTuple):
    """The host stores `size` bytes at `offset` of the area, before the access of number `at` (0: at the beginning).

    With EVEN among `flags` it publishes `steal`, with ODD nothing is current from then on.
    """

    at: int
    offset: int
    size: int
    value: int
    flags: int = 0
    steal: int = 0

    @property
    def data(self) -> bytes:
        """The bytes stored."""
        return self.value.to_bytes(self.size, "little")


class Event(NamedTuple):
    """What the host does besides, before the access of number `at`."""

    at: int
    kind: str
    argument: int


class Plan(NamedTuple):
    """The stores, in order; whether steal `grows` all the time; whether the host `rests` with version even; events."""

    stores: tuple[Store, ...]
    grows: bool
    rests: bool
    events: tuple[Event, ...] = ()

    def packed(self) -> bytes:
        """As `emu.vcpu.bare.Bare.execute` takes them."""
        pack = _PLAY.pack
        return b"".join(
            [pack(at, offset, size, flags, value, of) for at, offset, size, value, flags, of in self.stores]
        )


def plan(given: Input) -> Plan:
    """What this host stores."""
    host = _Host(given)
    for one in given.records:
        host.at = min(host.at + one.gap, _MASK32)
        host.do(one)
        if len(host.stores) >= MOST_PLAYS:
            break
    host.settle()
    return Plan(tuple(host.stores), host.grows, _rests(host.stores), tuple(host.events))


def _rests(stores: list[Store]) -> bool:
    """Whether version is even after these."""
    area = bytearray(_SIZE)
    for one in stores:
        area[one.offset : one.offset + one.size] = one.data
    return not area[_VERSION] & 1


class _Host:
    def __init__(self, given: Input) -> None:
        self.stores: list[Store] = []
        self.at = 0
        self.grows = True
        self._steal, self._version = given.steal, given.version
        self._waiting: list[Store] = []  # of an update that was begun
        self.events: list[Event] = []
        self._store(_STEAL, 8, self._steal)
        self._store(_VERSION, 4, self._version, EVEN)

    def do(self, record: Record) -> None:
        """One record."""
        kind, argument = record.kind, record.argument
        if kind in records.EVENTS:
            self.events.append(Event(self.at, kind, argument))
        elif kind in (records.STEP, records.HALVES):
            if not self._waiting:
                self._begin(self._grown(argument), halves=kind == records.HALVES)
            self._next()
        elif kind == records.UPDATE:
            self._update(self._grown(argument))
        elif kind == records.BURST:
            times = (argument & 0xFF) + 1 if argument & 0xFF < 128 else _BURSTS[argument % len(_BURSTS)]
            self._update(min(self._steal + times * (argument >> 8), _MASK64), times)
        elif kind == records.TO_BORDER:
            border = _BORDERS[argument % len(_BORDERS)]
            self._update(max(self._steal, border if self._steal < border else self._steal))
        elif kind == records.WRAP:
            self._finish()
            wanted = _WRAPS[argument % len(_WRAPS)]
            times = ((wanted - self._version) & (wanted | 1)) // 2 + 1
            self._update(self._grown(argument >> 8), times)
        elif kind == records.PREEMPTED:
            self._store(_PREEMPTED, 1, argument & 0xFF)
        elif kind == records.PAD:
            self._store(_PAD + (argument >> 8) % (_SIZE - _PAD), 1, argument & 0xFF)
        else:
            self._hostile(kind, argument)

    def _hostile(self, kind: str, argument: int) -> None:
        if kind == records.BACK:
            self.grows = False
            self._update((self._steal - argument - 1) & _MASK64)
        elif kind == records.FLIP:
            self._version ^= argument
            self._store(_VERSION, 4, self._version, ODD if self._version & 1 else EVEN)
            self.grows = False  # a version that lies lets halves of two values through
        elif kind == records.STUCK:
            self._finish()
            self._store(_VERSION, 4, self._version | 1, ODD)
            self.grows = False
        elif kind == records.ZERO:
            self._finish()
            self.grows = self.grows and not self._steal
            self._steal = self._version = 0
            for offset in range(0, _SIZE, 8):
                self._store(offset, 8, 0, EVEN)
        else:
            offset = (argument >> 8) % _SIZE
            self._store(offset, 1, argument & 0xFF)
            self.grows = self.grows and offset >= 12

    def _grown(self, argument: int) -> int:
        """Steal with this much added: in its lower half, or in both where the argument is odd."""
        delta = argument >> 1
        return min(self._steal + (delta << 32 | delta if argument & 1 else delta), _MASK64)

    def _begin(self, steal: int, *, halves: bool) -> None:
        begun = (self._version + 1) & _MASK32
        done = (self._version + 2) & _MASK32
        stores = [Store(0, _VERSION, 4, begun, ODD)]
        if halves:
            stores += [Store(0, _STEAL, 4, steal & _MASK32), Store(0, _STEAL + 4, 4, steal >> 32)]
        else:
            stores.append(Store(0, _STEAL, 8, steal))
        self._waiting = [*stores, Store(0, _VERSION, 4, done, EVEN, steal)]
        self._version, self._steal = done, steal

    def _next(self) -> None:
        self.stores.append(self._waiting.pop(0)._replace(at=self.at))

    def _finish(self) -> None:
        while self._waiting:
            self._next()

    def _update(self, steal: int, times: int = 1) -> None:
        """Whole updates at one moment: nobody sees but the last."""
        self._finish()
        self._version = (self._version + 2 * times) & _MASK32
        self._steal = steal
        self._store(_STEAL, 8, steal)
        self._store(_VERSION, 4, self._version, EVEN)

    def _store(self, offset: int, size: int, value: int, flags: int = 0) -> None:
        self.stores.append(Store(self.at, offset, size, value, flags, self._steal if flags & EVEN else 0))

    def settle(self) -> None:
        """An update that was begun is finished, a store at an access."""
        while self._waiting:
            self.at += 1
            self._next()
