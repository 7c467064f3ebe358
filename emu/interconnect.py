"""What vCPUs send each other: interrupts, NMIs, and the INIT and start-up messages by which one starts another.

A message is delivered at the moment it is sent, when no vCPU is behind the sender in virtual time. Whom it interrupts
sees it before its next instruction; whom it wakes waits for a pCPU from now on. INIT and start-up change a whole vCPU, so
they are kept by its APIC until it is about to run (`emu.package.Package.start_over`).

In Linux: kvm_irq_delivery_to_apic() in arch/x86/kvm/irq_comm.c; kvm_apic_accept_events() in arch/x86/kvm/lapic.c.
"""

from collections.abc import Callable, Sequence

from emu.devices.ipi import route
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

    def notice(self, package: Package) -> None:
        """Something has arrived at this vCPU's APIC: wake it, if that ends its sleep."""
        lapic = package.lapic
        if lapic.startup.pending or (lapic.nmi and not lapic.startup.waiting):
            package.parked = False  # neither asks for the interrupt flag
        elif package.parked or lapic.startup.waiting or lapic.pending() is None:
            return
        self._host.wake(package.number, self._now())
