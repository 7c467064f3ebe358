"""The CPUID leaves a guest is given on KVM: exactly those of the emulator, less what this KVM cannot do.

In Linux: KVM_SET_CPUID2, kvm_vcpu_ioctl_set_cpuid2() in arch/x86/kvm/cpuid.c.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from emu import abi
from emu.bus.cpuid import REGISTERS, CpuidTable
from emu.devices import async_pf
from emu.devices.async_pf import AsyncPf
from emu.devices.hypercalls import Hypercalls
from emu.devices.kvmclock import KvmClock, SystemTime, WallClock
from emu.devices.lapic import Lapic
from emu.devices.migration_control import MigrationControl
from emu.devices.poll_control import PollControl
from emu.devices.pv_eoi import PvEoi
from emu.devices.pvclock import MasterClock
from emu.devices.steal_time import StealTime
from emu.devices.tsc import Tsc
from emu.kvm import ioctls

Leaves = dict[tuple[int, int], tuple[int, int, int, int]]

# KVM tells of these by a capability, completes them itself, or leaves them to us, and so its list of what it supports
# does not have them.
_ALWAYS = {
    (abi.CPUID_FEATURES, "ecx"): abi.CPUID_1_ECX_TSC_DEADLINE | abi.CPUID_1_ECX_X2APIC | abi.CPUID_1_ECX_HYPERVISOR,
    (abi.CPUID_FEATURES, "edx"): abi.CPUID_1_EDX_APIC,
    (abi.KVM_CPUID_FEATURES, "eax"): 1 << abi.KVM_FEATURE_MIGRATION_CONTROL,
}


# KVM's paravirtual MSRs with the value each has after power-up, in an order in which they can be switched off.
PV_MSRS = (
    (abi.MSR_KVM_STEAL_TIME, 0),
    (abi.MSR_KVM_ASYNC_PF_EN, 0),
    (abi.MSR_KVM_ASYNC_PF_INT, 0),
    (abi.MSR_KVM_PV_EOI_EN, 0),
    (abi.MSR_KVM_SYSTEM_TIME_NEW, 0),
    (abi.MSR_KVM_SYSTEM_TIME, 0),
    (abi.MSR_KVM_WALL_CLOCK_NEW, 0),
    (abi.MSR_KVM_WALL_CLOCK, 0),
    (abi.MSR_KVM_POLL_CONTROL, 1),
)
FEATURES = (
    *(abi.KVM_FEATURE_CLOCKSOURCE, abi.KVM_FEATURE_CLOCKSOURCE2, abi.KVM_FEATURE_ASYNC_PF, abi.KVM_FEATURE_STEAL_TIME),
    *(abi.KVM_FEATURE_PV_EOI, abi.KVM_FEATURE_PV_UNHALT, abi.KVM_FEATURE_PV_TLB_FLUSH),
    *(abi.KVM_FEATURE_ASYNC_PF_VMEXIT, abi.KVM_FEATURE_PV_SEND_IPI, abi.KVM_FEATURE_POLL_CONTROL),
    *(abi.KVM_FEATURE_PV_SCHED_YIELD, abi.KVM_FEATURE_ASYNC_PF_INT, abi.KVM_FEATURE_CLOCKSOURCE_STABLE_BIT),
    abi.KVM_FEATURE_MIGRATION_CONTROL,
)


class Withheld(NamedTuple):
    """A bit of the emulator's table that this KVM does not support, so the guest is not told of it."""

    leaf: int
    register: str
    mask: int

    @property
    def name(self) -> str:
        """The bit's name in emu.abi, such as `SSE3`; else its place."""
        prefix = f"CPUID_{self.leaf:X}_{self.register.upper()}_"
        for name, value in vars(abi).items():
            if name.startswith(prefix) and value == self.mask:
                return name.removeprefix(prefix)
        return f"{self.leaf:#x} {self.register} {self.mask:#x}"


