"""Sequences of operations on a steal-time device, drawn from a seed.

In Linux: KVM's selftest steal_time.c has one sequence of them.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from emu import abi
from emu.classroom.asks import Device

RAM = 0x4000  # bytes of the guest's memory
_AREAS = (0x1000, 0x1040, 0x2000, RAM - 64)
_WRITTEN, _LOW_BITS = (*_AREAS, 0, RAM, 0xFFFFFFFFFFFFFFC0), (1, 1, 1, 1, 0, 2, 3, 0x21)  # to the MSR
_DELAYS = (0, 1, 1000, 1 << 32, (1 << 63) + 5, (1 << 64) - 1)
_FIELDS = ((0, 8), (8, 4), (8, 4), (16, 1), (12, 4))  # of the area: offset, size
_JUNK = (0, 1, 2, 7, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


class Operation(NamedTuple):
    """`what` is one of criteria.DEVICE_OPERATIONS; what the numbers mean depends on it (see `told`)."""

    what: str
    a: int = 0
    b: int = 0
    c: int = 0

    def __str__(self) -> str:
        if self.what == "rdmsr":
            return f"rdmsr({_msr(self.a)})"
        if self.what == "wrmsr":
            return f"wrmsr({_msr(self.a)}, {self.b:#x})"
        if self.what == "update":
            return f"update({self.a:,} ns)"
        return f"guest stores {self.b} bytes at {self.a:#x} = {self.c:#x}" if self.what == "store" else f"{self.what}()"


def sequences(ask: Device) -> Iterator[list[Operation]]:
    """The sequences of a criterion: the same for the same seed."""
    draw = random.Random(ask.seed)
    for _ in range(ask.sequences):
        yield [_operation(draw, ask.operations) for _ in range(draw.randint(1, ask.length))]


def _operation(draw: random.Random, among: Sequence[str]) -> Operation:
    drawn = draw.getrandbits(96)  # more than all choices need: what is left over makes them even enough
    drawn, at = divmod(drawn, len(among))
    what = among[at]
    if what == "rdmsr":
        return Operation(what, abi.MSR_KVM_STEAL_TIME if drawn % 5 else abi.MSR_KVM_PV_EOI_EN)
    if what == "wrmsr":
        drawn, at = divmod(drawn, 8)
        drawn, area = divmod(drawn, len(_WRITTEN))
        msr = abi.MSR_KVM_STEAL_TIME if at else abi.MSR_KVM_PV_EOI_EN
        return Operation(what, msr, _WRITTEN[area] | _LOW_BITS[drawn % len(_LOW_BITS)])
    if what == "update":
        drawn, at = divmod(drawn, len(_DELAYS) + 1)
        return Operation(what, _DELAYS[at] if at < len(_DELAYS) else drawn % (1 << 40))
    if what == "store":
        drawn, area = divmod(drawn, len(_AREAS))
        drawn, at = divmod(drawn, len(_FIELDS))
        offset, size = _FIELDS[at]
        return Operation(what, _AREAS[area] + offset, size, _JUNK[drawn % len(_JUNK)] % (1 << 8 * size))
    return Operation(what)


def _msr(number: int) -> str:
    return {abi.MSR_KVM_STEAL_TIME: "MSR_KVM_STEAL_TIME", abi.MSR_KVM_PV_EOI_EN: "MSR_KVM_PV_EOI_EN"}.get(
        number, f"{number:#x}"
    )
