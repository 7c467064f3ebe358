"""One execution with the whole machine around the guest: slower by far, and with everything that can be told of it.

Stores of the host are made at the same accesses as by the callbacks, and the position of each is kept, so that the run
can be recorded and replayed as any other. An event needs a machine that stands still: where one is found to be due, the
run is made once more up to there.

In Linux: nothing like it.
"""

from typing import NamedTuple

from emu import abi, result, trace
from emu.explore.properties import area_named
from emu.fuzz.events import change_of
from emu.fuzz.outcome import Execution, Read
from emu.fuzz.plan import Event, Plan, Store
from emu.fuzz.target import Beginning, Target, owned
from emu.history import edits
from emu.history.edits import Edit, SetMemory
from emu.history.memory import Memory
from emu.machine import Machine
from emu.ram import Ram
from emu.result import LIMITS
from emu.vcpu.bare import Bare
from emu.vcpu.native import EVEN, ODD
from emu.vcpu.watch import Access, Watch
from emu.vcpu.written import Written

_MOST_EVENTS = 8
_COUNTED_EXITS = frozenset(("Cpuid", "Rdmsr", "Wrmsr", "Rdtsc", "Hypercall"))


class Told(NamedTuple):
    """An execution; the host's stores as edits; `points`, where the guest touched its area or set a mark; where each
    read ended, and where the guest first stored to what it must not; position and instructions of the end."""

    execution: Execution
    edits: tuple[Edit, ...]
    points: tuple[int, ...]
    read_ends: tuple[int, ...]
    broke_at: int | None
    ends_at: int
    insns: int


