"""Interprocessor interrupts: what one local APIC sends through its interrupt command register, and who gets it.

A message is a value; the machine carries it. It asks `route` for the APICs that are meant and hands it to each.

Sources: Intel SDM volume 3, chapter "APIC" (interrupt command register, destinations, lowest priority).

In Linux: kvm_apic_match_dest() in arch/x86/kvm/lapic.c and kvm_irq_delivery_to_apic() there or in irq_comm.c.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeVar

from emu import abi


class Ipi(NamedTuple):
    """A message. `source` is the number of the sending vCPU; `mode` one of APIC_DM_*; `shorthand` one of APIC_DEST_*.

    `destination` is an APIC ID, or a set of logical IDs where `logical`. `asserted` is false only for a level that is
    taken away.
    """

    source: int
    mode: int
    vector: int
    destination: int
    logical: bool = False
    shorthand: int = abi.APIC_DEST_NOSHORT
    asserted: bool = True


class Target(Protocol):
    """What a message needs to know of a local APIC."""

    @property
    def software_enabled(self) -> bool: ...

    def addressed(self, ipi: Ipi) -> bool: ...


_Target = TypeVar("_Target", bound=Target)


def decode(icr: int, destination: int, source: int) -> Ipi:
    """The message that writing `icr` (its lower half) sends to `destination` from vCPU `source`."""
    return Ipi(
        source=source,
        mode=icr & abi.APIC_MODE_MASK,
        vector=icr & abi.APIC_VECTOR_MASK,
        destination=destination,
        logical=bool(icr & abi.APIC_DEST_LOGICAL),
        shorthand=icr & abi.APIC_SHORT_MASK,
        asserted=not icr & abi.APIC_INT_LEVELTRIG or bool(icr & abi.APIC_INT_ASSERT),
    )


def route(ipi: Ipi, apics: Iterable[_Target]) -> list[_Target]:
    """Those of `apics`, given in the order of their vCPUs, that the message goes to.

    Lowest priority picks one of the enabled ones that are addressed: as KVM does by default, by the vector modulo their
    number, so that a vector keeps to one vCPU and vectors spread over all.
    """
    addressed = [apic for apic in apics if apic.addressed(ipi)]
    if ipi.mode != abi.APIC_DM_LOWEST:
        return addressed
    able = [apic for apic in addressed if apic.software_enabled]
    return [able[ipi.vector % len(able)]] if able else []
