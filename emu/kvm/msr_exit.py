"""An MSR that KVM leaves to its user: a guest's access leaves KVM_RUN, the emulator's own device answers it.

What is refused becomes #GP(0) in the guest. The instruction is completed by the next entry.

In Linux: complete_emulated_msr_access() in arch/x86/kvm/x86.c; Documentation/virt/kvm/api.rst, KVM_EXIT_X86_RDMSR.
"""

from emu.bus.msr import MsrOwner
from emu.faults import GuestFault
from emu.kvm import ioctls
from emu.kvm.vcpu import Vcpu

REASONS = (ioctls.KVM_EXIT_X86_RDMSR, ioctls.KVM_EXIT_X86_WRMSR)


def complete(vcpu: Vcpu, reason: int, owner: MsrOwner) -> None:
    """Let `owner` answer the access by which the guest has left with `reason`, one of REASONS."""
    page = vcpu.page
    _, _, msr, value = ioctls.RUN_MSR.unpack_from(page, ioctls.RUN_EXIT)
    try:
        if reason == ioctls.KVM_EXIT_X86_WRMSR:
            owner.wrmsr(msr, value)
        else:
            page[ioctls.RUN_MSR_DATA : ioctls.RUN_MSR_DATA + 8] = owner.rdmsr(msr).to_bytes(8, "little")
    except GuestFault:
        page[ioctls.RUN_MSR_ERROR] = 1
