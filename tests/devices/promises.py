"""A list of promises for one class of device, and the names of those that a class breaks.

A promise is a function of the class that fails where the class breaks it; the planted slips of a device show that its
promises can fail. Numbers stand in promises as the specification prints them, not as the device's own constants.
"""

from collections.abc import Callable, Iterable
from typing import Any

from emu.devices.steal_time import Step
from emu.faults import GuestFault

RAM = 8 << 20
AREA = 0x200000

Promise = Callable[[Any], None]


class Promises(dict[str, Promise]):
    """Collects functions by their names: `@promises.add`."""

    def add(self, check: Promise) -> Promise:
        self[check.__name__] = check
        return check

    def violations(self, device_class: type) -> list[str]:
        """The names of the promises that this class breaks, by a failed claim or by any other error."""
        broken = []
        for name, check in self.items():
            try:
                check(device_class)
            except Exception:
                broken.append(name)
        return broken


class Memory:
    """RAM that a device's steps are stored into; the machine's part, without a machine."""

    def __init__(self, size: int = RAM) -> None:
        self.ram = bytearray(size)

    def holds(self, gpa: int, size: int) -> bool:
        return 0 <= gpa <= len(self.ram) - size

    def load(self, gpa: int, size: int) -> int:
        assert self.holds(gpa, size), hex(gpa)
        return int.from_bytes(self.ram[gpa : gpa + size], "little")

    def store(self, gpa: int, size: int, value: int) -> None:
        assert self.holds(gpa, size), hex(gpa)
        self.ram[gpa : gpa + size] = value.to_bytes(size, "little")

    def perform(self, steps: Iterable[Step]) -> list[Step]:
        """Store each step as it is handed out; all of them."""
        done = []
        for step in steps:
            self.store(step.gpa, step.size, step.value)
            done.append(step)
        return done

    def untouched(self) -> bool:
        return self.ram.count(0) == len(self.ram)


def accepts(device: Any, msr: int, value: int) -> bool:
    """WRMSR; False where it raised #GP(0), which must have changed no register."""
    before = {number: device.rdmsr(number) for number in device.msrs}
    try:
        device.wrmsr(msr, value)
    except GuestFault as fault:
        assert (fault.vector, fault.error) == (13, 0)
        assert {number: device.rdmsr(number) for number in device.msrs} == before, hex(value)
        return False
    return True


def refuses_reading(device: Any, msr: int) -> bool:
    try:
        device.rdmsr(msr)
    except GuestFault as fault:
        return (fault.vector, fault.error) == (13, 0)
    return False
