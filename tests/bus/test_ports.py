"""The port bus: claimed ranges, and the floating bus everywhere else."""

import pytest

from emu import abi
from emu.bus.ports import PortBus


class Log:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def read(self, port: int, size: int) -> int:
        return port * 10 + size

    def write(self, port: int, size: int, value: int) -> None:
        self.seen.append((port, size, value))


@pytest.mark.parametrize(("size", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_unclaimed_port_reads_all_ones_of_its_size(size: int, ones: int) -> None:
    assert PortBus().read(0x80, size) == ones


def test_write_to_unclaimed_port_is_lost_without_error() -> None:
    bus, log = PortBus(), Log()
    bus.attach(0x10, 2, log)
    bus.write(0x12, 1, 7)
    bus.write(0x0F, 1, 7)
    assert log.seen == []


def test_owner_answers_for_every_port_of_its_range() -> None:
    bus, log = PortBus(), Log()
    bus.attach(0x10, 2, log)
    bus.write(0x10, 1, 7)
    bus.write(0x11, 4, 8)
    assert log.seen == [(0x10, 1, 7), (0x11, 4, 8)]
    assert bus.read(0x11, 2) == 0x11 * 10 + 2


def test_overlapping_ranges_are_refused_whole() -> None:
    bus = PortBus()
    bus.attach(0x10, 2, Log())
    with pytest.raises(ValueError, match="0x10 has an owner"):
        bus.attach(0x0F, 2, Log())
    assert bus.read(0x0F, 1) == 0xFF


@pytest.mark.parametrize(("base", "count"), [(-1, 1), (0, 0), (abi.PORTS, 1), (abi.PORTS - 1, 2)])
def test_range_outside_the_port_space_is_refused(base: int, count: int) -> None:
    with pytest.raises(ValueError, match="do not lie within"):
        PortBus().attach(base, count, Log())
