"""What CPUID answers: one table of bits, each with the thing behind it.

The engine stands behind the instructions it executes; a device stands behind the bits it declares and the KVM features
it offers. There is no other way for a bit to be set, so a withheld device takes its bits along.

In Linux: __do_cpuid_func() in arch/x86/kvm/cpuid.c; the guest's side is __kvm_cpuid_base() in arch/x86/kernel/kvm.c.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from emu import abi

REGISTERS = ("eax", "ebx", "ecx", "edx")
ENGINE = "engine"
KVM = "kvm"


class Bit(NamedTuple):
    """One bit that reads as 1: its leaf, its register (of REGISTERS), its mask, and the name of what is behind it."""

    leaf: int
    register: str
    mask: int
    behind: str


_EXECUTED = {
    (abi.CPUID_FEATURES, "ecx"): (
        abi.CPUID_1_ECX_SSE3,
        abi.CPUID_1_ECX_SSSE3,
        abi.CPUID_1_ECX_CX16,
        abi.CPUID_1_ECX_SSE41,
        abi.CPUID_1_ECX_SSE42,
        abi.CPUID_1_ECX_POPCNT,
    ),
    (abi.CPUID_FEATURES, "edx"): (
        abi.CPUID_1_EDX_FPU,
        abi.CPUID_1_EDX_PSE,
        abi.CPUID_1_EDX_TSC,
        abi.CPUID_1_EDX_MSR,
        abi.CPUID_1_EDX_PAE,
        abi.CPUID_1_EDX_CX8,
        abi.CPUID_1_EDX_PGE,
        abi.CPUID_1_EDX_CMOV,
        abi.CPUID_1_EDX_PAT,
        abi.CPUID_1_EDX_CLFSH,
        abi.CPUID_1_EDX_MMX,
        abi.CPUID_1_EDX_FXSR,
        abi.CPUID_1_EDX_SSE,
        abi.CPUID_1_EDX_SSE2,
    ),
    (abi.CPUID_EXTENDED_FEATURES, "ecx"): (abi.CPUID_80000001_ECX_LAHF,),
    (abi.CPUID_EXTENDED_FEATURES, "edx"): (
        abi.CPUID_80000001_EDX_SYSCALL,
        abi.CPUID_80000001_EDX_NX,
        abi.CPUID_80000001_EDX_PDPE1GB,
        abi.CPUID_80000001_EDX_RDTSCP,
        abi.CPUID_80000001_EDX_LM,
    ),
    (abi.CPUID_POWER, "edx"): (abi.CPUID_80000007_EDX_INVARIANT_TSC,),
}

# A feature bit invites the guest to touch these MSRs: a device that declares the one must own the other.
_MSRS_OF_FEATURE = {
    abi.KVM_FEATURE_CLOCKSOURCE: (abi.MSR_KVM_WALL_CLOCK, abi.MSR_KVM_SYSTEM_TIME),
    abi.KVM_FEATURE_CLOCKSOURCE2: (abi.MSR_KVM_WALL_CLOCK_NEW, abi.MSR_KVM_SYSTEM_TIME_NEW),
    abi.KVM_FEATURE_ASYNC_PF: (abi.MSR_KVM_ASYNC_PF_EN,),
    abi.KVM_FEATURE_STEAL_TIME: (abi.MSR_KVM_STEAL_TIME,),
    abi.KVM_FEATURE_PV_EOI: (abi.MSR_KVM_PV_EOI_EN,),
    abi.KVM_FEATURE_POLL_CONTROL: (abi.MSR_KVM_POLL_CONTROL,),
    abi.KVM_FEATURE_ASYNC_PF_INT: (abi.MSR_KVM_ASYNC_PF_INT, abi.MSR_KVM_ASYNC_PF_ACK),
    abi.KVM_FEATURE_MIGRATION_CONTROL: (abi.MSR_KVM_MIGRATION_CONTROL,),
}


class CpuidTable:
    """The leaves of one vCPU, fixed at construction.

    `devices` are those attached to this vCPU. Of each are read, where present: `features`, numbers of KVM feature bits;
    `cpuid_bits`, triples (leaf, register name, mask); `msrs`, the numbers it owns. `hypercalls` says that the machine
    answers VMCALL: a KVM interface too, so KVM is announced even where no feature is. `untold` are features that are
    there and not told of. Raises ValueError for a bit that two things claim, or that has nothing behind it.
    """

    def __init__(
        self,
        devices: Iterable[object],
        *,
        apic_id: int = 0,
        logical_cpus: int = 1,
        hypercalls: bool = False,
        untold: Collection[int] = (),
    ) -> None:
        attached = list(devices)
        self.bits = (*_engine_bits(), *(bit for device in attached for bit in _device_bits(device, untold)))
        self._leaves = _fixed_leaves(apic_id, logical_cpus)
        if hypercalls or any(getattr(device, "features", ()) for device in attached):
            self.bits += (Bit(abi.CPUID_FEATURES, "ecx", abi.CPUID_1_ECX_HYPERVISOR, KVM),)
            self._leaves[abi.KVM_CPUID_SIGNATURE] = [abi.KVM_CPUID_FEATURES, *_words(abi.KVM_SIGNATURE)]
        for bit in self.bits:
            registers = self._leaves.setdefault(bit.leaf, [0, 0, 0, 0])
            register = REGISTERS.index(bit.register)
            if registers[register] & bit.mask:
                raise ValueError(f"CPUID {bit.leaf:#x} {bit.register} {bit.mask:#x}: {bit.behind} claims a bit in use")
            registers[register] |= bit.mask

    def query(self, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
        """(EAX, EBX, ECX, EDX), each unsigned 32-bit; zeros for every leaf that is not there, as AMD's CPUs answer.

        No leaf of this machine depends on `subleaf`.
        """
        eax, ebx, ecx, edx = self._leaves.get(leaf, (0, 0, 0, 0))
        return eax, ebx, ecx, edx


def _engine_bits() -> Iterator[Bit]:
    for (leaf, register), masks in _EXECUTED.items():
        for mask in masks:
            yield Bit(leaf, register, mask, ENGINE)


def _device_bits(device: object, untold: Collection[int]) -> Iterator[Bit]:
    behind = type(device).__name__
    owned = set(getattr(device, "msrs", ()))
    for leaf, register, mask in getattr(device, "cpuid_bits", ()):
        yield Bit(leaf, register, mask, behind)
    for feature in getattr(device, "features", ()):
        missing = [msr for msr in _MSRS_OF_FEATURE.get(feature, ()) if msr not in owned]
        if missing:
            raise ValueError(f"{behind} declares KVM feature {feature} and has no MSR {missing[0]:#x} behind it")
        if feature not in untold:
            yield Bit(abi.KVM_CPUID_FEATURES, "eax", 1 << feature, behind)


def _fixed_leaves(apic_id: int, logical_cpus: int) -> dict[int, list[int]]:
    ebx, edx, ecx = _words(abi.CPUID_VENDOR_NAME)
    topology = apic_id << 24 | logical_cpus << 16 | abi.CPUID_CLFLUSH_QUADWORDS << 8
    brand = abi.CPUID_BRAND_NAME.ljust(48, b"\0")
    return {
        abi.CPUID_VENDOR: [abi.CPUID_FEATURES, ebx, ecx, edx],
        abi.CPUID_FEATURES: [abi.CPUID_FAMILY_MODEL, topology, 0, 0],
        abi.CPUID_EXTENDED: [abi.CPUID_ADDRESS_SIZES, ebx, ecx, edx],
        abi.CPUID_EXTENDED_FEATURES: [abi.CPUID_FAMILY_MODEL, 0, 0, 0],
        **{abi.CPUID_BRAND + part: _words(brand[16 * part : 16 * part + 16]) for part in range(3)},
        abi.CPUID_ADDRESS_SIZES: [abi.LINEAR_ADDRESS_BITS << 8 | abi.MAXPHYADDR, 0, 0, 0],
    }


def _words(text: bytes) -> list[int]:
    return [int.from_bytes(text[at : at + 4], "little") for at in range(0, len(text), 4)]
