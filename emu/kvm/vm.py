"""One virtual machine of KVM: memory slot 0 is an emu Ram, a local APIC per vCPU is in the kernel, nothing else.

The I/O APIC and the PICs stay out ("split" irqchip): the emulator has none, and their ports must float here as there.

In Linux: kvm_vm_ioctl() in virt/kvm/kvm_main.c; kvm__init() in kvmtool's kvm.c.
"""

import ctypes
import os
from typing import Any

from emu.devices.migration_control import MigrationControl
from emu.kvm import ioctls
from emu.kvm.system import System
from emu.ram import Ram

_TSS_GPA = 0xFFFBD000  # three pages that some Intel CPUs need for real mode; above any RAM of ours


class Vm:
    """A VM whose guest-physical memory from 0 on is `ram`; both sides see each store at once."""

    def __init__(self, system: System, ram: Ram) -> None:
        self.system = system
        self.ram = ram
        self.fd = system.request(ioctls.KVM_CREATE_VM)
        self.ioctl: Any = system.ioctl
        self._set_tss_address()
        pins = (ioctls.SPLIT_IRQCHIP_PINS, 0, 0, 0)
        self.request(ioctls.KVM_ENABLE_CAP, ioctls.ENABLE_CAP.pack(ioctls.KVM_CAP_SPLIT_IRQCHIP, 0, *pins))
        address = ctypes.addressof(ctypes.c_char.from_buffer(ram.bytes))
        self.request(ioctls.KVM_SET_USER_MEMORY_REGION, ioctls.MEMORY_REGION.pack(0, 0, 0, ram.size, address))

    def request(self, number: int, argument: Any = 0) -> int:
        """One ioctl on the VM. Raises OSError as the kernel says."""
        answer: int = self.ioctl(self.fd, number, argument)
        return answer

    def serve_migration_control(self) -> None:
        """Have accesses to this one MSR leave the guest, since KVM has none: see `emu.kvm.msr_exit`."""
        reason = (ioctls.KVM_MSR_EXIT_REASON_FILTER, 0, 0, 0)
        self.request(ioctls.KVM_ENABLE_CAP, ioctls.ENABLE_CAP.pack(ioctls.KVM_CAP_X86_USER_SPACE_MSR, 0, *reason))
        allowed = ctypes.create_string_buffer(8)  # a bitmap of zeroes
        filter_ = bytearray(ioctls.MSR_FILTER_SIZE)
        for at, msr in enumerate(MigrationControl.msrs):
            place = ioctls.MSR_FILTER_RANGES + at * ioctls.MSR_FILTER_RANGE.size
            fields = (ioctls.MSR_FILTER_READ_WRITE, 1, msr, ctypes.addressof(allowed))
            ioctls.MSR_FILTER_RANGE.pack_into(filter_, place, *fields)
        self.request(ioctls.KVM_X86_SET_MSR_FILTER, bytes(filter_))

    def close(self) -> None:
        """Give the file back; the kernel frees the VM when its vCPUs are closed too."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _set_tss_address(self) -> None:
        # Not by fcntl.ioctl: it takes signed 32-bit numbers, and this address is one that RAM never reaches. An error
        # is no news: only VMX knows the request, and only VMX needs it.
        ctypes.CDLL(None).ioctl(self.fd, ctypes.c_ulong(ioctls.KVM_SET_TSS_ADDR), ctypes.c_ulong(_TSS_GPA))
