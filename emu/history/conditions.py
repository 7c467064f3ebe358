"""Where to stop: what must be met at a position of a run, and how it is noticed while the run goes by.

A condition that can be noticed costs a call into Python where it is met and nothing elsewhere: hooks on addresses and
on ranges of memory, the host's own stores, the events. One that cannot is looked at after each unit of the run.

In Linux: hw_breakpoint of kernel/events/hw_breakpoint.c offers addresses and memory, a tracepoint's filter the events.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from emu import abi, trace
from emu.devices.steal_time import StealTime
from emu.faults import HostError
from emu.machine import Machine
from emu.trace import Event
from emu.vcpu.watch import Access, Watch

Hit = Callable[[int], None]
EventSink = Callable[[Event], None]


class Noticed(Protocol):
    """A condition that tells of itself: within `watching`, `hit` is called with each position at which it is met."""

    def watching(self, machine: Machine, hit: Hit) -> contextlib.AbstractContextManager[EventSink | None]: ...


class At(NamedTuple):
    """A vCPU is about to execute the instruction at one of these linear addresses; `vcpu` alone where it is named."""

    addresses: tuple[int, ...]
    vcpu: int | None = None

    @contextlib.contextmanager
    def watching(self, machine: Machine, hit: Hit) -> Iterator[EventSink | None]:
        wanted = frozenset(self.addresses)

        def executed(linear: int) -> None:
            if linear in wanted and _is(machine, self.vcpu):
                hit(machine.arriving() - 1)

        watch = Watch(machine.engine, code=[(one, one) for one in wanted], executed=executed)
        try:
            yield None
        finally:
            watch.close()


class Changes(NamedTuple):
    """`size` bytes at a linear address, or a `physical` one, have changed, by a guest's store or by the host's;
    `wanted` judges the new ones.

    Which memory a linear address means is looked up once, by the vCPU whose turn it is, when watching begins; whoever
    stores there is noticed, by whatever address.
    """

    address: int
    size: int
    wanted: Callable[[int], bool] = lambda value: True
    physical: bool = False

    @contextlib.contextmanager
    def watching(self, machine: Machine, hit: Hit) -> Iterator[EventSink | None]:
        places = self._places(machine)
        last = _content(machine, places)

        def became(content: bytes) -> None:
            nonlocal last
            if content != last:
                last = content
                if self.wanted(int.from_bytes(content, "little")):
                    hit(machine.arriving())

        def accessed(access: Access) -> None:
            data, now, done = access.value.to_bytes(access.size, "little"), bytearray(last), 0
            for gpa, size in places:
                first, end = max(access.gpa, gpa), min(access.gpa + access.size, gpa + size)
                if first < end:
                    now[done + first - gpa : done + end - gpa] = data[first - access.gpa : end - access.gpa]
                done += size
            became(bytes(now))

        def stored(at: int, length: int) -> None:
            if any(at < gpa + size and gpa < at + length for gpa, size in places):
                became(_content(machine, places))

        watch = Watch(machine.engine, writes=_ranges(places), accessed=accessed)
        machine.ram.on_write(stored)
        try:
            yield None
        finally:
            machine.ram.no_longer(stored)
            watch.close()

    def value(self, machine: Machine) -> int:
        """What is there now."""
        return int.from_bytes(_content(machine, self._places(machine)), "little")

    def _places(self, machine: Machine) -> list[tuple[int, int]]:
        found = [(self.address, self.size)] if self.physical else _mapped(machine, self.address, self.size)
        if not found or not all(machine.ram.holds(*one) for one in found):
            raise HostError(f"there is no memory at {self.address:#x} to watch", remedy="name one that is mapped")
        return found


class Touches(NamedTuple):
    """A guest's load from one of these ranges (address, size) comes next; addresses as for Changes."""

    ranges: tuple[tuple[int, int], ...]
    physical: bool = False

    @contextlib.contextmanager
    def watching(self, machine: Machine, hit: Hit) -> Iterator[EventSink | None]:
        places = list(self.ranges)
        if not self.physical:
            places = [place for one in self.ranges for place in _mapped(machine, *one)]
        watch = Watch(machine.engine, reads=_ranges(places), accessed=lambda access: hit(machine.arriving() - 1))
        try:
            yield None
        finally:
            watch.close()


