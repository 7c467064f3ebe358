"""One vCPU of KVM: its registers go in as a CpuState, KVM_RUN enters it, an exit reason comes out.

All requests to a vCPU belong to one thread at a time; while KVM_RUN is under way every other request would wait. The
one thing another thread may do is `kick`: it sets `immediate_exit` and sends a signal that KVM_RUN alone lets through,
so the entry ends and no handler is ever called. Nothing hangs, and no signal handler of the program is touched.

In Linux: kvm_vcpu_ioctl() in virt/kvm/kvm_main.c, kvm_arch_vcpu_ioctl_run() in arch/x86/kvm/x86.c.
"""

import mmap
import os
from typing import Any, NamedTuple

from emu import abi
from emu.faults import HostError
from emu.kvm import ioctls, layout
from emu.kvm.vm import Vm
from emu.state import CpuState

KICK_SIGNAL = "SIGUSR1"  # by name: Windows has none
KICKED = -1


class PortAccess(NamedTuple):
    """KVM_EXIT_IO: `repeats` accesses of `size` bytes at `port`; `data_at`: where their bytes are in the run page."""

    out: bool
    size: int
    port: int
    repeats: int
    data_at: int


class MmioAccess(NamedTuple):
    """KVM_EXIT_MMIO: an access to a guest-physical address where no RAM is."""

    gpa: int
    data: bytes
    size: int
    write: bool


