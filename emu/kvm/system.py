"""/dev/kvm itself: is it there, may we use it, what can it do.

In Linux: kvm_dev_ioctl() in virt/kvm/kvm_main.c and kvm_arch_dev_ioctl() in arch/x86/kvm/x86.c.
"""

import os
from typing import Any

from emu.faults import HostError
from emu.kvm import ioctls

PATH = "/dev/kvm"
_NEEDED = {
    ioctls.KVM_CAP_SPLIT_IRQCHIP: "a local APIC in the kernel (KVM_CAP_SPLIT_IRQCHIP)",
    ioctls.KVM_CAP_ENFORCE_PV_FEATURE_CPUID: "paravirtual features tied to CPUID (KVM_CAP_ENFORCE_PV_FEATURE_CPUID)",
    ioctls.KVM_CAP_X86_USER_SPACE_MSR: "MSRs served by user space (KVM_CAP_X86_USER_SPACE_MSR)",
    ioctls.KVM_CAP_X86_MSR_FILTER: "a choice of which these are (KVM_CAP_X86_MSR_FILTER)",
    ioctls.KVM_CAP_IMMEDIATE_EXIT: "a way to call a vCPU back (KVM_CAP_IMMEDIATE_EXIT)",
}


class System:
    """An open /dev/kvm. Raises HostError, in one sentence, where there is none or it cannot be used."""

    def __init__(self) -> None:
        self.fd = -1
        try:
            import fcntl
        except ImportError:
            raise HostError(
                "there is no /dev/kvm on this system", PATH, "KVM needs Linux; leave out --on kvm"
            ) from None
        self.ioctl: Any = fcntl.ioctl
        try:
            self.fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise HostError(
                "there is no /dev/kvm on this machine",
                remedy="load the module kvm_intel or kvm_amd, or leave out --on kvm",
            ) from None
        except PermissionError:
            raise HostError("you may not open it", PATH, "join the group kvm, or leave out --on kvm") from None
        except OSError as error:
            raise HostError(f"cannot be opened ({error.strerror})", PATH) from None
        try:
            self._check()
        except HostError:
            self.close()
            raise
        self.run_size = self.request(ioctls.KVM_GET_VCPU_MMAP_SIZE)

    def _check(self) -> None:
        try:
            version = self.request(ioctls.KVM_GET_API_VERSION)
        except OSError:
            raise HostError("is not KVM", PATH, "leave out --on kvm") from None
        if version != ioctls.KVM_API_VERSION:
            raise HostError(f"speaks version {version} of its interface, not {ioctls.KVM_API_VERSION}", PATH)
        for capability, what in _NEEDED.items():
            if self.capability(capability) <= 0:
                raise HostError(f"this kernel lacks {what}", PATH, "use a newer kernel, or leave out --on kvm")

    def request(self, number: int, argument: Any = 0) -> int:
        """One ioctl on /dev/kvm; a bytearray is filled in place. Raises OSError as the kernel says."""
        answer: int = self.ioctl(self.fd, number, argument)
        return answer

    def capability(self, number: int) -> int:
        """0 where it is missing, else what KVM_CHECK_EXTENSION says."""
        return self.request(ioctls.KVM_CHECK_EXTENSION, number)

    def supported_cpuid(self) -> dict[tuple[int, int], tuple[int, int, int, int]]:
        """What this KVM could offer: (leaf, subleaf) -> (EAX, EBX, ECX, EDX)."""
        header, entry = ioctls.CPUID_HEADER, ioctls.CPUID_ENTRY
        buffer = bytearray(header.pack(ioctls.CPUID_ENTRIES, 0) + bytes(entry.size * ioctls.CPUID_ENTRIES))
        self.request(ioctls.KVM_GET_SUPPORTED_CPUID, buffer)
        count, _ = header.unpack_from(buffer)
        found = {}
        for number in range(count):
            leaf, subleaf, _, *registers = entry.unpack_from(buffer, header.size + number * entry.size)
            eax, ebx, ecx, edx = registers
            found[leaf, subleaf] = (eax, ebx, ecx, edx)
        return found

    def close(self) -> None:
        """Give the file back; VMs made of it live on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> "System":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def missing() -> str | None:
    """Why this machine cannot run guests on KVM, in one sentence, or None where it can."""
    try:
        System().close()
    except HostError as error:
        return str(error)
    return None