class Exact:
    """A machine of `target` that goes back to the beginning for each run."""

    def __init__(self, target: Target, begun: Beginning) -> None:
        self._target = target
        self._begun = begun
        self._ready = False
        self._machine = machine = Machine(target.image, target.config(), trace=self._heard)
        machine.run_to(begun.position)
        written = Written(machine.engine)
        self._memory = Memory(machine.ram, written.take if written.is_native else None)
        self._state, self._pages = machine.state(), self._memory.keep()
        self._owned = owned(machine)
        self._covered: Bare | None = None
        self.alias: int | None = None  # an address by which the guest called its area, if not by the host's
        self._declared = target.declared
        whole = self._declared is not None and len(self._declared.names) == 1 and machine.packages[0].vcpu.wide
        self._mask = (1 << 64 if whole else 1 << 32) - 1
        self._reset(())
        # They stay: whoever adds or takes away a hook has all translated code forgotten.
        everywhere = [(0, machine.ram.size - 1)]
        code = [] if self._declared is None else [(one, one) for one in (*self._declared.begins, *self._declared.ends)]
        self._watches = (
            Watch(machine.engine, reads=everywhere, writes=everywhere, accessed=self._accessed),
            Watch(machine.engine, code=code, executed=self._executed),
        )
        self._ready = True

    def cover(self, bare: Bare) -> None:
        """Count edges where `bare` does."""
        bare.cover(self._machine.engine)
        self._covered = bare

    @property
    def ram(self) -> Ram:
        """The guest's memory, as the last run left it."""
        return self._machine.ram

    def _reset(self, stores: tuple[Store, ...], events: tuple[Event, ...] = ()) -> None:
        if self._covered is not None:
            self._covered.begin_covering()
        self._events = list(reversed(events))
        self._due: int | None = None
        self._stores = list(reversed(stores))
        self._edits: list[Edit] = []
        self._accesses = 0
        self._last_at = -1
        self._last_store = self._machine.instructions
        self._current: int | None = None
        self._reading: tuple[int, list[int]] | None = None
        self._reads: list[Read] = []
        self._read_ends: list[int] = []
        self._points = [self._begun.position]
        self._wrote: tuple[int, int] | None = None
        self._wild: int | None = None
        self._broke_at: int | None = None
        self._area = self._begun.area

    def run(self, planned: Plan) -> Told:
        """One execution, from the beginning to its end or its bound."""
        events = tuple([one for one in planned.events if one.kind in self._target.events][:_MOST_EVENTS])
        placed: list[tuple[int, Event]] = []
        while True:
            begun = self._run(planned.stores, events[len(placed) :], placed)
            if self._due is None:
                return self._told(begun)
            placed.append((self._due, events[len(placed)]))

    def _run(self, stores: tuple[Store, ...], events: tuple[Event, ...], placed: list[tuple[int, Event]]) -> int:
        """Run with the events that have found their places, until the next one is due, to the end or to the bound; how
        many instructions there were before."""
        machine, most = self._machine, self._target.insns
        self._memory.restore(self._pages)
        machine.load(self._state)
        self._reset(stores, events)
        begun = machine.instructions
        if self._area is not None:
            self._play(0)
        waiting = list(placed)
        self._look_for_event(machine.position)
        while machine.reason is None and self._due is None and machine.instructions - begun < most:
            until = machine.position + min(1024, most - (machine.instructions - begun))
            if waiting and waiting[0][0] <= machine.position:
                self._make(waiting.pop(0)[1])
                continue
            machine.run_to(min(until, waiting[0][0]) if waiting else until)
        return begun

    def _look_for_event(self, here: int) -> None:
        if self._due is None and self._events and self._events[-1].at <= self._accesses:
            self._due = here

    def _make(self, event: Event) -> None:
        change = change_of(self._machine, event)
        if change is not None:
            self._edits.append(Edit(self._machine.position, change))
            edits.apply(self._machine, change)

    def _told(self, begun: int) -> Told:
        machine = self._machine
        insns = machine.instructions - begun
        rested = 0 if self._stores else machine.instructions - self._last_store
        reads, detail = tuple(self._reads), _detail(machine)
        done = Execution(*_ended(machine), insns, rested, self._accesses, reads, self._wrote, self._wild, detail)
        points, read_ends = tuple(sorted(set(self._points))), tuple(self._read_ends)
        return Told(done, tuple(self._edits), points, read_ends, self._broke_at, machine.position, machine.instructions)

    def _play(self, position: int) -> None:
        """The stores that come before the access under way; `position` is where they are made, 0 for here."""
        while self._stores and self._stores[-1].at <= self._accesses and self._area is not None:
            one = self._stores.pop()
            gpa = self._area + one.offset
            self._machine.ram.write(gpa, one.data)
            self._edits.append(Edit(position or self._machine.position, SetMemory(gpa, one.data)))
            if self._accesses:
                self._last_store = self._machine.instructions + max(position - self._machine.position, 0) + 1
            if one.flags & ODD:
                self._current = None
            if one.flags & EVEN:
                self._published(one.steal)

    def _published(self, steal: int) -> None:
        self._current = steal
        if self._reading is not None:
            self._reading[1].append(steal)

    def _count(self, here: int) -> None:
        """An access, or an exit that counts as one, at this position: once for one instruction."""
        if here != self._last_at:
            self._last_at = here
            self._accesses += 1
            self._look_for_event(here)
            self._play(here)

    def _accessed(self, access: Access) -> None:
        machine, area = self._machine, self._area
        inside = area is not None and -access.size < access.gpa - area < abi.KVM_STEAL_TIME_SIZE
        here = machine.arriving() - 1
        if inside:
            assert area is not None
            self._points.append(here)
            self._count(here)
            offset = access.gpa - area
            if access.write and offset < 16 and self._wrote is None:
                self._wrote = max(offset, 0), access.size
                self._broke_at = self._broke_at or here
        elif access.write and self._wild is None:
            end = access.gpa + access.size
            if not any(first <= access.gpa and end <= last for first, last in self._owned):
                self._wild = access.gpa
                self._broke_at = self._broke_at or here

    def _heard(self, event: trace.Event) -> None:
        if not self._ready:
            return
        if type(event) is trace.ExitEvent:
            if event.exit in _COUNTED_EXITS:
                self._count(self._machine.arriving() - 1)
        elif type(event) is trace.Mark:
            self._marked(event)
        elif type(event) is trace.Store and event.area == "steal-time":
            if event.step == "even":
                self._published(self._machine.ram.load(self._area or 0, 8))
            elif event.step in ("odd", "burst"):
                self._current = None
        elif type(event) is trace.MsrWrite and event.msr == abi.MSR_KVM_STEAL_TIME and event.accepted:
            enabled = bool(event.value & abi.KVM_MSR_ENABLED)
            self._area = event.value & abi.KVM_STEAL_ADDRESS_MASK if enabled else None
            self._current = None

    def _marked(self, event: trace.Mark) -> None:
        self._points.append(self._machine.arriving() - 1)
        if event.mark == "begin":
            area = area_named(self._machine.packages[0], event.value)
            if area != event.value:
                self.alias = event.value
            self._begins(area)
        else:
            self._ends(event.value)

    def _executed(self, linear: int) -> None:
        declared = self._declared
        assert declared is not None
        self._points.append(self._machine.arriving() - 1)
        if linear in declared.begins:
            self._begins(self._area or 0)
            return
        value = 0
        for name in declared.names:
            value = value << 32 | self._machine.engine.read_register(name.upper()) & self._mask
        self._ends(value)

    def _begins(self, area: int) -> None:
        self._reading = area, [] if self._current is None else [self._current]

    def _ends(self, value: int) -> None:
        if self._reading is not None:
            area, current = self._reading
            self._reading = None
            self._reads.append(Read(area, value, tuple(current), self._area))
            self._read_ends.append(self._machine.arriving())


def _ended(machine: Machine) -> tuple[str, int]:
    reason = machine.reason
    if reason is None or reason in LIMITS:
        return "budget", 0
    if reason == result.TRIPLE_FAULT:
        return "fault", 0
    return ("exit", machine.exit_port.code or 0) if reason == result.EXIT else ("halt", 0)


def _detail(machine: Machine) -> str:
    if machine.reason != result.TRIPLE_FAULT:
        return ""
    fault = machine.result().fault
    return "" if fault is None else fault.text
