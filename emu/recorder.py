"""What happens becomes events: each with its virtual time, to whoever listens, and at no cost where nobody does.

Two kinds of listeners. A watcher is told of the host's doings only, which are few: switches, wake-ups, stores. A trace
is told of everything, each exit and console byte included.

In Linux: trace_kvm_exit() and its kin, whose calls are free while no tracer is attached.
"""

from collections.abc import Callable

from emu import abi, clock, trace
from emu.devices.steal_time import Step
from emu.exits import Exit, PortOut
from emu.host.entity import Entity
from emu.package import Package
from emu.result import Result
from emu.trace import Event

Sink = Callable[[Event], None]
_MARKS = {abi.MARK_BEGIN: ("begin", "rbx"), abi.MARK_END: ("end", "rax")}

_IPI_MODES = {
    abi.APIC_DM_FIXED: "fixed",
    abi.APIC_DM_LOWEST: "lowest",
    abi.APIC_DM_NMI: "nmi",
    abi.APIC_DM_INIT: "init",
    abi.APIC_DM_STARTUP: "startup",
}


class Recorder:
    """Turns happenings into events for `watch` and `trace`; `now` tells virtual time in picoseconds."""

    def __init__(self, watch: Sink | None, trace: Sink | None, now: Callable[[], int]) -> None:
        self._watchers = tuple(sink for sink in (watch, trace) if sink is not None)
        self._trace = trace
        self._now = now

    def _t(self) -> int:
        return clock.ns(self._now())

    def _tell(self, event: Event) -> None:
        for sink in self._watchers:
            sink(event)

    # --- for every listener ---

    def switched(self, pcpu: int, prev: Entity | None, next: Entity | None, why: str) -> None:
        if self._watchers:
            names = (prev.name if prev else "idle"), (next.name if next else "idle")
            self._tell(trace.Switch(self._t(), pcpu, *names, why))

    def woke(self, entity: Entity, at_ps: int) -> None:
        if self._watchers:
            self._tell(trace.Wake(clock.ns(at_ps), entity.name))

    def stored(self, package: Package, area: str, step: Step) -> None:
        if self._watchers:
            place = step.step, step.gpa, step.size, step.value
            self._tell(trace.Store(self._t(), package.number, area, *place))

    def swapped(self, page: int, way: str) -> None:
        if self._watchers:
            self._tell(trace.Swapped(self._t(), page, way))

    # --- for a trace ---

    def began(self, image_sha256: str, config: dict[str, object]) -> None:
        if self._trace is not None:
            self._trace(trace.Begin(0, trace.FORMAT, image_sha256, config))

    def exited(self, package: Package, exit_: Exit) -> None:
        if self._trace is not None:
            detail = exit_._asdict()
            rip = detail.pop("rip", package.vcpu.rip)
            detail.pop("length", None)
            place = package.number, package.vcpu.retired, type(exit_).__name__, rip
            self._trace(trace.ExitEvent(self._t(), *place, detail))

    def wrote_msr(self, package: Package, msr: int, value: int, accepted: bool) -> None:
        if self._trace is not None:
            self._trace(trace.MsrWrite(self._t(), package.number, msr, value, accepted))

    def trapped(self, package: Package, vector: int, error: int | None, address: int | None, kind: str) -> None:
        if self._trace is not None:
            self._trace(trace.Trap(self._t(), package.number, vector, error, address, package.vcpu.rip, kind))

    def missed(self, package: Package, page: int, access: str, action: str, token: int) -> None:
        if self._trace is not None:
            self._trace(trace.PageMissing(self._t(), package.number, page, access, action, token))

    def accessed(self, package: Package, gpa: int, size: int, value: int, write: bool) -> None:
        if self._trace is not None:
            self._trace(trace.Mmio(self._t(), package.number, gpa, size, value, write))

    def sent(self, package: Package, mode: int, vector: int, to: tuple[int, ...]) -> None:
        if self._trace is not None:
            self._trace(trace.Ipi(self._t(), package.number, _IPI_MODES.get(mode, str(mode)), vector, to))

    def marked(self, package: Package, exit_: PortOut) -> None:
        if self._trace is not None and exit_.value & 0xFF in _MARKS:
            mark, register = _MARKS[exit_.value & 0xFF]
            value = package.vcpu.general(register)
            if not package.vcpu.wide:
                # A value of 64 bits stands in two registers there.
                high = package.vcpu.general("rcx") << 32 if mark == "end" else 0
                value = (value & 0xFFFFFFFF | high) & 0xFFFFFFFFFFFFFFFF
            self._trace(trace.Mark(self._t(), package.number, mark, value))

    def printed(self, package: Package, byte: int, port: int) -> None:
        if self._trace is not None:
            self._trace(trace.Console(self._t(), package.number, port, byte))

    def ended(self, result: Result) -> None:
        if self._trace is not None:
            t = result.virtual_ns
            for one in result.vcpus:
                books = one.ran_ns, one.stolen_ns, one.idle_ns
                self._trace(trace.Account(t, one.id, *books, one.instructions, one.updates))
            self._trace(trace.End(t, result.reason, result.exit_code))
