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
    """`size` bytes at a linear address have changed, by a guest's store or by the host's; `wanted` judges the new ones.

    A store by another linear address that leads to the same memory is not noticed, if a guest made it.
    """

    address: int
    size: int
    wanted: Callable[[int], bool] = lambda value: True

    @contextlib.contextmanager
    def watching(self, machine: Machine, hit: Hit) -> Iterator[EventSink | None]:
        gpa = self._gpa(machine)
        last = machine.ram.load(gpa, self.size)

        def became(value: int) -> None:
            nonlocal last
            if value != last:
                last = value
                if self.wanted(value):
                    hit(machine.arriving())

        def accessed(access: Access) -> None:
            at = access.linear - self.address
            data = access.value.to_bytes(access.size, "little")
            now = bytearray(last.to_bytes(self.size, "little"))
            first, end = max(at, 0), min(at + access.size, self.size)
            if first < end:
                now[first:end] = data[first - at : end - at]
                became(int.from_bytes(now, "little"))

        def stored(at: int, size: int) -> None:
            if at < gpa + self.size and gpa < at + size:
                became(machine.ram.load(gpa, self.size))

        watch = Watch(machine.engine, writes=[(self.address, self.address + self.size - 1)], accessed=accessed)
        machine.ram.on_write(stored)
        try:
            yield None
        finally:
            machine.ram.no_longer(stored)
            watch.close()

    def value(self, machine: Machine) -> int:
        """What is there now."""
        return machine.ram.load(self._gpa(machine), self.size)

    def _gpa(self, machine: Machine) -> int:
        package = machine.acting or machine.packages[0]
        gpa = package.vcpu.translate(self.address)
        if gpa is None or not machine.ram.holds(gpa, self.size):
            raise HostError(f"there is no memory at {self.address:#x} to watch", remedy="name one that is mapped")
        return gpa


class Touches(NamedTuple):
    """A guest's load from one of these ranges (linear address, size) comes next."""

    ranges: tuple[tuple[int, int], ...]

    @contextlib.contextmanager
    def watching(self, machine: Machine, hit: Hit) -> Iterator[EventSink | None]:
        reads = [(first, first + size - 1) for first, size in self.ranges]
        watch = Watch(machine.engine, reads=reads, accessed=lambda access: hit(machine.arriving() - 1))
        try:
            yield None
        finally:
            watch.close()


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
    return Changes(steal.area_gpa + abi.KVM_STEAL_TIME_VERSION, 4, lambda value: value % 2 == odd)


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
