"""Whether the host may poll for a while where the guest executes HLT, before it gives the pCPU to somebody else.

In Linux: MSR_KVM_POLL_CONTROL in kvm_set_msr_common(), kvm_arch_no_poll(), both in arch/x86/kvm/x86.c; the guest that
clears it is drivers/cpuidle/cpuidle-haltpoll.c.
"""

from emu import abi
from emu.faults import general_protection
from emu.stateful import Stateful


class PollControl(Stateful):
    """One vCPU's MSR_KVM_POLL_CONTROL: allowed when the vCPU is made."""

    features = (abi.KVM_FEATURE_POLL_CONTROL,)
    msrs = (abi.MSR_KVM_POLL_CONTROL,)
    fields = ("msr_value",)

    def __init__(self) -> None:
        self.msr_value = abi.KVM_POLL_CONTROL_ENABLED

    @property
    def allowed(self) -> bool:
        """Whether the host may poll."""
        return bool(self.msr_value)

    def rdmsr(self, msr: int) -> int:
        """The last value accepted; raises GuestFault for any other MSR."""
        self._check(msr)
        return self.msr_value

    def wrmsr(self, msr: int, value: int) -> None:
        """Allow (1) or forbid (0); raises GuestFault for any other bit, and then changes nothing."""
        self._check(msr)
        if value & ~abi.KVM_POLL_CONTROL_ENABLED:
            raise general_protection()
        self.msr_value = value

    def reset(self) -> None:
        """INIT leaves the register alone: KVM sets it once, in kvm_arch_vcpu_postcreate()."""

    def _check(self, msr: int) -> None:
        if msr not in self.msrs:
            raise general_protection()
