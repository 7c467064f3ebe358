"""The MSR bus of one vCPU: a number leads to the device that owns it, and to #GP where there is none.

A device refuses by raising GuestFault before it has changed anything, so a WRMSR that faults has no effect.

In Linux: kvm_set_msr_common() and kvm_get_msr_common() in arch/x86/kvm/x86.c.
"""

from collections.abc import Iterable
from typing import Protocol

from emu.faults import general_protection


class MsrOwner(Protocol):
    """What stands behind MSR numbers. Values are unsigned 64-bit; both methods raise GuestFault to refuse."""

    def rdmsr(self, msr: int) -> int: ...

    def wrmsr(self, msr: int, value: int) -> None: ...


class MsrBus:
    """Number -> owner, for one vCPU; privilege is the vCPU's affair."""

    def __init__(self) -> None:
        self._owners: dict[int, MsrOwner] = {}

    def attach(self, numbers: Iterable[int], owner: MsrOwner) -> None:
        """Give `numbers` to `owner`. Raises ValueError where one is taken, and then attaches none."""
        claimed = list(numbers)
        for msr in claimed:
            if msr in self._owners:
                raise ValueError(f"MSR {msr:#x} has an owner already")
        self._owners.update((msr, owner) for msr in claimed)

    def numbers(self) -> list[int]:
        """Every MSR that exists on this bus, ascending."""
        return sorted(self._owners)

    def rdmsr(self, msr: int) -> int:
        """The 64-bit value that RDMSR returns; raises GuestFault, #GP(0) for an unknown number."""
        return self._owner(msr).rdmsr(msr)

    def wrmsr(self, msr: int, value: int) -> None:
        """Hand an unsigned 64-bit value to the owner; raises GuestFault, and then nothing has changed."""
        self._owner(msr).wrmsr(msr, value)

    def _owner(self, msr: int) -> MsrOwner:
        owner = self._owners.get(msr)
        if owner is None:
            raise general_protection()
        return owner