class Vcpu:
    """vCPU `number` of `vm`, told the leaves `packed` (see emu.kvm.cpuid).

    With `enforce` it is refused what the leaves do not offer of KVM's MSRs and hypercalls; KVM by itself would not.
    """

    def __init__(self, vm: Vm, number: int, packed: bytes, *, enforce: bool = True) -> None:
        self.vm = vm
        self.number = number
        self.ioctl: Any = vm.ioctl
        self._thread: int | None = None
        self._kick_signal = 0
        self.fd = vm.request(ioctls.KVM_CREATE_VCPU, number)
        self.page = mmap.mmap(self.fd, vm.system.run_size)
        enforcing = (ioctls.KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 0, int(enforce), 0, 0, 0)
        self.request(ioctls.KVM_ENABLE_CAP, ioctls.ENABLE_CAP.pack(*enforcing))
        self.request(ioctls.KVM_SET_CPUID2, packed)

    def request(self, number: int, argument: Any = 0) -> int:
        """One ioctl on the vCPU; a bytearray is filled in place. Raises OSError as the kernel says."""
        answer: int = self.ioctl(self.fd, number, argument)
        return answer

    def close(self) -> None:
        """Give the file and the run page back; not while another thread is in `enter`."""
        if self.fd >= 0:
            self.page.close()
            os.close(self.fd)
            self.fd = -1

    # --- state -------------------------------------------------------------------------------------------------------

    def set_state(self, cpu: CpuState) -> None:
        """Stand at `cpu`. Raises HostError where this KVM refuses a part of it."""
        apic_base = ioctls.CONTROL.unpack_from(self.sregs(), ioctls.SREGS_CONTROL)[-1]
        parts = (
            ("control registers and segments", ioctls.KVM_SET_SREGS, layout.pack_sregs(cpu, apic_base)),
            ("general registers", ioctls.KVM_SET_REGS, layout.pack_regs(cpu)),
            ("FPU and SSE registers", ioctls.KVM_SET_XSAVE, layout.pack_xsave(cpu)),
            ("debug registers", ioctls.KVM_SET_DEBUGREGS, layout.pack_debugregs(cpu)),
        )
        for what, request, packed in parts:
            try:
                self.request(request, bytearray(packed))  # fcntl takes bytes only up to 1024
            except OSError as error:
                raise HostError(f"KVM does not take this state's {what} ({error.strerror})", "/dev/kvm") from None
        self.set_shadow(cpu.shadow)
        pairs = tuple(pair for pair in cpu.msrs if pair[0] != abi.MSR_EFER)  # that one is among the sregs
        done = self.set_msrs(pairs)
        if done < len(pairs):
            raise HostError(f"KVM does not take this state's MSR {pairs[done][0]:#x}", "/dev/kvm")

    def set_shadow(self, shadow: bool) -> None:
        """Whether the next instruction stands in the shadow of STI or MOV SS."""
        self._set_event(ioctls.VCPU_EVENTS_SHADOW, shadow, ioctls.KVM_VCPUEVENT_VALID_SHADOW)

    def init(self) -> None:
        """INIT: the vCPU as after the signal, at its reset vector. What it keeps of its MSRs is KVM's affair.

        Not sent as a message: with the APIC software-disabled, KVM loses an INIT that user space sends by MSI.
        Raises HostError for a kernel without CONFIG_KVM_SMM, where this way in is closed.
        """
        try:
            self._set_event(ioctls.VCPU_EVENTS_LATCHED_INIT, True, ioctls.KVM_VCPUEVENT_VALID_SMM)
        except OSError:
            raise HostError("this kernel's KVM takes no INIT from user space (CONFIG_KVM_SMM)", "/dev/kvm") from None
        self.mp_state()  # asking for the state is what makes KVM take a pending INIT

    def _set_event(self, at: int, value: bool, valid: int) -> None:
        events = self._get(ioctls.KVM_GET_VCPU_EVENTS, ioctls.VCPU_EVENTS_SIZE)
        events[at] = value
        events[ioctls.VCPU_EVENTS_FLAGS : ioctls.VCPU_EVENTS_FLAGS + 4] = valid.to_bytes(4, "little")
        self.request(ioctls.KVM_SET_VCPU_EVENTS, bytes(events))

    def regs(self) -> bytearray:
        """struct kvm_regs."""
        return self._get(ioctls.KVM_GET_REGS, ioctls.REGS.size)

    def rip(self) -> int:
        """Where it stands."""
        return layout.general(self.regs())["rip"]

    def sregs(self) -> bytearray:
        """struct kvm_sregs."""
        return self._get(ioctls.KVM_GET_SREGS, ioctls.SREGS_SIZE)

    def get_msr(self, msr: int) -> int | None:
        """What the host reads there, or None where KVM has no such MSR for this vCPU."""
        buffer = layout.pack_msrs(((msr, 0),))
        if self.request(ioctls.KVM_GET_MSRS, buffer) != 1:
            return None
        value: int = ioctls.MSR_ENTRY.unpack_from(buffer, ioctls.MSRS_HEADER.size)[2]
        return value

    def get_msrs(self, numbers: tuple[int, ...]) -> list[int]:
        """What the host reads there, in order. Raises HostError where KVM has not all of them for this vCPU."""
        buffer = layout.pack_msrs(tuple((msr, 0) for msr in numbers))
        done = self.request(ioctls.KVM_GET_MSRS, buffer)
        if done < len(numbers):
            raise HostError(f"KVM has no MSR {numbers[done]:#x} for this vCPU", "/dev/kvm")
        return [entry[2] for entry in ioctls.MSR_ENTRY.iter_unpack(buffer[ioctls.MSRS_HEADER.size :])]

    def set_msrs(self, pairs: tuple[tuple[int, int], ...]) -> int:
        """Write them in order; how many KVM took before it refused one."""
        return self.request(ioctls.KVM_SET_MSRS, layout.pack_msrs(pairs))

    def mp_state(self) -> int:
        """KVM_MP_STATE_*: runnable, halted, waiting for INIT or SIPI."""
        return int.from_bytes(self._get(ioctls.KVM_GET_MP_STATE, 4), "little")

    def set_mp_state(self, value: int) -> None:
        self.request(ioctls.KVM_SET_MP_STATE, value.to_bytes(4, "little"))

    def asleep_for_ever(self) -> bool:
        """Whether this vCPU sleeps and nothing of its own can wake it: IF is clear, or no timer is armed.

        Only between entries. An interrupt from another vCPU might still come, while that one is awake.
        """
        sleeping = self.mp_state()
        if sleeping in (ioctls.KVM_MP_STATE_UNINITIALIZED, ioctls.KVM_MP_STATE_INIT_RECEIVED):
            return True
        if sleeping != ioctls.KVM_MP_STATE_HALTED:
            return False
        return not layout.general(self.regs())["rflags"] & abi.RFLAGS_IF or not self._timer_armed()

    def _timer_armed(self) -> bool:
        registers = self._get(ioctls.KVM_GET_LAPIC, ioctls.LAPIC_SIZE)
        timer = int.from_bytes(registers[ioctls.LAPIC_LVTT : ioctls.LAPIC_LVTT + 4], "little")
        if timer & abi.APIC_LVT_MASKED:
            return False
        if timer & abi.APIC_LVT_TIMER_MODE == abi.APIC_LVT_TIMER_TSCDEADLINE:
            return bool(self.get_msr(abi.MSR_IA32_TSC_DEADLINE))
        return any(registers[ioctls.LAPIC_TMCCT : ioctls.LAPIC_TMCCT + 4])

    def _get(self, request: int, size: int) -> bytearray:
        buffer = bytearray(size)
        self.request(request, buffer)
        return buffer

    # --- entering ----------------------------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Make the calling thread the one that enters this vCPU, and the one that `kick` calls back."""
        import signal
        import threading

        number = getattr(signal, KICK_SIGNAL)
        signal.pthread_sigmask(signal.SIG_BLOCK, (number,))
        mask = 0
        for blocked in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            mask |= 0 if blocked == number else 1 << blocked - 1
        self.request(ioctls.KVM_SET_SIGNAL_MASK, ioctls.SIGNAL_MASK.pack(8, mask))
        self._kick_signal = number
        self._thread = threading.get_ident()

    def kick(self) -> None:
        """From any thread: let the entry under way end, or the next one end at once."""
        import signal

        self.page[ioctls.RUN_IMMEDIATE_EXIT] = 1
        if self._thread is not None:
            signal.pthread_kill(self._thread, self._kick_signal)

    def enter(self) -> int:
        """KVM_RUN: the exit reason, or KICKED where a kick ended the entry. Raises OSError."""
        while True:
            try:
                self.ioctl(self.fd, ioctls.KVM_RUN, 0)
                return int.from_bytes(self.page[ioctls.RUN_EXIT_REASON : ioctls.RUN_EXIT_REASON + 4], "little")
            except InterruptedError:
                if self._forget_kick():
                    return KICKED

    def _forget_kick(self) -> bool:
        """Whether it was a kick that ended the entry: another signal, or the late half of an old kick, is none."""
        import signal

        kicked = bool(self.page[ioctls.RUN_IMMEDIATE_EXIT])
        self.page[ioctls.RUN_IMMEDIATE_EXIT] = 0
        while self._thread is not None and signal.sigtimedwait((self._kick_signal,), 0):
            pass
        return kicked

    def port_access(self) -> PortAccess:
        """The particulars of KVM_EXIT_IO."""
        direction, size, port, repeats, data_at = ioctls.RUN_IO.unpack_from(self.page, ioctls.RUN_EXIT)
        return PortAccess(direction == ioctls.RUN_IO_OUT, size, port, repeats, data_at)

    def mmio_access(self) -> MmioAccess:
        """The particulars of KVM_EXIT_MMIO."""
        gpa, data, size, write = ioctls.RUN_MMIO.unpack_from(self.page, ioctls.RUN_EXIT)
        return MmioAccess(gpa, data[:size], size, bool(write))

    def unexpected(self, reason: int) -> HostError:
        """What to raise for an exit that nobody here can complete."""
        where = f"vCPU {self.number} at RIP {self.rip():#x}"
        name = ioctls.EXIT_NAMES.get(reason, f"exit reason {reason}")
        if reason != ioctls.KVM_EXIT_INTERNAL_ERROR:
            return HostError(f"KVM cannot go on: {name}", where)
        suberror, _, flags, size, code = ioctls.RUN_INTERNAL.unpack_from(self.page, ioctls.RUN_EXIT)
        if suberror != ioctls.KVM_INTERNAL_ERROR_EMULATION:
            return HostError(f"KVM cannot go on: {name}, suberror {suberror}", where)
        shown = f" ({code[:size].hex(' ')})" if flags & ioctls.RUN_INTERNAL_HAS_BYTES else ""
        return HostError(
            f"this KVM had to emulate an instruction{shown} and does not know it", where, "leave out --on kvm"
        )
