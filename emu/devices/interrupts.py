"""Which vectors wait, which are served, and which may interrupt: the part of a local APIC that decides priorities.

A vector's class is its upper half. It interrupts where its class is above that of the task and of all that is served.

Sources: Intel SDM volume 3, chapter "APIC" (interrupt, task and processor priority; handling; end of interrupt).

In Linux: kvm_apic_has_interrupt(), __apic_update_ppr() and apic_set_eoi() in arch/x86/kvm/lapic.c.
"""

from typing import ClassVar

from emu import abi
from emu.stateful import Stateful


class Interrupts(Stateful):
    """Nothing requested, nothing in service, task priority 0.

    `irr` and `isr` are sets of vectors, bit n for vector n: requested, and in service. `tpr` is the task priority.
    """

    fields: ClassVar[tuple[str, ...]] = ("irr", "isr", "tpr")

    def __init__(self) -> None:
        self.irr = 0
        self.isr = 0
        self.tpr = 0

    @property
    def ppr(self) -> int:
        """The processor priority: the task's own or that of the vector in service, whichever class is higher."""
        serving = max(self.isr.bit_length() - 1, 0) & abi.APIC_PRIORITY_CLASS
        return max(self.tpr, serving)

    def pending(self) -> int | None:
        """The vector that would interrupt now, if IF allows: the highest requested, where its class exceeds PPR's."""
        vector = self.irr.bit_length() - 1
        deliverable = vector >= 0 and vector & abi.APIC_PRIORITY_CLASS > self.ppr & abi.APIC_PRIORITY_CLASS
        return vector if deliverable else None

    def acknowledge(self) -> int:
        """The CPU takes the pending vector: it is in service from now on. Raises ValueError where none is pending."""
        vector = self.pending()
        if vector is None:
            raise ValueError("no interrupt is pending")
        self.irr &= ~(1 << vector)
        self.isr |= 1 << vector
        return vector

    def put_back(self, vector: int) -> None:
        """What was acknowledged could not be delivered: it is pending again."""
        self.isr &= ~(1 << vector)
        self.irr |= 1 << vector

    def eoi(self) -> None:
        """The interrupt in service whose vector is highest has ended; nothing happens where there is none."""
        if self.isr:
            self.isr ^= 1 << self.isr.bit_length() - 1
