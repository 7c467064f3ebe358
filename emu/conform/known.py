"""The differences between the specification and real KVM that are known and meant, each with its reason.

A known difference is no pattern of text but a rule of the model that can be switched (`emu.conform.model`): a sequence
is put down to one only where KVM does, in every outcome and every byte, what the model with that rule does. (K3 is
about a leaf of which the specification says nothing, and is matched by its bits.)
"""

from typing import NamedTuple

from emu.conform.model import K1, K2, K4

K3 = "K3"


class Known(NamedTuple):
    """A difference by its number, in one sentence, and why it is left as it is."""

    number: str
    what: str
    reason: str


KNOWN = (
    Known(
        K1,
        "a WRMSR to ASYNC_PF_EN that raises #GP for its address is read back all the same",
        "KVM stores the value before it looks at the address; that a faulting WRMSR changes nothing is the rule that "
        "all its other registers keep",
    ),
    Known(
        K2,
        "the steal that an enabling WRMSR asks for is stored at a later entry, not before the next instruction",
        "upstream KVM serves the request before it enters again; builds that complete WRMSR without leaving their "
        "inner loop serve it with the next entry from outside",
    ),
    Known(
        K3,
        "CPUID leaf 1 has bits in ECX and EDX that were not offered; EAX, EBX and the bits offered are right",
        "builds of KVM that let the guest execute CPUID show it the processor's own bits; the leaves of KVM are exact",
    ),
    Known(
        K4,
        "a SYSTEM_TIME whose structure would cross a page is read back, and the structure before it is still updated",
        "KVM refuses the new place before it gives up the old one; a guest that has moved its clock must be able to "
        "count on its memory, as with every other way to move or end a registration",
    ),
)
