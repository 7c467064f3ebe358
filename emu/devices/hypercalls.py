"""What a guest asks of its host by VMCALL or VMMCALL: number and arguments become one small request, or a refusal.

The device decides nothing but whether a call is offered and well-formed; kicking, interrupting and yielding concern
other vCPUs, so they are the machine's to do.

In Linux: ____kvm_emulate_hypercall() and kvm_sched_yield() in arch/x86/kvm/x86.c, kvm_pv_send_ipi() in
arch/x86/kvm/lapic.c; the guest's side is kvm_kick_cpu() and __send_ipi_mask() in arch/x86/kernel/kvm.c.
"""

from typing import NamedTuple

from emu import abi

FEATURES = (abi.KVM_FEATURE_PV_UNHALT, abi.KVM_FEATURE_PV_SEND_IPI, abi.KVM_FEATURE_PV_SCHED_YIELD)

_FEATURE_OF = {
    abi.KVM_HC_KICK_CPU: abi.KVM_FEATURE_PV_UNHALT,
    abi.KVM_HC_SEND_IPI: abi.KVM_FEATURE_PV_SEND_IPI,
    abi.KVM_HC_SCHED_YIELD: abi.KVM_FEATURE_PV_SCHED_YIELD,
}
_WORD = (1 << 32) - 1


class Answer(NamedTuple):
    """Nothing to be done: the call returns `value`, which is negative for an error."""

    value: int


class Kick(NamedTuple):
    """Wake the vCPU of this APIC ID from HLT, whatever its interrupt flag, and let it run; the call returns 0."""

    apic_id: int


class SendIpi(NamedTuple):
    """Send `vector` in delivery mode `mode` (APIC_DM_*) to those of these APIC IDs that exist.

    The call returns how many accepted it.
    """

    destinations: tuple[int, ...]
    mode: int
    vector: int


class Yield(NamedTuple):
    """Let the vCPU of this APIC ID run instead of the caller, where it exists and waits; the call returns 0."""

    apic_id: int


Request = Answer | Kick | SendIpi | Yield


class Hypercalls:
    """The calls that one VM offers: KVM_HC_VAPIC_POLL_IRQ always, the others by `features`."""

    def __init__(self, features: tuple[int, ...] = FEATURES) -> None:
        self.features = features

    def decode(self, registers: tuple[int, int, int, int, int], *, cpl: int, long_mode: bool) -> Request:
        """The request in `registers`, which are RAX (the number), RBX, RCX, RDX, RSI.

        `long_mode`: the caller runs 64-bit code; any other has 32-bit registers only. KVM asks for the privilege before
        it looks at the number.
        """
        number, a0, a1, a2, a3 = registers if long_mode else (value & _WORD for value in registers)
        if cpl:
            return Answer(-abi.KVM_EPERM)
        if number == abi.KVM_HC_VAPIC_POLL_IRQ:
            return Answer(0)
        if _FEATURE_OF.get(number) not in self.features:
            return Answer(-abi.KVM_ENOSYS)
        if number == abi.KVM_HC_KICK_CPU:
            return Kick(a1)
        if number == abi.KVM_HC_SCHED_YIELD:
            return Yield(a0)
        return _send_ipi(a0, a1, a2, a3, 64 if long_mode else 32)


def returned(value: int, *, long_mode: bool) -> int:
    """What a call's `value` is in RAX: 64 bits, or 32 with the upper half clear where the caller is not 64-bit code."""
    return value % (1 << 64 if long_mode else 1 << 32)


def _send_ipi(low: int, high: int, lowest: int, icr: int, bits: int) -> Request:
    if icr & (abi.APIC_DEST_LOGICAL | abi.APIC_SHORT_MASK):
        return Answer(-abi.KVM_EINVAL)
    mode, vector = icr & abi.APIC_MODE_MASK, icr & abi.APIC_VECTOR_MASK
    destinations = tuple(
        apic_id
        for bitmap, first in ((low, lowest & _WORD), (high, lowest + bits & _WORD))  # KVM counts in 32 bits
        for apic_id in range(first, first + bits)
        if bitmap >> apic_id - first & 1 and apic_id <= _WORD
    )
    leaving = icr & abi.APIC_INT_LEVELTRIG and not icr & abi.APIC_INT_ASSERT
    if leaving and mode in (abi.APIC_DM_FIXED, abi.APIC_DM_LOWEST, abi.APIC_DM_INIT):
        destinations = ()  # a level that goes away interrupts nobody
    return SendIpi(destinations, mode, vector)
