"""The MSR bus: an owner answers for its numbers, and nobody else does."""

import pytest

from emu import abi
from emu.bus.msr import MsrBus
from emu.faults import GuestFault, general_protection


class Cell:
    """An MSR that keeps what it is given, and refuses odd values."""

    def __init__(self) -> None:
        self.value = 0

    def rdmsr(self, msr: int) -> int:
        return self.value

    def wrmsr(self, msr: int, value: int) -> None:
        if value & 1:
            raise general_protection()
        self.value = value


def test_unknown_msr_raises_gp_on_read_and_on_write() -> None:
    bus = MsrBus()
    bus.attach([5], Cell())
    for access in (lambda: bus.rdmsr(6), lambda: bus.wrmsr(6, 0)):
        with pytest.raises(GuestFault) as fault:
            access()
        assert (fault.value.vector, fault.value.error) == (abi.GP_VECTOR, 0)


def test_each_number_reaches_its_own_owner() -> None:
    bus, one, two = MsrBus(), Cell(), Cell()
    bus.attach([5, 6], one)
    bus.attach([7], two)
    bus.wrmsr(6, 10)
    bus.wrmsr(7, 20)
    assert (one.value, two.value) == (10, 20)
    assert (bus.rdmsr(5), bus.rdmsr(7)) == (10, 20)
    assert bus.numbers() == [5, 6, 7]


def test_refusal_by_the_owner_reaches_the_guest_and_changes_nothing() -> None:
    bus, cell = MsrBus(), Cell()
    bus.attach([5], cell)
    bus.wrmsr(5, 8)
    with pytest.raises(GuestFault):
        bus.wrmsr(5, 9)
    assert bus.rdmsr(5) == 8


def test_attaching_a_taken_number_is_refused_whole() -> None:
    bus, first = MsrBus(), Cell()
    bus.attach([5], first)
    with pytest.raises(ValueError, match="0x5 has an owner"):
        bus.attach([4, 5], Cell())
    assert bus.numbers() == [5]
    bus.wrmsr(5, 2)
    assert first.value == 2