def emulator_cpuid(number: int, vcpus: int, without: Iterable[str] = ()) -> CpuidTable:
    """The table of the default machine's vCPU `number` of `vcpus`, less the features named in `without`."""
    tsc = Tsc(lambda: 0, 1)
    devices: list[object] = [tsc, Lapic(lambda: 0, tsc, number)]
    withheld = set(without)

    def nowhere(_gpa: int, _size: int) -> bool:
        return False

    if "steal-time" not in withheld:
        devices.append(StealTime(nowhere, tlb_flush="pv-tlb-flush" not in withheld))
    if "async-pf" not in withheld:
        offered = (bit for name, bit in async_pf.FEATURE_NAMES.items() if name not in withheld)
        devices.append(AsyncPf(nowhere, features=tuple(offered)))
    if "clocksource" not in withheld:
        devices.append(KvmClock(WallClock(nowhere), SystemTime(nowhere, MasterClock(1), tsc)))
    if "pv-eoi" not in withheld:
        devices.append(PvEoi(nowhere))
    if "poll-control" not in withheld:
        devices.append(PollControl())
    if "migration-control" not in withheld:
        devices.append(MigrationControl())
    calls = {
        "pv-unhalt": abi.KVM_FEATURE_PV_UNHALT,
        "pv-send-ipi": abi.KVM_FEATURE_PV_SEND_IPI,
        "pv-sched-yield": abi.KVM_FEATURE_PV_SCHED_YIELD,
    }
    devices.append(Hypercalls(tuple(bit for name, bit in calls.items() if name not in withheld)))
    return CpuidTable(devices, apic_id=number, logical_cpus=vcpus, hypercalls=True)


class _Offered:
    """Stands for the devices behind the features on offer; KVM itself is what is really behind them."""

    def __init__(self, features: Sequence[int]) -> None:
        self.features = tuple(features)
        self.msrs = (*(msr for msr, _ in PV_MSRS), abi.MSR_KVM_ASYNC_PF_ACK, *MigrationControl.msrs)


def judge_cpuid(features: Sequence[int] = FEATURES) -> CpuidTable:
    """The CPUID leaves of a sequence's vCPU, with these KVM features."""
    return CpuidTable([_Offered(features)], hypercalls=True)


def leaves(table: CpuidTable) -> Leaves:
    """Every leaf of `table` that is not all zero."""
    numbers = {bit.leaf for bit in table.bits} | set(_FIXED)
    return {(leaf, 0): table.query(leaf) for leaf in sorted(numbers)}


_FIXED = (
    *(abi.CPUID_VENDOR, abi.CPUID_FEATURES, abi.KVM_CPUID_SIGNATURE, abi.KVM_CPUID_FEATURES, abi.CPUID_EXTENDED),
    *(abi.CPUID_EXTENDED_FEATURES, *range(abi.CPUID_BRAND, abi.CPUID_BRAND + 3), abi.CPUID_ADDRESS_SIZES),
)


def withheld(table: CpuidTable, supported: Leaves) -> list[Withheld]:
    """Which of the table's feature bits KVM does not support; known bits alone, not numbers such as address sizes."""
    found = []
    for bit in table.bits:
        register = REGISTERS.index(bit.register)
        offered = supported.get((bit.leaf, 0), (0, 0, 0, 0))[register] | _ALWAYS.get((bit.leaf, bit.register), 0)
        if not offered & bit.mask:
            found.append(Withheld(bit.leaf, bit.register, bit.mask))
    return found


def pack_cpuid(table: CpuidTable, supported: Leaves) -> bytes:
    """struct kvm_cpuid2 of the table without what is withheld."""
    offered = {leaf: list(registers) for leaf, registers in leaves(table).items()}
    for bit in withheld(table, supported):
        offered[bit.leaf, 0][REGISTERS.index(bit.register)] &= ~bit.mask
    entries = b"".join(ioctls.CPUID_ENTRY.pack(*key, 0, *registers) for key, registers in offered.items())
    return ioctls.CPUID_HEADER.pack(len(offered), 0) + entries
