"""The one switch of the machine: what each exit asks for, who answers, and what the guest then finds.

After these functions you know what a virtual machine monitor does: the guest stops at an instruction it may not execute
by itself, somebody who owns the thing it asked about says what happens, and the guest goes on behind the instruction,
or finds itself in its own fault handler.

In Linux: svm_exit_handlers[] in arch/x86/kvm/svm/svm.c; handle_cpu() in kvmtool's kvm-cpu.c is the same switch.
"""

from collections.abc import Callable
from typing import Any

from emu import abi, exits
from emu.absent_pages import AbsentPages
from emu.bus.ports import PortBus
from emu.devices.async_pf import HALT, INJECT
from emu.devices.hypercalls import Answer
from emu.devices.marks import Marks
from emu.exits import Exit
from emu.faults import GuestFault
from emu.host_model import HostModel
from emu.interconnect import Interconnect
from emu.package import Lie, Package
from emu.recorder import Recorder
from emu.stateful import State
from emu.vcpu import delivery

LAST_EXITS = 8
# After these the host or a timer may have something to say: a WRMSR may arm a timer, a HLT ends the turn.
_CONCERNS_HOST = frozenset((exits.Wrmsr, exits.TprWrite, exits.Hlt, exits.Hypercall, exits.NestedFault))
_HYPERCALL_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi")


