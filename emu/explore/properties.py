"""What must hold in every schedule, and the monitor that judges it while a run goes by.

The monitor hears the events of a run, and a little more that no event tells: what a guest writes into its area, and
where a read begins and ends that was declared from outside. What it remembers is part of a schedule's state: two
schedules are the same from here on only where the monitor is as well.

A value is current from the even store that publishes it to the odd store of the next update; during an update none is.

Source: the protocol of the "KVM Steal time guest/host interface"; record_steal_time() in arch/x86/kvm/x86.c.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from emu import abi, result, trace
from emu.faults import HostError
from emu.machine import Machine
from emu.package import Package
from emu.trace import Event

CURRENT, FORWARD, OWN_AREA, ZEROED, CLOCK = "current", "forward", "own-area", "zeroed", "clock"
UNWRITTEN, NO_FAULT, ENDS, UNTOUCHED, AWAKE = "unwritten", "no-fault", "ends", "untouched", "awake"

PROPERTIES = {
    CURRENT: "a read returns a value that was published, and current at some moment of the read",
    FORWARD: "no read returns less than an earlier one of the same vCPU",
    OWN_AREA: "a read is of the area that its vCPU has registered",
    CLOCK: "a time read from kvmclock was the time at some moment of the read",
    ZEROED: "an area is zero when it is registered",
    UNWRITTEN: "no guest writes version or steal of an area that is registered",
    NO_FAULT: "no exception ends the run",
    ENDS: "once the host rests, the guest comes to an end",
    UNTOUCHED: "the host writes into no area that is not registered",
    AWAKE: "the vCPUs do not all fall asleep for ever",
}
# Judged about the guest's own doing; a guest without these has nothing to prove.
OF_READS = (CURRENT, FORWARD, OWN_AREA)
_PROTECTED = 16  # bytes: steal, version, flags


class Violation(NamedTuple):
    """What did not hold, and why, in one sentence."""

    property: str
    why: str


class Reading(NamedTuple):
    """A read that is under way: of which area, the values that were current in it so far; of a clock, since when."""

    area: int
    currents: frozenset[int]
    begun_ns: int | None = None  # of a read of the clock


class Watched(NamedTuple):
    """What the monitor remembers of one vCPU: the current value, the read under way, what was returned last, and how
    many reads have ended, as far as they are counted."""

    current: int | None = None
    reading: Reading | None = None
    last: int | None = None
    reads: int = 0


class Moment(NamedTuple):
    """What a user's own property is shown, each time the guest has come to a visible point, or to its end.

    `reads` are those that have ended since the point before: (vCPU, value returned, values current meanwhile). Where
    two schedules lead to the same state only one of them is gone on with, so a property must not remember anything.
    """

    machine: Machine
    reads: tuple[tuple[int, int, frozenset[int]], ...]
    ended: bool


Own = Callable[[Moment], str | None]


class Monitor:
    """Judges the properties named in `wanted`, and the user's `own`; `judged` counts how often each was.

    Reads are counted up to `reads` of each vCPU, and then that is `enough`; 0 counts none, and is never enough.
    """

    def __init__(
        self, vcpus: int, wanted: frozenset[str], own: tuple[tuple[str, Own], ...] = (), reads: int = 0
    ) -> None:
        self.state: tuple[Watched, ...] = (Watched(),) * vcpus
        self.judged = dict.fromkeys(PROPERTIES, 0)
        self.violations: list[Violation] = []
        self.reads: list[tuple[int, int, frozenset[int]]] = []  # of the transition under way: vCPU, value, currents
        self._wanted = wanted
        self._own = own
        self._most_reads = reads

    @property
    def enough(self) -> bool:
        """Whether every vCPU has made as many reads as are counted."""
        return bool(self._most_reads) and all(one.reads >= self._most_reads for one in self.state)

    def heard(self, machine: Machine, event: Event) -> None:
        """An event of the run."""
        if type(event) is trace.Store and event.area == "steal-time":
            self._stored(machine, event)
        elif type(event) is trace.Mark:
            if event.mark == "begin":
                self.begins(machine, event.vcpu, area_named(machine.packages[event.vcpu], event.value))
            else:
                self.ends(machine, event.vcpu, event.value)
        elif type(event) is trace.MsrWrite and event.msr == abi.MSR_KVM_STEAL_TIME and event.accepted:
            self._registered(machine, event)
        elif type(event) is trace.End:
            self._ended(machine, event)

    def begins(self, machine: Machine, vcpu: int, area: int) -> None:
        """A vCPU begins to read an area."""
        watched = self.state[vcpu]
        clock = machine.packages[vcpu].clock
        if clock is not None and clock.time.enabled and clock.time.area_gpa == area:
            self._remember(vcpu, reading=Reading(area, frozenset(), machine.now_ns))
            return
        self._own_area(machine, vcpu, area)
        currents = frozenset(() if watched.current is None else (watched.current,))
        self._remember(vcpu, reading=Reading(area, currents))

    def ends(self, machine: Machine, vcpu: int, value: int) -> None:
        """A vCPU has read this value; nothing where it did not begin."""
        watched = self.state[vcpu]
        reading = watched.reading
        if reading is None:
            return
        self.reads.append((vcpu, value, reading.currents))
        if reading.begun_ns is not None:
            # Two divisions lie between the TSC and nanoseconds: one may be lost on the way.
            holds = reading.begun_ns - 1 <= value <= machine.now_ns
            why = f"the clock read says {value:,} ns, and it was between {reading.begun_ns:,} and {machine.now_ns:,} ns"
            self._judge(CLOCK, holds, why)
            self._remember(vcpu, reading=None)
            return
        if self._own_area(machine, vcpu, reading.area):
            self._judge(CURRENT, value in reading.currents, _not_current(machine, reading, value))
        if watched.last is not None:
            why = f"the read returns {value:#x}, and one before it has returned {watched.last:#x}"
            self._judge(FORWARD, value >= watched.last, why)
        self._remember(vcpu, reading=None, last=value, reads=min(watched.reads + 1, self._most_reads))

    def guest_wrote(self, machine: Machine, vcpu: int, gpa: int, size: int) -> None:
        """A guest stores into the area of this vCPU, which is registered."""
        steal = machine.packages[vcpu].steal
        assert steal is not None
        offset = gpa - steal.area_gpa
        why = f"the guest stores {size} bytes at offset {max(offset, 0)} of the area that it has registered"
        self._judge(UNWRITTEN, not (offset < _PROTECTED and offset + size > 0), why)

    def livelock(self, turns: int) -> None:
        """The guest came back to a state in which it had been, with the host at rest."""
        self._judge(
            ENDS, False, f"the host rests, and the guest comes back to the same state after {turns} steps, for ever"
        )

    def came_to_an_end(self) -> None:
        """With the host at rest the guest has ended."""
        self._judge(ENDS, True, "")

    def guest_moved(self) -> None:
        """The guest went on while an area was registered; what it wrote there has been told."""
        if not any(one.property == UNWRITTEN for one in self.violations):
            self._judge(UNWRITTEN, True, "")

    def moved_on(self, moment: Moment) -> None:
        """The guest went on to a visible point; the user's own properties look at it."""
        for name, holds in self._own:
            why = holds(moment)
            if not (why is None or isinstance(why, str)):
                raise HostError(f"it returned {why!r}", name, "return None where it holds, and else a sentence")
            self.judged[name] = self.judged.get(name, 0) + 1
            if why is not None:
                self.violations.append(Violation(name, why))

    def _stored(self, machine: Machine, event: trace.Store) -> None:
        steal = machine.packages[event.vcpu].steal
        assert steal is not None
        inside = steal.enabled and 0 <= event.gpa - steal.area_gpa < abi.KVM_STEAL_TIME_SIZE
        self._judge(UNTOUCHED, inside, f"the host stores at {event.gpa:#x}, where no area is registered")
        if event.step in ("odd", "burst"):
            self._remember(event.vcpu, current=None)
        elif event.step == "even":
            value = machine.ram.load(steal.area_gpa, 8)
            reading = self.state[event.vcpu].reading
            if reading is not None:
                reading = reading._replace(currents=reading.currents | {value})
            self._remember(event.vcpu, current=value, reading=reading)

    def _registered(self, machine: Machine, event: trace.MsrWrite) -> None:
        self._remember(event.vcpu, current=None)
        if not event.value & abi.KVM_MSR_ENABLED:
            return
        gpa = event.value & abi.KVM_STEAL_ADDRESS_MASK
        if machine.ram.holds(gpa, abi.KVM_STEAL_TIME_SIZE):
            found = machine.ram.read(gpa, _PROTECTED)
            self._judge(ZEROED, not any(found), f"the area at {gpa:#x} is registered while it holds {found.hex(' ')}")

    def _ended(self, machine: Machine, event: trace.End) -> None:
        fault = event.reason == result.TRIPLE_FAULT
        self._judge(NO_FAULT, not fault, machine.result().fault.text if fault else "")  # type: ignore[union-attr]
        if len(self.state) > 1:
            asleep = event.reason == result.HALTED
            self._judge(AWAKE, not asleep, "every vCPU sleeps, and nothing is left that could wake one")

    def _own_area(self, machine: Machine, vcpu: int, area: int) -> bool:
        steal = machine.packages[vcpu].steal
        own = steal is not None and steal.enabled and steal.area_gpa == area
        where = "none" if steal is None or not steal.enabled else f"the one at {steal.area_gpa:#x}"
        self._judge(OWN_AREA, own, f"the guest reads the area at {area:#x}, and has registered {where}")
        return own

    def _judge(self, name: str, holds: bool, why: str) -> None:
        if name in self._wanted:
            self.judged[name] += 1
            if not holds:
                self.violations.append(Violation(name, why))

    def _remember(self, vcpu: int, **changes: Any) -> None:
        watched = self.state[vcpu]._replace(**changes)
        self.state = (*self.state[:vcpu], watched, *self.state[vcpu + 1 :])


def area_named(package: Package, address: int) -> int:
    """The area that a guest means by this linear address: by what page tables it has, if it has any of its own."""
    steal = package.steal
    if steal is not None and steal.enabled and steal.area_gpa == address:
        return address
    found = package.vcpu.translate(address)
    return address if found is None else found


def _not_current(machine: Machine, reading: Reading, value: int) -> str:
    if not reading.currents:
        return f"the read returns {value:#x}, and no value was current while it lasted: the host was inside an update"
    was = "was" if len(reading.currents) == 1 else "were"
    known = " and ".join(f"{one:#x}" for one in sorted(reading.currents))
    return f"the read returns {value:#x}, and while it lasted only {known} {was} current"
