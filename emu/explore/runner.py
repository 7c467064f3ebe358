"""A machine that is driven from visible point to visible point, restored, and told what the host does.

A visible point is a position just before an instruction that touches what the host's steps touch: an access to an
area that is registered, a mark, a look at the time, a write to the steal-time MSR, the beginning or end of a read
declared from outside, the end of the run. With several vCPUs it is also every access to memory that is nobody's stack,
and every exit.
Between two of them the guest touches nothing that the host writes, so a step of the host anywhere between has the same
effect as at the end.

To find the next one, the guest runs ahead with hooks on the areas, and is taken back.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from emu import abi, trace
from emu.boot.entry import program_limit
from emu.explore import sides
from emu.explore.instance import JUMP_NS, Instance
from emu.explore.properties import Moment, Monitor, Watched
from emu.explore.sides import Snapshot
from emu.history import edits
from emu.history.edits import Change, HostStore, HostUpdate, Preempt, TakeAway
from emu.history.memory import Memory
from emu.machine import Machine
from emu.result import LIMITS
from emu.state import CpuState
from emu.stateful import State
from emu.trace import Event
from emu.vcpu.watch import Access, Watch
from emu.vcpu.written import Written

_MOVE = (abi.MSR_KVM_STEAL_TIME, abi.MSR_KVM_SYSTEM_TIME, abi.MSR_KVM_SYSTEM_TIME_NEW)
_APIC_TIMER = (abi.APIC_LVTT, abi.APIC_TMICT, abi.APIC_TMCCT)
_OF_TIME = (abi.MSR_IA32_TSC, abi.MSR_IA32_TSC_DEADLINE, *_APIC_TIMER)
_OF_TIME_IN_WINDOW = tuple((msr - abi.X2APIC_MSR) * abi.APIC_MMIO_STRIDE for msr in _APIC_TIMER)
_STRETCH = 16  # instructions run ahead at first
_LONGEST_STRETCH = 1 << 20
SIDE = 16  # bytes of a key that tell the guest's side; the rest tells the host's


class Ahead(NamedTuple):
    """What lies before the guest if the host does nothing: the visible points, and how far it has been looked."""

    points: tuple[int, ...]
    to: int


NOTHING_AHEAD = Ahead((), 0)


class TimeMatters(Exception):
    """The guest reads time: states that differ in it alone are not the same."""


class Runner:
    """One machine for one instance.

    `made` counts the updates that were begun, of each vCPU, `switched` the switches that nobody asked for, and `jumped`
    how often a vCPU was made to wait.
    """

    def __init__(self, instance: Instance, *, time: bool = False) -> None:
        self.instance = instance
        self.monitor = Monitor(instance.vcpus, instance.properties, instance.own, instance.reads)
        self.made = (0,) * instance.vcpus
        self.switched = self.jumped = 0
        self._time = time
        self._shared = instance.vcpus > 1  # what one vCPU does may matter to another
        self.ahead = NOTHING_AHEAD
        self._ran = True  # since memory was compared last
        self._now: State | None = None  # the machine's state, where it is known
        self._looking: list[int] | None = None
        self._noticed = 0  # things of what the guest does in its move
        self._access: Access | None = None  # the last one among them
        self._moves: list[int] = []  # those of them at which the guest writes the MSR
        self._watch: Watch | None = None
        self._watched_ranges: tuple[tuple[int, int], ...] = ()
        self._digests: dict[bytes | CpuState | State, bytes] = {}
        self.machine = Machine(instance.image, instance.config(), trace=self._heard)
        written = Written(self.machine.engine)
        self.memory = Memory(self.machine.ram, written.take if written.is_native else None)
        self._reads = self._watch_reads()
        self.beginning = self.snapshot()

    # --- standing still ----------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Everything here."""
        pages = self.memory.keep(look=self._ran)
        self._ran = False
        made = self.made, self.switched, self.jumped
        self._now = self.machine.state()
        own_tables = self.machine.engine.own_tables
        return Snapshot(self._now, pages, self.monitor.state, *made, own_tables, self.machine.console.output)

    def restore(self, snapshot: Snapshot, ahead: Ahead = NOTHING_AHEAD) -> None:
        """Be there again, with what is known of what lies `ahead` of there."""
        self.memory.restore(snapshot.pages, look=self._ran)
        # Another process may have gone there, and this one knows nothing of it.
        self.machine.engine.own_tables = self.machine.engine.own_tables or snapshot.own_tables
        self._ran = False
        self.machine.console.remember(snapshot.printed)  # another schedule may have printed something else
        self.machine.load(snapshot.state, self._now)
        self._now = snapshot.state
        self.monitor.state = snapshot.watched
        self.made, self.switched, self.jumped = snapshot.made, snapshot.switched, snapshot.jumped
        self.ahead = ahead

    def key(self, snapshot: Snapshot) -> bytes:
        """128 bits of the guest's side and 128 of the host's, which tell states apart that may go on differently.

        What has no future influence is left out.
        """
        own, vcpus, packages, parts = snapshot.state
        machine, where = self.machine, sides.areas(packages)
        cpus = tuple([(*self._told(whole[0]), whole[3], whole[4]) for whole in vcpus])
        entities = tuple([(one.run_state, one.pcpu, one.run_delay_ns(one.since_ps)) for one in machine.host.vcpus])
        favoured = machine.host.favoured()
        now = own[3] if self._time else 0
        content = sides.without_areas(snapshot.pages, self.memory, where)
        pages = tuple(sorted([(page, self._digest(held)) for page, held in content.items()]))
        marks, devices = parts[5], (parts[1], parts[2] if self._time else None)
        # What is often the same is put into words once.
        long = self._digest(tuple([sides.of_guest(one) for one in packages])), self._digest(devices)
        guest = cpus, *long, entities, favoured, now, pages, marks, own[2], snapshot.switched, snapshot.jumped
        held = sides.held(snapshot.pages, self.memory, where)
        watched = tuple([_in_order(one) for one in snapshot.watched])
        host = tuple([sides.of_host(one) for one in packages]), held, watched, snapshot.made
        return self._digest(guest) + self._digest(host)

    def _told(self, cpu: CpuState) -> tuple[object, ...]:
        """A vCPU's state in few words: all but what changes most is put into words once."""
        rest = self._digest(cpu._replace(general=(), rip=0, rflags=0))
        return cpu.general, cpu.rip, cpu.rflags, rest

    def _digest(self, content: bytes | CpuState | State) -> bytes:
        digest = self._digests.get(content)
        if digest is None:
            if len(self._digests) > 4096:
                self._digests.clear()
            told = content if isinstance(content, bytes) else repr(content).encode()
            digest = self._digests[content] = hashlib.blake2b(told, digest_size=SIDE).digest()
        return digest

    @property
    def ended(self) -> bool:
        """Whether the run is over, or as much of it as is looked at."""
        return self._over or self.monitor.enough

    @property
    def _over(self) -> bool:
        return self.machine.reason is not None

    @property
    def cut(self) -> bool:
        """Whether a limit ended it, so that nothing is known of what follows."""
        return self.machine.reason in LIMITS

    def under_way(self, vcpu: int) -> bool:
        """Whether the host is inside an update of this vCPU's area."""
        steal = self.machine.packages[vcpu].steal
        return steal is not None and steal.under_way is not None

    @property
    def at_rest(self) -> bool:
        """Whether the host is inside no update."""
        return not any(self.under_way(vcpu) for vcpu in range(self.instance.vcpus))

    # --- what the host may do ----------------------------------------------------------------------------------------

    def options(self) -> list[Change]:
        """The steps that the host can make here."""
        found: list[Change] = []
        acting = self.machine.acting
        for vcpu in range(self.instance.vcpus):
            steal = self.machine.packages[vcpu].steal
            if self.instance.model == "kvm" and (acting is None or acting.number != vcpu):
                continue  # only who is about to enter is told
            if steal is not None and steal.enabled and not steal.requested:
                found += self.instance.updates_left(self.made[vcpu], self.under_way(vcpu), vcpu)
        if self.switched < self.instance.switches and not self.machine.host.favoured():
            found += [Preempt(0, name) for name in self.machine.host.waiting_for(0)]
        runs = acting is not None and acting.entity.pcpu is not None and not self.ended
        if self.jumped < self.instance.jumps and runs and not self.machine.host.waiting_for(0):
            found.append(TakeAway(0, JUMP_NS))
        return found

    def apply(self, change: Change) -> None:
        """The host makes this step."""
        if isinstance(change, HostStore | HostUpdate):
            vcpu = change.vcpu
            if not self.under_way(vcpu):
                self.made = (*self.made[:vcpu], self.made[vcpu] + 1, *self.made[vcpu + 1 :])
        elif isinstance(change, Preempt):
            self.switched += 1
        elif isinstance(change, TakeAway):
            self.jumped += 1
        self._begin()
        steal = None
        if isinstance(change, HostStore | HostUpdate) and not self._ran:
            steal = self.machine.packages[change.vcpu].steal
        self._ran, self._now = True, None
        edits.apply(self.machine, change)
        if steal is not None:  # its area is all that has been stored to since memory was compared
            self.memory.stored(steal.area_gpa, abi.KVM_STEAL_TIME_SIZE)
            self._ran = False
        self.ahead = NOTHING_AHEAD
        if isinstance(change, Preempt | TakeAway):
            self._let_host_decide()

    def _let_host_decide(self) -> None:
        """Go on to where the next unit of guest work comes: what the host decides until then belongs to its step."""
        machine, here = self.machine, self.snapshot()
        insns, last = machine.instructions, machine.position
        self._looking = []
        try:
            while not self._over and machine.instructions == insns:
                last = machine.position
                self._run_to(last + 1)
        finally:
            self._looking = None
        self.restore(here)
        self._run_to(last)

    # --- what the guest does -----------------------------------------------------------------------------------------

    def advance(self, here: Snapshot | None = None) -> None:
        """The guest goes on to the next visible point, or to the end; `monitor` has judged what it did.

        `here` is the snapshot of this state, where there is one.
        """
        self._begin()
        self._watch_areas()
        point = self._next_point(self.machine.position, here)
        self._run_to(self.ahead.to if point is None else point)
        self._moved()

    def _run_to(self, position: int) -> None:
        self._ran, self._now = True, None
        self.machine.run_to(position)

    def run_to(self, position: int) -> None:
        """The guest goes on to this position, where it was before."""
        self._begin()
        self._watch_areas()
        self._run_to(position)

    def advance_one(self) -> None:
        """The guest does one unit of work: without reduction, every position is a point."""
        self._begin()
        self._watch_areas()
        self._run_to(self.machine.position + 1)
        self._moved()

    def _moved(self) -> None:
        if self._watched_ranges:
            self.monitor.guest_moved()
        self.monitor.moved_on(Moment(self.machine, tuple(self.monitor.reads), self.ended))

    def _next_point(self, begun: int, here: Snapshot | None) -> int | None:
        """The next visible point after `begun`; None where the run ends before, which is then at `ahead.to`."""
        points = tuple([point for point in self.ahead.points if point > begun])
        if points:
            self.ahead = self.ahead._replace(points=points)
            return points[0]
        machine = self.machine
        if here is None:
            here = self.snapshot()
        found: list[int] = []
        stretch = _STRETCH
        self._moves.clear()
        self._looking = found
        try:
            while not self._over and not any(point > begun for point in found):
                self._run_to(machine.position + stretch)
                stretch = min(stretch * 4, _LONGEST_STRETCH)
        finally:
            self._looking = None
        end = machine.position
        if self._over:
            found.append(end - 1)
        self.restore(here)
        # From a write of the MSR on, other memory may be the area: what lies behind it was not watched.
        known_to = min((point for point in self._moves if point >= begun), default=end)
        if known_to == begun:
            found.append(known_to := begun + 1)
        self.ahead = Ahead(tuple(sorted({point for point in found if begun < point <= known_to})), end)
        return self.ahead.points[0] if self.ahead.points else None

    @property
    def one_access(self) -> Access | None:
        """The access to an area that the guest made in its last move, if nothing else was noticed of it."""
        return self._access if self._noticed == 1 else None

    def _begin(self) -> None:
        self._noticed, self._access = 0, None
        self.monitor.violations.clear()
        self.monitor.reads.clear()

    # --- what is noticed ---------------------------------------------------------------------------------------------

    def _heard(self, event: Event) -> None:
        looking = self._looking
        timely = _looks_at_time(event)
        if timely and not self._time:
            raise TimeMatters
        if looking is None:
            self._noticed += 1
            if hasattr(self, "machine"):
                self.monitor.heard(self.machine, event)
            return
        if type(event) is trace.Mark or timely or (self._shared and type(event) is trace.ExitEvent):
            looking.append(self.machine.arriving() - 1)
        elif type(event) is trace.MsrWrite and event.msr in _MOVE:
            looking.append(self.machine.arriving() - 1)
            self._moves.append(self.machine.arriving() - 1)

    def _accessed(self, access: Access) -> None:
        machine = self.machine
        if self._looking is not None:
            self._looking.append(machine.arriving() - 1)
            return
        self._noticed += 1
        self._access = access
        if access.write:
            for package in machine.packages:
                steal = package.steal
                if steal is not None and steal.enabled:
                    offset = access.gpa - steal.area_gpa
                    if -access.size < offset < abi.KVM_STEAL_TIME_SIZE:
                        self.monitor.guest_wrote(machine, package.number, access.gpa, access.size)

    def _watch_areas(self) -> None:
        """Hooks on what is shared now."""
        ranges = watched(self.machine)
        if ranges != self._watched_ranges:
            if self._watch is not None:
                self._watch.close()
            self._watched_ranges = ranges
            self._watch = Watch(self.machine.engine, reads=ranges, writes=ranges, accessed=self._accessed)

    def _watch_reads(self) -> Watch | None:
        read = self.instance.read
        if read is None:
            return None
        begins, ends = frozenset(read.begins), frozenset(read.ends)

        def executed(linear: int) -> None:
            machine = self.machine
            assert machine.acting is not None
            if self._looking is not None:
                self._looking.append(machine.arriving() - 1)
                return
            self._noticed += 1
            vcpu = machine.acting.number
            if linear in begins:
                steal = machine.acting.steal
                self.monitor.begins(machine, vcpu, 0 if steal is None else steal.area_gpa)
            elif linear in ends:
                self.monitor.ends(machine, vcpu, self._result(read.register))

        code: Iterable[tuple[int, int]] = [(one, one) for one in (*read.begins, *read.ends)]
        return Watch(self.machine.engine, code=code, executed=executed)

    def _result(self, register: str) -> int:
        """What a read declared from outside returns; `edx:eax` names two registers of 32-bit code."""
        engine = self.machine.engine
        value = 0
        for name in register.split("+"):
            name = name.upper()
            wide = "R" + name[1:] if name.startswith("E") else name
            part = engine.read_register(wide)
            value = value << 32 | (part & 0xFFFFFFFF if name.startswith("E") else part)
        return value


