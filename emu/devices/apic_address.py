"""Which messages a local APIC takes as meant for it: its ID, and in xAPIC mode the names that the guest gives it.

In xAPIC mode an ID has 8 bits and can be written; a logical ID, and the model by which a set of them is read, are the
guest's too. In x2APIC mode an ID has 32 bits and both names follow from the vCPU's number.

Sources: Intel SDM volume 3, chapter "APIC" (local APIC ID, logical destination mode, x2APIC IDs).

In Linux: kvm_apic_match_physical_addr() and kvm_apic_match_logical_addr() in arch/x86/kvm/lapic.c.
"""

from emu import abi
from emu.devices.ipi import Ipi
from emu.stateful import Stateful


class ApicAddress(Stateful):
    """The names of the APIC of vCPU `apic_id`. `ldr` and `dfr` are the xAPIC's registers, bit for bit."""

    fields = ("_xapic_id", "ldr", "dfr")

    def __init__(self, apic_id: int) -> None:
        self.apic_id = apic_id
        self.enable()
        self.reset()

    def enable(self) -> None:
        """The APIC is switched on: the ID is the vCPU's number again, as far as 8 bits go."""
        self._xapic_id = self.apic_id & abi.APIC_BROADCAST

    def reset(self) -> None:
        """INIT: the logical names are gone, the ID stays."""
        self.ldr = 0
        self.dfr = abi.APIC_DFR_FLAT

    @property
    def xapic_register(self) -> int:
        """The ID register of xAPIC mode."""
        return self._xapic_id << abi.APIC_ID_SHIFT

    @property
    def x2apic_ldr(self) -> int:
        """The logical ID of x2APIC mode: a cluster's number above 16 APICs, one bit each."""
        return self.apic_id >> 4 << 16 | 1 << (self.apic_id & 15)

    def write_id(self, value: int) -> None:
        """The guest writes the ID register of xAPIC mode."""
        self._xapic_id = value >> abi.APIC_ID_SHIFT

    def write_ldr(self, value: int) -> None:
        """The guest writes its logical ID."""
        self.ldr = value & abi.APIC_ID_MASK

    def write_dfr(self, value: int) -> None:
        """The guest chooses a model, in the upper four bits; the others are always set."""
        self.dfr = value | abi.APIC_DFR_CLUSTER

    def matches(self, ipi: Ipi, *, x2apic: bool) -> bool:
        """Whether the message is meant for this APIC while it is in the one mode or the other."""
        if ipi.shorthand != abi.APIC_DEST_NOSHORT:
            itself = ipi.source == self.apic_id
            return ipi.shorthand == abi.APIC_DEST_ALLINC or itself == (ipi.shorthand == abi.APIC_DEST_SELF)
        if ipi.destination == (abi.X2APIC_BROADCAST if x2apic else abi.APIC_BROADCAST):
            return True
        if not ipi.logical:
            return ipi.destination == (self.apic_id if x2apic else self._xapic_id)
        if x2apic:
            return _in_cluster(ipi.destination, self.x2apic_ldr, 16)
        logical_id = self.ldr >> abi.APIC_ID_SHIFT
        if self.dfr == abi.APIC_DFR_FLAT:
            return ipi.destination & logical_id != 0  # 8 APICs, one bit each
        return self.dfr == abi.APIC_DFR_CLUSTER and _in_cluster(ipi.destination, logical_id, 4)


def _in_cluster(destination: int, logical_id: int, members: int) -> bool:
    same = destination >> members == logical_id >> members
    return same and destination & logical_id & (1 << members) - 1 != 0
