"""The machine: wires the parts, and the exit loop in which they meet.

A turn of the loop: the host says which vCPU runs on which pCPU until when. Before it enters, an update that was asked
for is stored and an interrupt that is due is delivered. It enters, and comes back with an exit; the exit is completed
by asking whoever owns it: the MSR bus, the port bus, the CPUID table. Then the host is told how much time went by.

Nobody else knows two sides: no device knows the host, the host knows nothing of steal time. The one number that joins
them, a vCPU's run delay, is handed over here, in `_update`.

An exit is completed when no vCPU is behind it in virtual time, so what it reads or changes is never from the future.

In Linux: vcpu_run() and vcpu_enter_guest() in arch/x86/kvm/x86.c; kvm_cpu__start() in kvmtool's kvm-cpu.c.
"""

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from emu import abi, clock, exits, trace
from emu.boot.entry import initial_state, prepare
from emu.boot.image import Image, place
from emu.bus.ports import PortBus
from emu.devices import steal_time
from emu.devices.console import Console
from emu.devices.exit_port import ExitPort
from emu.devices.marks import Marks
from emu.devices.steal_time import Area, Step
from emu.faults import GuestFault, HostError
from emu.host.entity import Entity
from emu.host.policy import policy_from
from emu.host.scheduler import Scheduler
from emu.host.script import parse_script
from emu.host.task import parse_task
from emu.host.turn import Alarm, Run
from emu.package import Package
from emu.ram import Ram
from emu.scenario import DEFAULT_STORE_GAP, Config
from emu.trace import Event
from emu.vcpu import delivery
from emu.vcpu.engine import Engine

CHUNK_INSNS = 2_000_000  # the most between two looks at the outside world: Ctrl-C, progress, limits
_ENTRIES_PER_TURN = 64
_LAST_EXITS = 8
# After these the host or a timer may have something to say: a WRMSR may arm a timer, a HLT ends the turn.
_CONCERNS_HOST = frozenset((exits.Wrmsr, exits.TprWrite, exits.Hlt))

EXIT, HALTED, TRIPLE_FAULT, INTERRUPTED = "exit", "halted", "triple-fault", "interrupted"
TIME_LIMIT, INSN_LIMIT, EXIT_LIMIT, OUTPUT_LIMIT = "time-limit", "insn-limit", "exit-limit", "output-limit"


class VcpuResult(NamedTuple):
    """One vCPU's books and steal-time area at the end; times in nanoseconds, ran + stolen + idle = elapsed.

    `area` is None where none is registered in RAM. `stolen_ns` may exceed the area's steal: it counts up to the end,
    the area up to its last update.
    """

    id: int
    ran_ns: int
    stolen_ns: int
    idle_ns: int
    elapsed_ns: int
    instructions: int
    updates: int
    msr: int
    area: Area | None


class Result(NamedTuple):
    """How a run ended. `reason` is one of this module's names; `exit_code` the byte written to port 0xF4, else None."""

    exit_code: int | None
    reason: str
    virtual_ns: int
    instructions: int
    vcpus: tuple[VcpuResult, ...]
    console: bytes


