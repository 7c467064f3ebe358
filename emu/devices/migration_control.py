"""Whether the guest is ready to be moved to another host.

KVM itself does not implement this register: it is there where a VMM offers it. A guest whose memory is not encrypted
can always be moved, so it begins as ready. INIT leaves it alone: KVM tells a VMM nothing of an INIT that one vCPU sends
another, so a VMM on KVM can do nothing else.

In Linux: MSR_KVM_MIGRATION_CONTROL in Documentation/virt/kvm/x86/msr.rst; arch/x86/kernel/kvm.c writes it.
"""

from emu import abi
from emu.faults import general_protection
from emu.stateful import Stateful


class MigrationControl(Stateful):
    """One vCPU's MSR_KVM_MIGRATION_CONTROL: ready when the vCPU is made."""

    features = (abi.KVM_FEATURE_MIGRATION_CONTROL,)
    msrs = (abi.MSR_KVM_MIGRATION_CONTROL,)
    fields = ("msr_value",)

    def __init__(self) -> None:
        self.msr_value = abi.KVM_MIGRATION_READY

    @property
    def ready(self) -> bool:
        """Whether the guest may be moved."""
        return bool(self.msr_value)

    def rdmsr(self, msr: int) -> int:
        """The last value accepted; raises GuestFault for any other MSR."""
        self._check(msr)
        return self.msr_value

    def wrmsr(self, msr: int, value: int) -> None:
        """Ready (1) or not (0); raises GuestFault for any other bit, and then changes nothing.

        The document names bit 0 alone and does not say what the others do; here they are reserved.
        """
        self._check(msr)
        if value & ~abi.KVM_MIGRATION_READY:
            raise general_protection()
        self.msr_value = value

    def reset(self) -> None:
        """INIT leaves the register alone."""

    def _check(self, msr: int) -> None:
        if msr not in self.msrs:
            raise general_protection()
