"""The MSRs that belong to the CPU itself: long mode, SYSCALL, segment bases, memory types.

Some live in the engine, because its own instructions use them (EFER, STAR, the bases of FS and GS); the others are kept
here, because nobody but the host reads them.

In Linux: kvm_set_msr_common() and set_efer() in arch/x86/kvm/x86.c; svm_set_msr() in arch/x86/kvm/svm/svm.c.
"""

from emu import abi
from emu.faults import general_protection
from emu.vcpu.vcpu import Vcpu

_CANONICAL = frozenset(
    (
        *(abi.MSR_LSTAR, abi.MSR_CSTAR, abi.MSR_FS_BASE, abi.MSR_GS_BASE, abi.MSR_KERNEL_GS_BASE),
        *(abi.MSR_IA32_SYSENTER_ESP, abi.MSR_IA32_SYSENTER_EIP),
    )
)
_IN_ENGINE = frozenset((abi.MSR_EFER, abi.MSR_STAR, abi.MSR_FS_BASE, abi.MSR_GS_BASE, abi.MSR_KERNEL_GS_BASE))
_EFER_OFFERED = abi.EFER_SCE | abi.EFER_LME | abi.EFER_LMA | abi.EFER_NXE
_MEMORY_TYPES = frozenset((0, 1, 4, 5, 6, 7))  # UC, WC, WT, WP, WB, UC-
_MASK32 = 0xFFFFFFFF


def is_canonical(address: int) -> bool:
    """Whether bits 63 to 47 of a linear address are all equal."""
    return address >> 47 in (0, (1 << 17) - 1)


class CpuMsrs:
    """The owner, on an MSR bus, of one vCPU's architectural MSRs. Both accessors raise GuestFault to refuse."""

    msrs = tuple(
        sorted(
            (
                *_CANONICAL,
                *_IN_ENGINE,
                *(abi.MSR_SYSCALL_MASK, abi.MSR_TSC_AUX, abi.MSR_IA32_SYSENTER_CS, abi.MSR_IA32_CR_PAT),
            )
        )
    )

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu

    def rdmsr(self, msr: int) -> int:
        """The 64-bit value; EFER without the bit that makes the engine a hypervisor's."""
        if msr not in _IN_ENGINE:
            return self._vcpu.msrs[msr]
        value = self._vcpu.engine_msr(msr)
        return value & ~abi.EFER_SVME if msr == abi.MSR_EFER else value

    def wrmsr(self, msr: int, value: int) -> None:
        """Write; a non-canonical address, a reserved bit of EFER or an unknown memory type is refused."""
        if msr in _CANONICAL and not is_canonical(value):
            raise general_protection()
        if msr == abi.MSR_EFER:
            self._write_efer(value)
        elif msr in _IN_ENGINE:
            self._vcpu.set_engine_msr(msr, value)
        elif msr == abi.MSR_IA32_CR_PAT and not set(value.to_bytes(8, "little")) <= _MEMORY_TYPES:
            raise general_protection()
        else:
            # An AMD processor keeps 32 bits of these two and ignores the others.
            narrow = msr in (abi.MSR_TSC_AUX, abi.MSR_IA32_SYSENTER_CS)
            self._vcpu.msrs[msr] = value & _MASK32 if narrow else value

    def _write_efer(self, value: int) -> None:
        now = self.rdmsr(abi.MSR_EFER)
        if value & ~_EFER_OFFERED:
            raise general_protection()
        if (value ^ now) & abi.EFER_LME and self._vcpu.paging().cr0 & abi.CR0_PG:
            raise general_protection()
        kept = value & ~abi.EFER_LMA | now & abi.EFER_LMA  # LMA follows CR0.PG, whatever is written
        self._vcpu.set_engine_msr(abi.MSR_EFER, kept | abi.EFER_SVME)
