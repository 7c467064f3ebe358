"""The machine: wires the parts, and the loop in which they meet.

A turn of the loop: the host says which vCPU runs on which pCPU until when. Before it enters, an update that was asked
for is stored (`emu.host_model`) and an interrupt that is due is delivered. It enters, and comes back with an exit; the
exit is completed (`emu.completion`). Then the host is told how much time went by.

Nobody else knows two sides: no device knows the host, the host knows nothing of steal time, and none of them the vCPU.

An exit is completed when no vCPU is behind it in virtual time, so what it reads or changes is never from the future.

In Linux: vcpu_run() and vcpu_enter_guest() in arch/x86/kvm/x86.c; kvm_cpu__start() in kvmtool's kvm-cpu.c.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from emu import abi, clock, exits, scenario
from emu.absent_pages import AbsentPages
from emu.boot.entry import initial_state, prepare
from emu.boot.image import Image, place
from emu.build_host import build_host
from emu.bus.ports import PortBus
from emu.completion import Completion
from emu.devices import steal_time
from emu.devices.console import Console
from emu.devices.exit_port import ExitPort
from emu.devices.kvmclock import WallClock
from emu.devices.marks import Marks
from emu.devices.pvclock import MasterClock
from emu.exits import Exit
from emu.faults import HostError
from emu.host.entity import Entity
from emu.host.turn import Alarm, Run
from emu.host_model import HostModel
from emu.interconnect import Interconnect
from emu.package import SPREAD, Clocks, Lie, Package
from emu.ram import Ram
from emu.recorder import Recorder, Sink
from emu.result import (
    EXIT,
    EXIT_LIMIT,
    HALTED,
    INSN_LIMIT,
    INTERRUPTED,
    LIMITS,
    OUTPUT_LIMIT,
    RUNNING,
    TIME_LIMIT,
    TRIPLE_FAULT,
    Result,
    TripleFault,
    VcpuResult,
    Whereabouts,
)
from emu.scenario import Config
from emu.stateful import State
from emu.vcpu.engine import Engine

CHUNK_INSNS = 2_000_000  # the most between two looks at the outside world: Ctrl-C, progress, limits
_ENTRIES_PER_TURN = 64
_PATIENCE = 256  # exits that the vCPU completes by itself, between two looks at the limits


class Entry(NamedTuple):
    """An entry that has begun: what is left of its budget, whether a window is asked for, what patience is left."""

    budget: int
    window: bool
    patience: int | None


class OpenTurn(NamedTuple):
    """A turn that is not over: how much is used, what entries are left, and whether the host visited before one."""

    run: Run
    used: int = 0
    entries: int = _ENTRIES_PER_TURN
    visited: bool = False
    entry: Entry | None = None


class Machine:
    """A guest image on `config`. `watch` is told of switches, wake-ups and stores; `trace` of every event.

    `console` is called with each byte the guest prints. Raises HostError where image and configuration do not fit.
    `reason` is None while the run lasts, `instructions` counts units of guest work of all vCPUs. `position` counts all
    that happens, one by one: those units, the decisions of the host, and its visits to a vCPU's memory between two of
    them. Wherever a run is cut, the state at a position is the same, and so is what follows.
    """

    def __init__(
        self,
        image: Image,
        config: Config = Config(),
        *,
        watch: Sink | None = None,
        trace: Sink | None = None,
        console: Callable[[int], None] | None = None,
    ) -> None:
        if not isinstance(image, Image):
            raise HostError("Machine needs a program", remedy='give it one such as emu.load_guest("clock")')
        scenario.check(config)
        self.image = image
        self.config = config
        self.reason: str | None = None
        self.instructions = 0
        self.position = 0
        self._arriving = 0  # the position at which what happens now will have happened
        self._inside = False  # of an entry
        self._turn: OpenTurn | None = None
        self._silent = 0  # exits that need no completing here, and timers: they take the host's time as well
        self._now_ps = 0
        self._interrupted = False
        self._acting: Package | None = None
        self._place: tuple[TripleFault | None, tuple[Whereabouts, ...]] | None = None
        self._live_console = console
        self._recorder = Recorder(watch, trace, self._now)

        self.ram = Ram(config.ram)
        place(image, self.ram, config.vcpus)
        prepare(self.ram, image.entry, image.rights, config.vcpus)
        self.host = build_host(config, self)
        engine = self._engine = Engine(self.ram)
        engine.nest(True)  # every vCPU begins with its APIC's window in memory
        self._clocks = Clocks(MasterClock(config.tsc_khz), WallClock(self.ram.holds))
        self.packages = [self._package(engine, number) for number in range(config.vcpus)]

        self.console = Console(self._printed, config.output_limit)
        self.exit_port = ExitPort()
        self._marks = Marks()
        ports = PortBus()
        for device in (self.console, self.exit_port, self._marks):
            for base, count in device.ports:
                ports.attach(base, count, device)
        self._model = HostModel(config, self.ram, self._recorder.stored, self._now)
        interconnect = Interconnect(self.packages, self.host, self._recorder, self._now)
        self._absent = AbsentPages(config, image, engine, self.packages, self.host, self._recorder, self._now)
        self._model.needed = self._absent.host_needs if config.swap else None
        self._completion = Completion(ports, interconnect, self._marks, self._model, self._absent, self._recorder)
        self._recorder.began(image.sha256, config.traceable())

    def _package(self, engine: Engine, number: int) -> Package:
        config = self.config
        start = initial_state(self.ram, self.image.entry, number, config.vcpus)
        return Package(engine, self.ram, number, start, config, self._now, self.host.vcpus[number], self._clocks)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self, heartbeat: Callable[["Machine"], None] | None = None) -> Result:
        """Run to the end; `heartbeat` is called between turns, at least every CHUNK_INSNS instructions."""
        while self.reason is None:
            self.turn()
            if heartbeat is not None:
                heartbeat(self)
        return self.result()

    def interrupt(self) -> None:
        """End the run before its next turn; for signal handlers."""
        self._interrupted = True

    def run_to(self, position: int) -> None:
        """Run up to exactly this position, or to the end where that comes first."""
        while self.reason is None and self.position < position:
            self.turn(position)

    def turn(self, until: int | None = None) -> None:
        """One turn of the loop, or what is left of one; not beyond the position `until`, where it stays open.

        Sets `reason` where it was the last. Does nothing once the run has ended, or where it is there already.
        """
        if self.reason is not None or (until is not None and self.position >= until):
            return
        if self._interrupted:
            if self._turn is not None:
                self._close(self._turn)
            self._end(INTERRUPTED)
            return
        if self._turn is None:
            self._decide()
            self.position += 1
            if until is not None and self.position >= until:
                return
        if self._turn is not None and self.reason is None:
            self._run(self._turn, until)

    def _decide(self) -> None:
        """Ask the host what comes next."""
        self._arriving = self.position + 1
        limit = self.config.time_limit_ps
        alarm = self._alarm_ps()
        # Where nobody is awake and nothing is armed there is no time to wait for, not even the limit.
        if alarm is not None or self.host.awake:
            alarm = limit if alarm is None else min(alarm, limit)
            away_due = self._absent.away_due_ps
            if away_due is not None:
                alarm = min(alarm, away_due)
        decision = self.host.next(alarm)
        self._now_ps = decision.now_ps
        if type(decision) is Run:
            self._clocks.master.keep(decision.now_ps)
            self._turn = OpenTurn(decision)
        elif type(decision) is not Alarm:
            self._end(HALTED)
        elif decision.now_ps >= limit:
            self._end(TIME_LIMIT)
        else:
            self._fire_alarms(decision.now_ps)

    def _end(self, reason: str) -> None:
        self.reason = reason
        for package in self.packages:
            self._model.finish(package)
        self._recorder.ended(self._books())

    def _alarm_ps(self) -> int | None:
        """The earliest thing that could still wake a vCPU: a timer of its own, or a page that is on its way."""
        alarm = self._absent.back_due_ps
        for package in self.packages:
            due = package.alarm_ps()
            if due is not None and (alarm is None or due < alarm):
                alarm = due
        return alarm

    def _fire_alarms(self, now_ps: int) -> None:
        if self.config.swap:
            self._silent += self._absent.fire(now_ps)
            self._nest()
        for package in self.packages:
            due = package.alarm_ps()
            if due is not None and due <= now_ps:
                package.lapic.tick(now_ps)
                self._silent += 1
                if package.lapic.pending() is not None:
                    self.host.wake(package.number, due)

    def _run(self, turn: OpenTurn, until: int | None) -> None:
        """Let a vCPU use its turn: entries and exits, until its time is up or something concerns others."""
        run, used, entries, visited, entry = turn
        package = self._acting = self.packages[run.vcpu]
        vcpu = package.vcpu
        ps = self.config.ps_per_insn
        alone = self.config.pcpus == 1  # nobody can be behind: an exit may be completed where it happens
        while True:
            before, completions = vcpu.retired, vcpu.completions
            more = True
            self._arriving = self.position + 1
            if entry is None:
                if package.exit is not None:
                    more = self._completion.complete(package) and alone
                else:
                    stores = self._model.stores
                    if not visited and self._before_entry(package):
                        more = not package.halting and package.exit is None
                    elif self._model.stores != stores:
                        # What the host did is a step of its own, and the entry is the next.
                        self.position += 1
                        visited = True
                        if until is not None and self.position >= until:
                            self._turn = OpenTurn(run, used, entries, visited)
                            return
                        continue
                    else:
                        entry = self._begin_entry(package, self._budget(run, package))
            if entry is not None:
                entry = self._enter(package, entry, until)
                more = entry is not None or (package.exit is not None and alone)
            units = vcpu.retired - before
            if package.update is not None:
                package.store_in -= min(package.store_in, units)
            used += units
            self._now_ps += units * ps
            self.instructions += units
            self.position += units
            self._silent += vcpu.completions - completions
            reason = self._limit_met() if entry is None else None
            if entry is None:
                entries -= 1
                visited = False
                if (
                    not more
                    or reason is not None
                    or not entries
                    or (run.until_ps is not None and self._now_ps >= run.until_ps)
                ):
                    break
            if until is not None and self.position >= until:
                self._turn = OpenTurn(run, used, entries, visited, entry)
                return
        self._close(OpenTurn(run, used))
        if package.halting or package.waiting:
            package.halting = False
            self._halt(package)
        if reason is not None:
            self._end(reason)

    def _close(self, turn: OpenTurn) -> None:
        self._turn = None
        self.host.ran(turn.run.pcpu, turn.used * self.config.ps_per_insn)

    def _budget(self, run: Run, package: Package) -> int:
        budget = min(CHUNK_INSNS, self.config.insn_limit - self.instructions)
        if run.until_ps is not None:
            # Rounded up: an instruction is not cut, so the last one may end a little late.
            budget = min(budget, -((self._now_ps - run.until_ps) // self.config.ps_per_insn))
        if package.update in SPREAD:
            budget = min(budget, package.store_in)
        return max(budget, 1)

    def _before_entry(self, package: Package) -> bool:
        """INIT and start-up, updates, interrupts; True where one of them was a unit of work, and the vCPU stays out."""
        lapic, vcpu = package.lapic, package.vcpu
        if lapic.startup.pending:
            self._model.finish(package)
            package.start_over()
            return True
        if lapic.window_gpa != vcpu.window_gpa:
            vcpu.window_gpa = lapic.window_gpa
            self._nest()
        if package.async_pf is not None and package.async_pf.due and self._completion.pages_back(package):
            return True
        self._model.before_entry(package)
        if lapic.nmi and not vcpu.in_shadow():
            self._completion.nmi(package)
            return True
        if lapic.pending() is None or not vcpu.interruptible():
            return False
        self._completion.interrupt(package)
        return True

    def _nest(self) -> None:
        """Have the engine look guest-physical addresses up where that is needed: a window, or a page that is away."""
        windows = any(package.vcpu.window_gpa is not None for package in self.packages)
        self._engine.nest(windows or self._absent.any)

    def _begin_entry(self, package: Package, budget: int) -> Entry:
        vcpu = package.vcpu
        window = False
        if package.lapic.nmi:
            budget = 1  # in a shadow, as below
        elif package.lapic.pending() is not None or (package.async_pf is not None and package.async_pf.due):
            if vcpu.interrupts_enabled():
                budget = 1  # in the shadow of STI or MOV SS: the boundary after the next instruction is the one
            else:
                window = True
        self._model.entering(package)
        return Entry(budget, window, _PATIENCE)

    def _enter(self, package: Package, entry: Entry, until: int | None) -> Entry | None:
        """Run the guest; what is left of the entry where `until` cut it, or None where it is over."""
        vcpu = package.vcpu
        budget = entry.budget if until is None else min(entry.budget, until - self.position)
        self._inside = True
        exit_ = vcpu.enter(budget, window=entry.window, patience=entry.patience)
        self._inside = False
        self._arriving = self.position + vcpu.used
        if type(exit_) is exits.BudgetSpent and vcpu.patience != 0 and vcpu.used < entry.budget:
            return Entry(entry.budget - vcpu.used, entry.window, vcpu.patience)
        self._model.left(package)
        if type(exit_) is not exits.BudgetSpent:
            package.exit = exit_
        return None

    def _halt(self, package: Package) -> None:
        """After HLT or INIT: sleep until something comes, unless it is there already.

        Where IF is clear no interrupt ends the sleep, which is then for ever but for an NMI or INIT.
        """
        lapic = package.lapic
        if package.waiting:
            self._model.finish(package)
            self.host.block(package.number)
            return
        if lapic.startup.pending or (lapic.nmi and not lapic.startup.waiting):
            return
        if package.kicked and not lapic.startup.waiting:
            package.kicked = False
            return
        if package.async_pf is not None and package.async_pf.wakes and not lapic.startup.waiting:
            return
        if not lapic.startup.waiting:
            if not package.vcpu.interrupts_enabled():
                package.parked = True
            elif lapic.pending() is not None:
                return
        self._model.finish(package)
        self.host.block(package.number)

    def _limit_met(self) -> str | None:
        """Why the run ends here, if it does."""
        if self._completion.shutdown is not None:
            return TRIPLE_FAULT
        if self.exit_port.code is not None:
            return EXIT
        if self.console.overflow:
            return OUTPUT_LIMIT
        if self.instructions >= self.config.insn_limit:
            return INSN_LIMIT
        if self.exit_count >= self.config.exit_limit:
            return EXIT_LIMIT
        return None

    # --- what the host tells (emu.host.turn.Observer) ----------------------------------------------------------------

    def switched(
        self, pcpu: int, at_ps: int, prev: Entity | None, next: Entity | None, why: str, involuntary: bool
    ) -> None:
        """A pCPU changed hands: a vCPU that was taken off shows it, one that was put on gets its update."""
        self._now_ps = at_ps
        self._recorder.switched(pcpu, prev, next, why)
        if prev is not None and prev.is_vcpu and involuntary:
            self._model.preempted(self.packages[prev.number])
        if next is not None:
            self._ask_for_update(next)

    def woke(self, entity: Entity, at_ps: int) -> None:
        """A blocked entity became runnable; a vCPU gets its update when it runs."""
        self._recorder.woke(entity, at_ps)
        self._ask_for_update(entity)

    def _ask_for_update(self, entity: Entity) -> None:
        if entity.is_vcpu:
            steal = self.packages[entity.number].steal
            if steal is not None:
                steal.request()

    # --- what it is, and to become it again ------------------------------------------------------------------------

    def write_msr(self, vcpu: int, msr: int, value: int) -> None:
        """Do from outside what a WRMSR of this vCPU would do; raises GuestFault where it is refused."""
        self.leave_entry()
        self._completion.write_msr(self.packages[vcpu], msr, value)

    def store_by_hand(self, vcpu: int, added_ns: int, *, halves: bool) -> None:
        """The host's next store of an update of this vCPU's area, or the first of one.

        `added_ns` is how much longer than it did the vCPU has waited, in all.
        """
        self.leave_entry()
        self._model.store_by_hand(self.packages[vcpu], added_ns, halves=halves)

    def update_by_hand(self, vcpu: int, added_ns: int, count: int) -> None:
        """So many whole updates of this vCPU's area, between two units; `added_ns` as for `store_by_hand`."""
        self.leave_entry()
        self._model.update_by_hand(self.packages[vcpu], added_ns, count)

    def lie(self, vcpu: int, lie: Lie) -> None:
        """Answer this vCPU's next exit of a kind otherwise than truly."""
        self.leave_entry()
        self.packages[vcpu].lie(lie)

    def raise_interrupt(self, vcpu: int, vector: int) -> None:
        """An interrupt arrives at this vCPU's local APIC from outside."""
        self.leave_entry()
        package = self.packages[vcpu]
        package.lapic.accept(vector)
        if package.lapic.pending() is not None:
            self.host.wake(vcpu, self._now_ps)

    def preempt(self, pcpu: int, who: str) -> None:
        """The host's next decision gives this pCPU to `who`, such as `task0`. Raises HostError where it cannot."""
        self.host.favour(pcpu, who)
        self.leave_entry()
        if self._turn is not None and self._turn.run.pcpu == pcpu:
            self._close(self._turn)

    def take_away(self, pcpu: int, ps: int) -> None:
        """The vCPU on this pCPU waits for so long from now. Raises HostError where none can be made to."""
        self.leave_entry()
        if self._turn is not None and self._turn.run.pcpu == pcpu:
            self._close(self._turn)
        self.host.take_away(pcpu, ps)

    def leave_entry(self) -> None:
        """For a change from outside: the vCPU that is in the middle of an entry leaves guest mode first."""
        self._arriving = self.position
        if self._turn is not None and self._turn.entry is not None:
            assert self._acting is not None
            self._model.left(self._acting)
            self._turn = self._turn._replace(entry=None)

    @property
    def acting(self) -> Package | None:
        """Whose turn it is, or was last."""
        return self._acting if self._turn is None else self.packages[self._turn.run.vcpu]

    @property
    def engine(self) -> Engine:
        """What all vCPUs run in; for whoever watches."""
        return self._engine

    @property
    def exit_count(self) -> int:
        """How many exits and other doings of the host there were; each takes as long as thousands of instructions."""
        return self._completion.count + self._silent

    def arriving(self) -> int:
        """For whoever listens, while something happens: the first position of which it is part."""
        if self._inside:
            assert self._acting is not None
            return self.position + self._acting.vcpu.used + self._engine.under_way() + 1
        return self._arriving

    def state(self) -> State:
        """All of the machine but the contents of its RAM, at a place where it stands still, as frozen data."""
        own = self.position, self.instructions, self.reason, self._now_ps, self._silent, self._turn
        vcpus = tuple([package.vcpu.whole() for package in self.packages])
        packages = tuple([package.state() for package in self.packages])
        return own, vcpus, packages, tuple([part.state() for part in self._parts()])

    def load(self, state: State, now: State | None = None) -> None:
        """Become what `state` says, of this machine or of one made alike. Its RAM must hold what it held then.

        `now`, if it is known, is the state in which this machine is: what is the same need not be loaded.
        """
        own, vcpus, packages, parts = state
        _, _, packages_now, parts_now = now or (None, None, len(packages) * (None,), len(parts) * (None,))
        self.position, self.instructions, self.reason, self._now_ps, self._silent, self._turn = own
        self._acting = None if self._turn is None else self.packages[self._turn.run.vcpu]
        self._place = None
        self._interrupted = False
        for part, of_part, part_now in zip(self._parts(), parts, parts_now, strict=True):
            if of_part != part_now:
                part.load(of_part)
        self._engine.nest(self._absent.any or any(whole[3] is not None for whole in vcpus))
        for package, whole, of_package, package_now in zip(self.packages, vcpus, packages, packages_now, strict=True):
            package.vcpu.become(whole)
            if package_now is None:
                package.load(of_package)
            elif of_package != package_now:
                package.load_from(package_now, of_package)

    def _parts(self) -> tuple[Any, ...]:
        return (
            *(self.host, self._model, self._clocks, self.console, self.exit_port, self._marks),
            *(self._completion, self._absent),
        )

    # --- what can be seen from outside -------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """Virtual time, in nanoseconds."""
        return clock.ns(self._now_ps)

    @property
    def last_exits(self) -> list[tuple[int, Exit]]:
        """The last few exits that were completed, each with its vCPU's number, latest last."""
        return self._completion.last

    @property
    def shutdown(self) -> tuple[int, exits.Shutdown] | None:
        """The vCPU and the fault that ended the run with a triple fault, or None."""
        return self._completion.shutdown

    def result(self) -> Result:
        """The books and areas of this moment, and where it happened if the guest did not mean to end."""
        if self.reason is None:
            return self._books()
        if self._place is None:  # symbols and source lines take a while to read, and are the same ever after
            self._place = self._fault(), self._whereabouts()
        fault, where = self._place
        return self._books()._replace(fault=fault, where=where)

    def _fault(self) -> TripleFault | None:
        if self.shutdown is None:
            return None
        number, shutdown = self.shutdown
        state = self.packages[number].vcpu.state()
        return TripleFault.of(shutdown, state, self.image.source, number, alone=self.config.vcpus == 1)

    def _whereabouts(self) -> tuple[Whereabouts, ...]:
        if self.reason not in (*LIMITS, INTERRUPTED):
            return ()
        return Whereabouts.of([package.vcpu.state() for package in self.packages], self.image.source)

    def _books(self) -> Result:
        return Result(
            exit_code=self.exit_port.code,
            reason=self.reason or RUNNING,
            virtual_ns=clock.ns(self.host.latest_ps()),
            instructions=self.instructions,
            vcpus=tuple(self._vcpu_result(package) for package in self.packages),
            console=self.console.output,
        )

    def _vcpu_result(self, package: Package) -> VcpuResult:
        entity, steal = package.entity, package.steal
        # Who is on a pCPU has come as far as that one; who is not, as far as any: its open interval lasts to the end.
        end_ps = self.host.latest_ps() if entity.pcpu is None else self.host.pcpu_ps(entity.pcpu)
        books = entity.books(end_ps)
        area = None
        if steal is not None and steal.enabled and self.ram.holds(steal.area_gpa, abi.KVM_STEAL_TIME_SIZE):
            area = steal_time.decode(self.ram.read(steal.area_gpa, abi.KVM_STEAL_TIME_SIZE))
        updates, msr = (0, 0) if steal is None else (steal.updates, steal.msr_value)
        return VcpuResult(package.number, *books, sum(books), package.vcpu.retired, updates, msr, area)

    def _now(self) -> int:
        return self._now_ps

    def _printed(self, byte: int, port: int) -> None:
        if self._live_console is not None:
            self._live_console(byte)
        assert self._acting is not None
        self._recorder.printed(self._acting, byte, port)