class Completion:
    """Completes exits with the devices on `ports`. `count` and `last` tell of them, `shutdown` of a triple fault."""

    def __init__(
        self,
        ports: PortBus,
        interconnect: Interconnect,
        marks: Marks,
        model: HostModel,
        absent: AbsentPages,
        recorder: Recorder,
    ) -> None:
        self._ports = ports
        self._interconnect = interconnect
        self._marks = marks
        self._model = model
        self._absent = absent
        self._recorder = recorder
        self.count = 0
        self.last: list[tuple[int, Exit]] = []
        self.shutdown: tuple[int, exits.Shutdown] | None = None
        self._answers: dict[type, Callable[[Package, Any], None]] = {
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
            exits.NestedFault: self._nested_fault,
            exits.InterruptWindow: self._interrupt_window,
        }

    def complete(self, package: Package) -> bool:
        """Complete the exit that was taken; whether the vCPU may go on at once, no clock or sleep being concerned."""
        exit_ = package.exit
        assert exit_ is not None
        package.exit = None
        self.count += 1
        self.last.append((package.number, exit_))
        if len(self.last) > LAST_EXITS:
            del self.last[0]
        self._recorder.exited(package, exit_)
        self._answers[type(exit_)](package, exit_)
        # The steal-time MSR arms no timer: what it asks for is stored before the next instruction in any case.
        return type(exit_) not in _CONCERNS_HOST or getattr(exit_, "msr", None) == abi.MSR_KVM_STEAL_TIME

    def state(self) -> State:
        return self.count, tuple(self.last), self.shutdown

    def load(self, state: State) -> None:
        self.count, last, self.shutdown = state
        self.last = list(last)

    def interrupt(self, package: Package) -> None:
        """Deliver the interrupt that is pending; the caller has made sure that the vCPU takes it."""
        vector = package.lapic.acknowledge()
        found = delivery.deliver_interrupt(package.vcpu, vector)
        if not self._delivered(package, vector, None, None, "interrupt", found):
            package.lapic.put_back(vector)
        elif package.pv_eoi is not None:
            package.pv_eoi.injected()

    def nmi(self, package: Package) -> None:
        """Deliver the non-maskable interrupt that has arrived, whatever the interrupt flag says."""
        vector = abi.NMI_VECTOR
        if self._delivered(package, vector, None, None, "interrupt", delivery.deliver_interrupt(package.vcpu, vector)):
            package.lapic.nmi = False

    def pages_back(self, package: Package) -> bool:
        """Tell the guest of pages that are back, as far as it can be told now; whether that was an exception."""
        device = package.async_pf
        while device is not None and device.due:
            ready = self._absent.told(device, package)
            if ready is None:
                break
            self._model.store_async_pf(package, ready.steps)
            if ready.vector is not None:
                package.lapic.accept(ready.vector)
            if ready.fault:
                self._inject(package, GuestFault(abi.PF_VECTOR, 0, ready.token))
                return True
        return False

    # --- instructions the host answers ---

    def _cpuid(self, package: Package, exit_: exits.Cpuid) -> None:
        values = package.cpuid.query(exit_.leaf, exit_.subleaf)
        lie = package.take_lie("cpuid")
        if lie is not None:
            told = list(values)
            told[lie.register] = lie.about(told[lie.register])
            values = told[0], told[1], told[2], told[3]
        package.vcpu.complete_cpuid(exit_, values)

    def _rdmsr(self, package: Package, exit_: exits.Rdmsr) -> None:
        try:
            lie = _lie(package, "rdmsr")
            value = package.msrs.rdmsr(exit_.msr)
        except GuestFault as fault:
            self._inject(package, fault)
        else:
            package.vcpu.complete_rdmsr(exit_, value if lie is None else lie.about(value))

    def _wrmsr(self, package: Package, exit_: exits.Wrmsr) -> None:
        try:
            _lie(package, "wrmsr")
            self.write_msr(package, exit_.msr, exit_.value)
        except GuestFault as fault:
            self._inject(package, fault)
        else:
            package.vcpu.complete(exit_)

    def write_msr(self, package: Package, msr: int, value: int) -> None:
        """Hand the value to the MSR's owner, and do all that follows from it; raises GuestFault where it is refused."""
        if msr == abi.MSR_KVM_STEAL_TIME:
            self._model.finish(package)
        try:
            package.msrs.wrmsr(msr, value)
        except GuestFault:
            self._recorder.wrote_msr(package, msr, value, False)
            raise
        self._recorder.wrote_msr(package, msr, value, True)
        self._wrote_apic(package, msr)
        self._model.wrote_msr(package)

    def _rdtsc(self, package: Package, exit_: exits.Rdtsc) -> None:
        package.vcpu.complete_rdtsc(exit_, package.tsc.value(), package.tsc_aux)

    def _port_in(self, package: Package, exit_: exits.PortIn) -> None:
        package.vcpu.complete_in(self._ports.read(exit_.port, exit_.size))

    def _port_out(self, package: Package, exit_: exits.PortOut) -> None:
        self._ports.write(exit_.port, exit_.size, exit_.value)
        package.vcpu.complete_out()
        if self._marks.take() is not None:
            self._recorder.marked(package, exit_)

    def _hlt(self, package: Package, exit_: exits.Hlt) -> None:
        package.vcpu.complete(exit_)
        package.halting = True

    def _pause(self, package: Package, exit_: exits.Pause) -> None:
        package.vcpu.complete(exit_)

    def _hypercall(self, package: Package, exit_: exits.Hypercall) -> None:
        vcpu = package.vcpu
        rax, rbx, rcx, rdx, rsi = (vcpu.general(name) for name in _HYPERCALL_REGISTERS)
        request = package.hypercalls.decode((rax, rbx, rcx, rdx, rsi), cpl=exit_.cpl, long_mode=exit_.long)
        result = request.value if isinstance(request, Answer) else self._interconnect.call(package, request)
        vcpu.complete_hypercall(exit_, result)

    def _tpr_read(self, package: Package, exit_: exits.TprRead) -> None:
        package.vcpu.complete_register(exit_, package.lapic.tpr >> 4)

    def _tpr_write(self, package: Package, exit_: exits.TprWrite) -> None:
        if exit_.value >> 4:
            self._inject(package, GuestFault(abi.GP_VECTOR, 0))
        else:
            package.lapic.tpr = exit_.value << 4
            package.vcpu.complete(exit_)

    def _interrupt_window(self, package: Package, exit_: exits.InterruptWindow) -> None:
        """Nothing to complete: the interrupt is delivered before the next entry."""

    # --- memory that is not there ---

    def _nested_fault(self, package: Package, exit_: exits.NestedFault) -> None:
        if exit_.gpa & -abi.PAGE_SIZE == package.lapic.window_gpa:
            self._registers(package, exit_)
            return
        if not self._absent.away(exit_.gpa):
            return  # it came back while this exit waited for its turn
        missing = self._absent.touched(package, exit_)
        if missing.action == INJECT:
            self._model.store_async_pf(package, missing.steps)
            self._inject(package, GuestFault(abi.PF_VECTOR, 0, missing.token))
        elif missing.action == HALT:
            package.vcpu.charge(1)  # where something is pending already it does not sleep, and comes here again
            package.halting = True

    def _registers(self, package: Package, exit_: exits.NestedFault) -> None:
        """An access to the local APIC's window: the instruction is done with what the registers hold."""
        lapic, vcpu = package.lapic, package.vcpu
        page, offset = exit_.gpa & -abi.PAGE_SIZE, exit_.gpa % abi.PAGE_SIZE
        answers: dict[tuple[int, int], int] = {}
        asked = (offset, 4) if exit_.access == "read" and offset % abi.APIC_MMIO_STRIDE == 0 else None
        while True:
            if asked is not None:
                answers[asked] = lapic.mmio_read(*asked)
            window, exit_after = vcpu.complete_window(answers)
            asked = window.asked
            if asked is None:
                break
        for (at, size), value in answers.items():
            self._recorder.accessed(package, page + at, size, value, False)
        for at, size, value in window.stored:
            self._recorder.accessed(package, page + at, size, value, True)
            lapic.mmio_write(at, size, value)
            self._wrote_apic(package, abi.X2APIC_MSR + at // abi.APIC_MMIO_STRIDE)
        if type(exit_after) is not exits.BudgetSpent:
            package.exit = exit_after

    def _wrote_apic(self, package: Package, register: int) -> None:
        """What follows a write to a register of the APIC, given by the number it has as an MSR."""
        if register == abi.APIC_ICR:
            self._interconnect.carry(package)
        elif register == abi.APIC_EOI and package.pv_eoi is not None:
            package.pv_eoi.eoi()
        elif register == abi.APIC_SPIV and package.async_pf is not None:
            package.async_pf.request()

    # --- exceptions, through the guest's own IDT ---

    def _fault(self, package: Package, exit_: exits.Fault) -> None:
        self._inject(package, GuestFault(exit_.vector, exit_.error, exit_.address))

    def _software_interrupt(self, package: Package, exit_: exits.SoftwareInterrupt) -> None:
        shutdown = delivery.deliver_software_interrupt(package.vcpu, exit_)
        self._delivered(package, exit_.vector, None, None, "software", shutdown)

    def _inject(self, package: Package, fault: GuestFault) -> None:
        shutdown = delivery.deliver_fault(package.vcpu, fault.vector, fault.error, fault.address)
        self._delivered(package, fault.vector, fault.error, fault.address, "exception", shutdown)

    def _delivered(
        self,
        package: Package,
        vector: int,
        error: int | None,
        address: int | None,
        kind: str,
        undelivered: delivery.Undelivered,
    ) -> bool:
        """Tell of a delivery; whether it took place, or is to be tried again when a page is back."""
        if isinstance(undelivered, exits.NestedFault):
            package.exit = undelivered
            return False
        self._recorder.trapped(package, vector, error, address, kind)
        if undelivered is not None:
            self.shutdown = package.number, undelivered
        return True


def _lie(package: Package, exit_: str) -> Lie | None:
    """How an access to an MSR is to be answered; None: truly. Raises GuestFault where it is to be refused."""
    lie = package.take_lie(exit_)
    if lie is not None and lie.refuse:
        raise GuestFault(abi.GP_VECTOR, 0)
    return lie
