"""The port bus: a port number leads to the device that claims it.

Nobody home is no error on a PC: nothing drives the data lines, so a read finds all ones and a write is lost.

In Linux: KVM_EXIT_IO in include/uapi/linux/kvm.h; kernel_pio() in arch/x86/kvm/x86.c.
"""

from typing import Protocol

from emu import abi


class PortOwner(Protocol):
    """What stands behind ports. `size` is 1, 2 or 4 bytes and values are unsigned of that size."""

    def read(self, port: int, size: int) -> int: ...

    def write(self, port: int, size: int, value: int) -> None: ...


class PortBus:
    """Port -> owner, shared by all vCPUs. An access belongs to the owner of its first port, whole."""

    def __init__(self) -> None:
        self._owners: dict[int, PortOwner] = {}

    def attach(self, base: int, count: int, owner: PortOwner) -> None:
        """Give ports [base, base + count) to `owner`. Raises ValueError where one is taken or does not exist."""
        if count < 1 or base < 0 or base + count > abi.PORTS:
            raise ValueError(f"{count} ports from {base:#x} do not lie within the {abi.PORTS} there are")
        claimed = range(base, base + count)
        for port in claimed:
            if port in self._owners:
                raise ValueError(f"port {port:#x} has an owner already")
        self._owners.update((port, owner) for port in claimed)

    def read(self, port: int, size: int) -> int:
        """What an IN of `size` bytes finds at `port`."""
        owner = self._owners.get(port)
        return floating(size) if owner is None else owner.read(port, size)

    def write(self, port: int, size: int, value: int) -> None:
        """An OUT of `size` bytes at `port`."""
        owner = self._owners.get(port)
        if owner is not None:
            owner.write(port, size, value)


def floating(size: int) -> int:
    """What `size` bytes of undriven data lines read as: all ones."""
    return (1 << 8 * size) - 1