def _in_order(watched: Watched) -> tuple[object, ...]:
    """The same in words that are the same for equal ones: a set has no order."""
    reading = watched.reading
    return watched._replace(reading=None), None if reading is None else (
        reading.area,
        tuple(sorted(reading.currents)),
        reading.begun_ns,
    )


def _looks_at_time(event: Event) -> bool:
    """Whether the guest reads the time here, or arms something that will tell it."""
    if isinstance(event, trace.ExitEvent):
        return event.exit == "Rdtsc" or (event.exit in ("Rdmsr", "Wrmsr") and event.detail.get("msr") in _OF_TIME)
    return isinstance(event, trace.Mmio) and event.gpa % abi.PAGE_SIZE in _OF_TIME_IN_WINDOW


def watched(machine: Machine) -> tuple[tuple[int, int], ...]:
    """The memory that more than one may touch: the areas that are registered, or, with several vCPUs, all that can be
    written and is nobody's stack. Ranges of guest-physical addresses, first and last."""
    ranges = []
    for package in machine.packages:
        steal = package.steal
        if steal is not None and steal.enabled:
            gpa = steal.area_gpa
            ranges.append((gpa, gpa + abi.KVM_STEAL_TIME_SIZE - 1))
        if package.clock is not None and package.clock.time.enabled:
            gpa = package.clock.time.area_gpa
            ranges.append((gpa, gpa + abi.PVCLOCK_VCPU_TIME_INFO_SIZE - 1))
    if len(machine.packages) == 1:
        return tuple(ranges)
    found, first, limit = [], abi.GUEST_GPA, program_limit(machine.ram, len(machine.packages))
    for rights in sorted(machine.image.rights):
        if not rights.writable:
            found.append((first, rights.gpa - 1))
            first = rights.gpa + rights.size
    return tuple([one for one in (*found, (first, limit - 1)) if one[0] < one[1]])