def _mapped(machine: Machine, address: int, size: int) -> list[tuple[int, int]]:
    """Where these bytes are in memory: (guest-physical address, size); nothing where one page is not mapped now."""
    found = (machine.acting or machine.packages[0]).vcpu.mapped(address, size)
    return found if sum(length for _, length in found) == size else []


def _ranges(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(gpa, gpa + size - 1) for gpa, size in places]


def _content(machine: Machine, places: list[tuple[int, int]]) -> bytes:
    return b"".join([machine.ram.read(*one) for one in places])


class AnyOf(NamedTuple):
    """One of these is met."""

    conditions: tuple[Noticed, ...]

    @contextlib.contextmanager
    def watching(self, machine: Machine, hit: Hit) -> Iterator[EventSink | None]:
        with contextlib.ExitStack() as stack:
            sinks = [stack.enter_context(one.watching(machine, hit)) for one in self.conditions]
            listening = [sink for sink in sinks if sink is not None]

            def sink(event: Event) -> None:
                for one in listening:
                    one(event)

            yield sink


class Before(NamedTuple):
    """This is met with what happens next."""

    condition: Noticed

    @contextlib.contextmanager
    def watching(self, machine: Machine, hit: Hit) -> Iterator[EventSink | None]:
        with self.condition.watching(machine, lambda position: hit(position - 1)) as sink:
            yield sink


def version_parity(machine: Machine, odd: bool, vcpu: int = 0) -> Changes:
    """The version of this vCPU's steal-time area becomes odd, or even, whoever writes it. Raises HostError where there
    is no area now."""
    steal: StealTime | None = machine.packages[vcpu].steal
    if steal is None or not steal.enabled:
        raise HostError(f"vCPU {vcpu} has no steal-time area yet", remedy="run to where it registers one")
    place = steal.area_gpa + abi.KVM_STEAL_TIME_VERSION
    return Changes(place, 4, lambda value: value % 2 == odd, physical=True)


class Happens(NamedTuple):
    """An event of the trace for which `wanted` is true."""

    wanted: Callable[[Event], bool]

    @contextlib.contextmanager
    def watching(self, machine: Machine, hit: Hit) -> Iterator[EventSink | None]:
        def sink(event: Event) -> None:
            if self.wanted(event):
                hit(machine.arriving())

        yield sink


def happens(kind: str, **fields: Any) -> Happens:
    """An event of this kind, such as `wrmsr`, with these values. Raises HostError where there is no such kind."""
    types: dict[str, Any] = {name: one for one, name in trace.NAMES.items()}
    if kind not in types:
        raise HostError(f"there is no event {kind!r}", remedy=f"known are {', '.join(types)}")
    unknown = [name for name in fields if name not in types[kind]._fields]
    if unknown:
        raise HostError(f"an event {kind} has no {unknown[0]!r}", remedy=f"it has {', '.join(types[kind]._fields)}")
    return Happens(
        lambda event: type(event) is types[kind] and all(getattr(event, key) == value for key, value in fields.items())
    )


class Register(NamedTuple):
    """A general register, RIP or RFLAGS of a vCPU has changed, and to `to` where that is given."""

    name: str
    vcpu: int = 0
    to: int | None = None

    def value(self, machine: Machine) -> int:
        vcpu = machine.packages[self.vcpu].vcpu
        return vcpu.rip if self.name == "rip" else vcpu.general(self.name)

    def wanted(self, value: int) -> bool:
        return self.to is None or value == self.to


class Instructions(NamedTuple):
    """So many units of guest work have been done, of all vCPUs together."""

    total: int


Condition = Noticed | Register | Instructions


def _is(machine: Machine, vcpu: int | None) -> bool:
    return vcpu is None or (machine.acting is not None and machine.acting.number == vcpu)
