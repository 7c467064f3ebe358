"""Why a WRMSR was taken or refused, in one sentence that names the rule.

Sources: kvm_set_msr_common() in arch/x86/kvm/x86.c, and each device of emu/devices/.
"""

from collections.abc import Callable

from emu import abi
from emu.diagnosis.words import msr as named
from emu.faults import GuestFault
from emu.package import Package

_ONE_BIT = {abi.MSR_KVM_POLL_CONTROL, abi.MSR_KVM_MIGRATION_CONTROL}
# What an accepted value of a paravirtual MSR means.
_TAKEN: dict[int, Callable[[int], str]] = {
    abi.MSR_KVM_STEAL_TIME: lambda value: (
        f"the steal-time area at {value & abi.KVM_STEAL_ADDRESS_MASK:#x} is registered; the host will publish there"
        if value & abi.KVM_MSR_ENABLED
        else "steal time is switched off: the host writes no more"
    ),
    abi.MSR_KVM_SYSTEM_TIME_NEW: lambda value: (
        f"the clock structure at {value & ~1:#x} is registered" if value & 1 else "the clock structure is given up"
    ),
    abi.MSR_KVM_WALL_CLOCK_NEW: lambda value: f"the host stores the wall clock at {value:#x}, now and once",
    abi.MSR_KVM_PV_EOI_EN: lambda value: (
        f"the bit at {value & ~1:#x} may end an interrupt without an exit" if value & 1 else "PV EOI is switched off"
    ),
    abi.MSR_KVM_ASYNC_PF_EN: lambda value: (
        f"the area at {value & abi.KVM_ASYNC_PF_ADDRESS_MASK:#x} tells of pages that are away"
        if value & abi.KVM_ASYNC_PF_ENABLED
        else "asynchronous page faults are switched off"
    ),
}


def wrote(package: Package, msr: int, value: int, accepted: bool) -> str:
    """The sentence on a WRMSR that has just been made."""
    if accepted:
        meaning = _TAKEN.get(msr)
        return f"WRMSR of {value:#x} to {named(msr)}" + (f": {meaning(value)}" if meaning else " is accepted")
    return f"WRMSR raises #GP: {_reason(package, msr, value)}"


def _reason(package: Package, msr: int, value: int) -> str:
    try:
        old = f"; the old value {package.msrs.rdmsr(msr):#x} stays"
    except GuestFault:
        if abi.MSR_KVM_WALL_CLOCK_NEW <= msr <= abi.MSR_KVM_MIGRATION_CONTROL:
            return f"{named(msr)} belongs to a feature that CPUID does not offer here"
        return f"there is no {named(msr)} here, or it cannot be written"
    if msr == abi.MSR_KVM_STEAL_TIME and value & abi.KVM_STEAL_RESERVED_MASK:
        return _reserved(value, abi.KVM_STEAL_RESERVED_MASK) + old
    if msr == abi.MSR_KVM_ASYNC_PF_EN and value & abi.KVM_ASYNC_PF_RESERVED_MASK:
        return _reserved(value, abi.KVM_ASYNC_PF_RESERVED_MASK) + old
    if msr in _ONE_BIT and value & ~1:
        return _reserved(value, (1 << 64) - 2) + old
    if msr == abi.MSR_KVM_ASYNC_PF_INT and value > 0xFF:
        return f"{value:#x} is no vector: it takes 8 bits" + old
    if msr == abi.MSR_KVM_PV_EOI_EN and value & 2:
        return f"{value & ~1:#x} is not a multiple of {abi.KVM_PV_EOI_ALIGNMENT}" + old
    if msr in (abi.MSR_KVM_PV_EOI_EN, abi.MSR_KVM_ASYNC_PF_EN) and value & 1:
        return f"{value & ~0x3F if msr == abi.MSR_KVM_ASYNC_PF_EN else value & ~1:#x} is not in the guest's RAM" + old
    return f"{named(msr)} does not take {value:#x}" + old


def _reserved(value: int, mask: int) -> str:
    bit = (value & mask & -(value & mask)).bit_length() - 1
    return f"bit {bit} of {value:#x} is reserved (mask {mask:#x})"
