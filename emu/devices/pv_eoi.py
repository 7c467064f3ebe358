"""Paravirtual EOI: a guest ends an interrupt by clearing a bit in its memory, without leaving guest mode.

Before an entry the host sets the bit where exactly one thing can follow, the end of the interrupt in service. The guest
tests and clears it: had it been set, that was the EOI; had it not, the guest writes to its APIC as ever. At the next
exit the host looks: a bit that is gone is an EOI to be carried out, a bit that is still there is taken back, because
what was safe before this exit may not be after it.

In Linux: kvm_lapic_set_pv_eoi(), apic_sync_pv_eoi_to_guest() and apic_sync_pv_eoi_from_guest() in
arch/x86/kvm/lapic.c; the guest's side is kvm_guest_apic_eoi_write() in arch/x86/kernel/kvm.c.
"""

from collections.abc import Callable, Iterator

from emu import abi
from emu.devices.steal_time import Load, Step
from emu.faults import general_protection
from emu.stateful import Stateful


class PvEoi(Stateful):
    """One vCPU's MSR_KVM_PV_EOI_EN and the bit in its memory. `ram_holds(gpa, size)` says whether a range is RAM.

    `pending`: the bit is set, or was and has been cleared by the guest. The machine calls `injected` and `eoi` as the
    APIC acknowledges and ends interrupts, `enter` before every entry and `leave` after every exit.
    """

    features = (abi.KVM_FEATURE_PV_EOI,)
    msrs = (abi.MSR_KVM_PV_EOI_EN,)
    fields = ("msr_value", "pending", "_newest_in_service")

    def __init__(self, ram_holds: Callable[[int, int], bool]) -> None:
        self._ram_holds = ram_holds
        self.reset()

    @property
    def enabled(self) -> bool:
        """Whether the guest wants it."""
        return bool(self.msr_value & abi.KVM_MSR_ENABLED)

    @property
    def area_gpa(self) -> int:
        """Where the bit is: bit 0 of the byte at this address."""
        return self.msr_value & ~abi.KVM_MSR_ENABLED

    def rdmsr(self, msr: int) -> int:
        """The last value accepted, bit for bit; raises GuestFault for any other MSR."""
        self._check(msr)
        return self.msr_value

    def wrmsr(self, msr: int, value: int) -> None:
        """Register `value`'s address (bit 0 set) or do without (bit 0 clear).

        Raises GuestFault where the address is not a multiple of 4, or is to be used and not in RAM; then nothing
        changes.
        """
        self._check(msr)
        gpa = value & ~abi.KVM_MSR_ENABLED
        if gpa % abi.KVM_PV_EOI_ALIGNMENT or (value & abi.KVM_MSR_ENABLED and not self._ram_holds(gpa, 1)):
            raise general_protection()
        self.msr_value = value
        self.pending = False

    def reset(self) -> None:
        """The vCPU is reset: nothing is registered and nothing in service."""
        self.msr_value = 0
        self.pending = False
        self._newest_in_service = False

    def injected(self) -> None:
        """The CPU took an interrupt: the one in service that an EOI would end is the one just taken."""
        self._newest_in_service = True

    def eoi(self) -> None:
        """An interrupt was ended, in either way: one that may still be in service was interrupted, and ends by APIC."""
        self._newest_in_service = False

    def enter(self, requested: bool) -> Iterator[Step]:
        """Before an entry: at most one store, which sets the bit. `requested`: some interrupt waits in the IRR.

        Then the guest must come out at its EOI, so that the one that waits is delivered.
        """
        if self.enabled and self._newest_in_service and not requested:
            self.pending = True
            yield Step("pv-eoi-set", self.area_gpa, 1, abi.KVM_PV_EOI_ENABLED)

    def leave(self, load: Load) -> tuple[bool, tuple[Step, ...]]:
        """After an exit, before anything else: whether the guest has ended its interrupt, and what is to be stored.

        Where it has, the machine ends the highest interrupt in service and calls `eoi`.
        """
        if not self.pending:
            return False, ()
        self.pending = False
        if load(self.area_gpa, 1) & abi.KVM_PV_EOI_ENABLED:
            return False, (Step("pv-eoi-clear", self.area_gpa, 1, abi.KVM_PV_EOI_DISABLED),)
        return True, ()

    def _check(self, msr: int) -> None:
        if msr not in self.msrs:
            raise general_protection()
