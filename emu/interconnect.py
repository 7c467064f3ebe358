"""What vCPUs send each other: interrupts, NMIs, and the INIT and start-up messages by which one starts another.

A message is delivered at the moment it is sent, when no vCPU is behind the sender in virtual time. Whom it interrupts
sees it before its next instruction; whom it wakes waits for a pCPU from now on. INIT and start-up change a whole vCPU,
so they are kept by its APIC until it is about to run (`emu.package.Package.start_over`).

In Linux: kvm_irq_delivery_to_apic() in arch/x86/kvm/irq_comm.c; kvm_apic_accept_events() in arch/x86/kvm/lapic.c.
"""

from collections.abc import Callable, Iterable, Sequence

from emu.devices.hypercalls import Kick, Request, SendIpi, Yield
from emu.devices.ipi import Ipi, route
from emu.host.scheduler import Scheduler
from emu.package import Package
from emu.recorder import Recorder


class Interconnect:
    """Joins the local APICs of `packages`; whom a message wakes, `host` wakes. `now` is virtual time in picoseconds."""

    def __init__(
        self, packages: Sequence[Package], host: Scheduler, recorder: Recorder, now: Callable[[], int]
    ) -> None:
        self._packages = packages
        self._host = host
        self._recorder = recorder
        self._now = now

    def carry(self, sender: Package) -> None:
        """Take what the sender's APIC has sent to where it goes."""
        for message in sender.lapic.take_ipis():
            apics = route(message, [package.lapic for package in self._packages])
            self._recorder.sent(sender, message.mode, message.vector, tuple(apic.apic_id for apic in apics))
            for apic in apics:
                apic.receive(message)
                self.notice(self._packages[apic.apic_id])

    def call(self, caller: Package, request: Request) -> int:
        """Do what a hypercall asks for; what it returns."""
        if isinstance(request, Kick):
            for package in self._at((request.apic_id,)):
                package.kicked = True
                package.parked = False
                if package.waiting:
                    continue
                self._host.wake(package.number, self._now())
            return 0
        if isinstance(request, SendIpi):
            reached = self._at(request.destinations)
            to = tuple(package.number for package in reached)
            self._recorder.sent(caller, request.mode, request.vector, to)
            for package in reached:
                package.lapic.receive(Ipi(caller.number, request.mode, request.vector, package.number))
                self.notice(package)
            return len(reached)
        if isinstance(request, Yield):
            for package in self._at((request.apic_id,)):
                self._host.yield_to(caller.number, package.number)
            return 0  # whether it came to anything, the guest is not told
        raise ValueError(f"no machine offers {request}")

    def _at(self, apic_ids: Iterable[int]) -> list[Package]:
        return [self._packages[apic_id] for apic_id in apic_ids if apic_id < len(self._packages)]

    def notice(self, package: Package) -> None:
        """Something has arrived at this vCPU's APIC: wake it, if that ends its sleep."""
        lapic = package.lapic
        if package.waiting:
            return
        if lapic.startup.pending or (lapic.nmi and not lapic.startup.waiting):
            package.parked = False  # neither asks for the interrupt flag
        elif package.parked or lapic.startup.waiting or lapic.pending() is None:
            return
        self._host.wake(package.number, self._now())