class Machine:
    """A guest image on `config`. `watch` is told of switches, wake-ups and stores; `trace` of every event.

    `console` is called with each byte the guest prints. Raises HostError where image and configuration do not fit.
    """

    def __init__(
        self,
        image: Image,
        config: Config = Config(),
        *,
        watch: Callable[[Event], None] | None = None,
        trace: Callable[[Event], None] | None = None,
        console: Callable[[int], None] | None = None,
    ) -> None:
        self.image = image
        self.config = config
        self._watchers = tuple(sink for sink in (watch, trace) if sink is not None)
        self._trace = trace
        self._live_console = console
        self._now_ps = 0
        self._acting: Package | None = None
        self.exits = 0
        self.last_exits: list[tuple[int, exits.Exit]] = []
        self.reason: str | None = None
        self.shutdown: exits.Shutdown | None = None
        self.instructions = 0
        self._interrupted = False

        self.ram = Ram(config.ram)
        place(image, self.ram, config.vcpus)
        prepare(self.ram, image.entry, image.rights, config.vcpus)
        self.engine = Engine(self.ram)
        self.host = self._build_host()
        self.packages = [self._build_package(number) for number in range(config.vcpus)]
        self.console = Console(self._printed, config.output_limit)
        self.exit_port = ExitPort()
        self.marks = Marks()
        self.ports = PortBus()
        for device in (self.console, self.exit_port, self.marks):
            for base, count in device.ports:
                self.ports.attach(base, count, device)
        self._gaps = [self._gap_source(number) for number in range(config.vcpus)]
        if trace is not None:
            trace(_begin(self))
        self._complete: dict[type, Callable[[Package, Any], None]] = {
            exits.Cpuid: self._cpuid,
            exits.Rdmsr: self._rdmsr,
            exits.Wrmsr: self._wrmsr,
            exits.Rdtsc: self._rdtsc,
            exits.PortIn: self._port_in,
            exits.PortOut: self._port_out,
            exits.Hlt: self._hlt,
            exits.Pause: self._pause,
            exits.Hypercall: self._hypercall,
            exits.TprRead: self._tpr_read,
            exits.TprWrite: self._tpr_write,
            exits.SoftwareInterrupt: self._software_interrupt,
            exits.Fault: self._fault,
            exits.InterruptWindow: self._interrupt_window,
        }

    # --- construction ------------------------------------------------------------------------------------------------

    def _build_host(self) -> Scheduler:
        config = self.config
        tasks = [parse_task(text, f"--task {text}") for text in config.tasks]
        pins, weights = _numbered(config.pin, "--pin", config), _numbered(config.weight, "--weight", config)
        script = None
        if config.script is not None:
            where, text = config.script
            script = parse_script(
                text,
                where,
                pcpus=config.pcpus,
                vcpus=config.vcpus,
                tasks=len(tasks),
                ps_per_insn=config.ps_per_insn,
                quantum_ps=config.quantum_ps,
            )
        policy = policy_from(config.policy, config.quantum_ps, config.seed, script, "--policy")
        host = Scheduler(config.pcpus, policy, config.interleave_ps, self)
        for number in range(config.vcpus):
            waiting_for_start = config.start == "bsp" and number > 0
            host.add_vcpu(pcpu=pins.get(number), weight=weights.get(number, 1), blocked=waiting_for_start)
        for task in tasks:
            host.add_task(task)
        return host

    def _build_package(self, number: int) -> Package:
        config = self.config
        start = initial_state(self.ram, self.image.entry, number, config.vcpus)
        package = Package(self.engine, self.ram, number, start, config, lambda: self._now_ps, self.host.vcpus[number])
        package.parked = config.start == "bsp" and number > 0
        return package

    def _gap_source(self, number: int) -> Callable[[], int]:
        if self.config.store_gap:
            return itertools.cycle(self.config.store_gap).__next__
        generator = random.Random(self.config.seed * abi.MAX_VCPUS + number)
        return lambda: generator.randrange(DEFAULT_STORE_GAP + 1)

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

    def turn(self) -> None:
        """One turn of the loop; sets `reason` where it was the last. Does nothing once the run has ended."""
        if self.reason is not None:
            return
        limit = self.config.time_limit_ps
        alarm = self._alarm_ps()
        # Where nobody is awake and nothing is armed there is no time to wait for, not even the limit.
        if alarm is not None or self.host.awake:
            alarm = limit if alarm is None else min(alarm, limit)
        decision = self.host.next(alarm)
        self._now_ps = decision.now_ps
        if self._interrupted:
            self.reason = INTERRUPTED
        elif type(decision) is Run:
            self._run(decision)
        elif type(decision) is not Alarm:
            self.reason = HALTED
        elif decision.now_ps >= limit:
            self.reason = TIME_LIMIT
        else:
            self._alarms(decision.now_ps)
        if self.reason is not None:
            self._close_books()

    def _alarm_ps(self) -> int | None:
        alarm = None
        for package in self.packages:
            due = package.alarm_ps()
            if due is not None and (alarm is None or due < alarm):
                alarm = due
        return alarm

    def _alarms(self, now_ps: int) -> None:
        for package in self.packages:
            due = package.alarm_ps()
            if due is not None and due <= now_ps:
                package.lapic.tick(now_ps)
                if package.lapic.pending() is not None:
                    self.host.wake(package.number, due)

    def _run(self, run: Run) -> None:
        """Let a vCPU use its turn: entries and exits until its time is up, or something happens that concerns others."""
        package = self._acting = self.packages[run.vcpu]
        vcpu = package.vcpu
        ps = self.config.ps_per_insn
        first = vcpu.retired
        alone = self.config.pcpus == 1  # nobody can be behind: an exit may be completed where it happens
        for _ in range(_ENTRIES_PER_TURN):
            before = vcpu.retired
            if package.exit is not None:
                more = self._finish_exit(package) and alone
            elif self._prepare_entry(package):
                more = True
            else:
                more = self._enter(package, self._budget(run, package)) and alone
            units = vcpu.retired - before
            self._now_ps += units * ps
            self.instructions += units
            self._check_limits()
            if not more or self.reason is not None or (run.until_ps is not None and self._now_ps >= run.until_ps):
                break
        self.host.ran(run.pcpu, (vcpu.retired - first) * ps)
        if package.halting:
            package.halting = False
            self._halt(package)

    def _budget(self, run: Run, package: Package) -> int:
        budget = min(CHUNK_INSNS, self.config.insn_limit - self.instructions)
        if run.until_ps is not None:
            # Rounded up: an instruction is not cut, so the last one may end a little late.
            budget = min(budget, -((self._now_ps - run.until_ps) // self.config.ps_per_insn))
        if package.update is not None:
            budget = min(budget, package.store_in)
        return max(budget, 1)

    def _check_limits(self) -> None:
        if self.reason is not None:
            return
        if self.exit_port.code is not None:
            self.reason = EXIT
        elif self.console.overflow:
            self.reason = OUTPUT_LIMIT
        elif self.instructions >= self.config.insn_limit:
            self.reason = INSN_LIMIT
        elif self.exits >= self.config.exit_limit:
            self.reason = EXIT_LIMIT

    def _close_books(self) -> None:
        if self._trace is None:
            return
        result = self.result()
        for one in result.vcpus:
            books = one.ran_ns, one.stolen_ns, one.idle_ns
            self._trace(trace.Account(result.virtual_ns, one.id, *books, one.instructions, one.updates))
        self._trace(trace.End(result.virtual_ns, result.reason, result.exit_code))

    # --- before entry ------------------------------------------------------------------------------------------------

    def _prepare_entry(self, package: Package) -> bool:
        """Updates, then interrupts; True where that was this turn's work."""
        steal = package.steal
        if steal is not None:
            if package.update is not None and package.store_in == 0:
                self._next_store(package)
            if steal.requested and package.update is None:
                self._update(package)
        vector = package.lapic.pending()
        if vector is not None and package.vcpu.interruptible():
            self._interrupt(package)
            return True
        return False

    def _enter(self, package: Package, budget: int) -> bool:
        """Run the guest; whether it came back with an exit to be completed."""
        vcpu = package.vcpu
        window = False
        if package.lapic.pending() is not None:
            if vcpu.interrupts_enabled():
                budget = 1  # in the shadow of STI or MOV SS: the boundary after the next instruction is the one
            else:
                window = True
        exit_ = vcpu.enter(budget, window=window)
        if package.update is not None:
            package.store_in -= min(package.store_in, vcpu.used)
        if type(exit_) is exits.BudgetSpent:
            return False
        package.exit = exit_
        return True

    # --- steal time: where run delay meets the device ----------------------------------------------------------------

    def _update(self, package: Package) -> None:
        """Begin the update that is due. Under `kvm` it is done at once: the vCPU is out of the guest meanwhile."""
        steal = package.steal
        assert steal is not None
        run_delay_ns = package.entity.run_delay_ns(self._now_ps)
        steps = steal.update(run_delay_ns, self.ram.load, halves=self.config.steal_store == "halves")
        if self.config.host_model == "kvm":
            self._store_all(package, steps)
        elif steal.enabled:
            package.update = steps
            package.store_in = self._gaps[package.number]()
            if package.store_in == 0:
                self._next_store(package)

    def _next_store(self, package: Package) -> None:
        """The stores that are due now: one, or several where the gap between them is 0."""
        assert package.update is not None
        while True:
            step = next(package.update, None)
            if step is None:
                package.update = None
                return
            self._store(package, step)
            if step.step == "preempted":
                continue  # cleared together with the odd version, for which run delay was sampled
            if step.step == "even":
                package.update = None
                return
            package.store_in = self._gaps[package.number]()
            if package.store_in:
                return

    def _finish_update(self, package: Package) -> None:
        """An update that has begun is finished before its registration changes."""
        if package.update is not None:
            steps, package.update = package.update, None
            self._store_all(package, steps)

    def _store_all(self, package: Package, steps: Iterable[Step]) -> None:
        for step in steps:
            self._store(package, step)

    def _store(self, package: Package, step: Step) -> None:
        self.ram.store(step.gpa, step.size, step.value)
        if self._watchers:
            t = clock.ns(self._now_ps)
            self._emit(trace.Store(t, package.number, "steal-time", step.step, step.gpa, step.size, step.value))

    # --- the host's side (emu.host.turn.Observer) --------------------------------------------------------------------

    def switched(
        self, pcpu: int, at_ps: int, prev: Entity | None, next: Entity | None, why: str, involuntary: bool
    ) -> None:
        """A pCPU changed hands: a vCPU that was taken off shows it, one that was put on gets its update."""
        self._now_ps = at_ps
        if self._watchers:
            names = (prev.name if prev else "idle"), (next.name if next else "idle")
            self._emit(trace.Switch(clock.ns(at_ps), pcpu, *names, why))
        if prev is not None and prev.is_vcpu and involuntary:
            package = self.packages[prev.number]
            # Never in the middle of an instruction that the host still has to complete: see CVE-2022-39189.
            if package.steal is not None and package.exit is None:
                self._store_all(package, package.steal.preempt())
        if next is not None and next.is_vcpu:
            steal = self.packages[next.number].steal
            if steal is not None:
                steal.request()

    def woke(self, entity: Entity, at_ps: int) -> None:
        """A blocked entity became runnable; a vCPU gets its update when it runs."""
        if self._watchers:
            self._emit(trace.Wake(clock.ns(at_ps), entity.name))
        if entity.is_vcpu:
            steal = self.packages[entity.number].steal
            if steal is not None:
                steal.request()

    # --- completing exits --------------------------------------------------------------------------------------------

    def _finish_exit(self, package: Package) -> bool:
        """Complete the exit that was taken; whether the vCPU may go on, no clock or sleep having been touched."""
        exit_ = package.exit
        assert exit_ is not None
        package.exit = None
        self.exits += 1
        last = self.last_exits
        last.append((package.number, exit_))
        if len(last) > _LAST_EXITS:
            del last[0]
        if self._trace is not None:
            self._trace_exit(package, exit_)
        kind = type(exit_)
        self._complete[kind](package, exit_)
        return kind not in _CONCERNS_HOST or (kind is exits.Wrmsr and exit_.msr == abi.MSR_KVM_STEAL_TIME)

    def _cpuid(self, package: Package, exit_: exits.Cpuid) -> None:
        package.vcpu.complete_cpuid(exit_, package.cpuid.query(exit_.leaf, exit_.subleaf))

    def _rdmsr(self, package: Package, exit_: exits.Rdmsr) -> None:
        try:
            value = package.msrs.rdmsr(exit_.msr)
        except GuestFault as fault:
            self._inject(package, fault)
        else:
            package.vcpu.complete_rdmsr(exit_, value)

    def _wrmsr(self, package: Package, exit_: exits.Wrmsr) -> None:
        if exit_.msr == abi.MSR_KVM_STEAL_TIME:
            self._finish_update(package)
        fault = None
        try:
            package.msrs.wrmsr(exit_.msr, exit_.value)
        except GuestFault as refused:
            fault = refused
        if self._trace is not None:
            t = clock.ns(self._now_ps)
            self._emit(trace.MsrWrite(t, package.number, exit_.msr, exit_.value, fault is None))
        if fault is not None:
            self._inject(package, fault)
        else:
            package.vcpu.complete(exit_)

    def _rdtsc(self, package: Package, exit_: exits.Rdtsc) -> None:
        package.vcpu.complete_rdtsc(exit_, package.tsc.value(), package.tsc_aux)

    def _port_in(self, package: Package, exit_: exits.PortIn) -> None:
        package.vcpu.complete_in(self.ports.read(exit_.port, exit_.size))

    def _port_out(self, package: Package, exit_: exits.PortOut) -> None:
        self.ports.write(exit_.port, exit_.size, exit_.value)
        mark = self.marks.take()
        if mark is not None and self._trace is not None:
            vcpu, t = package.vcpu, clock.ns(self._now_ps)
            if mark == abi.MARK_BEGIN:
                self._trace(trace.Mark(t, package.number, "begin", vcpu.general("rbx")))
            elif mark == abi.MARK_END:
                self._trace(trace.Mark(t, package.number, "end", vcpu.general("rax")))

    def _hlt(self, package: Package, exit_: exits.Hlt) -> None:
        package.vcpu.complete(exit_)
        package.halting = True

    def _halt(self, package: Package) -> None:
        """After HLT: sleep until an interrupt, unless one is there already, or for ever where none can come."""
        if not package.vcpu.interrupts_enabled():
            package.parked = True
        elif package.lapic.pending() is not None:
            return
        self.host.block(package.number)

    def _pause(self, package: Package, exit_: exits.Pause) -> None:
        package.vcpu.complete(exit_)

    def _hypercall(self, package: Package, exit_: exits.Hypercall) -> None:
        package.vcpu.complete_hypercall(exit_, -abi.KVM_EPERM if exit_.cpl else -abi.KVM_ENOSYS)

    def _tpr_read(self, package: Package, exit_: exits.TprRead) -> None:
        package.vcpu.complete_register(exit_, package.lapic.tpr >> 4)

    def _tpr_write(self, package: Package, exit_: exits.TprWrite) -> None:
        if exit_.value >> 4:
            self._inject(package, GuestFault(abi.GP_VECTOR, 0))
        else:
            package.lapic.tpr = exit_.value << 4
            package.vcpu.complete(exit_)

    def _software_interrupt(self, package: Package, exit_: exits.SoftwareInterrupt) -> None:
        self._delivered(
            package, exit_.vector, None, None, "software", delivery.deliver_software_interrupt(package.vcpu, exit_)
        )

    def _fault(self, package: Package, exit_: exits.Fault) -> None:
        self._inject(package, GuestFault(exit_.vector, exit_.error, exit_.address))

    def _interrupt_window(self, package: Package, exit_: exits.InterruptWindow) -> None:
        """Nothing to complete: the interrupt is delivered before the next entry."""

    # --- traps -------------------------------------------------------------------------------------------------------

    def _inject(self, package: Package, fault: GuestFault) -> None:
        vcpu = package.vcpu
        shutdown = delivery.deliver_fault(vcpu, fault.vector, fault.error, fault.address)
        self._delivered(package, fault.vector, fault.error, fault.address, "exception", shutdown)

    def _interrupt(self, package: Package) -> None:
        vector = package.lapic.acknowledge()
        shutdown = delivery.deliver_interrupt(package.vcpu, vector)
        self._delivered(package, vector, None, None, "interrupt", shutdown)

    def _delivered(
        self,
        package: Package,
        vector: int,
        error: int | None,
        address: int | None,
        kind: str,
        shutdown: exits.Shutdown | None,
    ) -> None:
        if self._trace is not None:
            t = clock.ns(self._now_ps)
            self._trace(trace.Trap(t, package.number, vector, error, address, package.vcpu.rip, kind))
        if shutdown is not None:
            self.shutdown = shutdown
            self.reason = TRIPLE_FAULT

    # --- what can be seen from outside -------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """Virtual time, in nanoseconds."""
        return clock.ns(self._now_ps)

    def result(self) -> Result:
        """The books and areas of this moment."""
        return Result(
            exit_code=self.exit_port.code,
            reason=self.reason or "running",
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
        return VcpuResult(
            package.number,
            *books,
            sum(books),
            package.vcpu.retired,
            0 if steal is None else steal.updates,
            0 if steal is None else steal.msr_value,
            area,
        )

    # --- events ------------------------------------------------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        for sink in self._watchers:
            sink(event)

    def _trace_exit(self, package: Package, exit_: exits.Exit) -> None:
        assert self._trace is not None
        detail = exit_._asdict()
        rip = detail.pop("rip", package.vcpu.rip)
        detail.pop("length", None)
        t, vcpu = clock.ns(self._now_ps), package.vcpu
        self._trace(trace.ExitEvent(t, package.number, vcpu.retired, type(exit_).__name__, rip, detail))

    def _printed(self, byte: int, port: int) -> None:
        if self._live_console is not None:
            self._live_console(byte)
        if self._trace is not None:
            assert self._acting is not None
            self._trace(trace.Console(clock.ns(self._now_ps), self._acting.number, port, byte))


def _begin(machine: Machine) -> Event:
    return trace.Begin(0, trace.FORMAT, machine.image.sha256, machine.config.traceable())


def _numbered(texts: Iterable[str], where: str, config: Config) -> dict[int, int]:
    found = {}
    for text in texts:
        vcpu, _, value = text.partition("=")
        if int(vcpu) >= config.vcpus:
            raise HostError(
                f"there is no vCPU {vcpu}", f"{where} {text}", f"the guest has {config.vcpus}, numbered from 0"
            )
        found[int(vcpu)] = int(value)
    return found
