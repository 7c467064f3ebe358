"""The two sides of a state: what is the guest's, and what is the host's.

The host's side is what its steps change: the areas, the devices that keep them, and what a read that is under way has
met so far. All else is the guest's. Between two visible points the guest goes by its own side alone, and a step of the
host by its own.
"""

from typing import NamedTuple

from emu import abi
from emu.devices.steal_time import StealTime
from emu.explore.properties import Watched
from emu.history.memory import Memory, Pages
from emu.package import Package
from emu.stateful import State

STEAL = len(Package.fields) + Package.parts.index("steal")  # in a package's state
_OF_HOST = (*(Package.fields.index(name) for name in ("update", "store_in", "added_ns")), STEAL)
_MSR_VALUE = StealTime.fields.index("msr_value")
_SIZE = abi.KVM_STEAL_TIME_SIZE


class Snapshot(NamedTuple):
    """All that a schedule has come to: the machine, its RAM, and what the monitor remembers.

    `own_tables`: the guest may have page tables that it was not given.
    """

    state: State
    pages: Pages
    watched: tuple[Watched, ...]
    made: tuple[int, ...]
    switched: int
    jumped: int
    own_tables: bool
    printed: bytes  # decides nothing of what follows


def areas(packages: State) -> tuple[int | None, ...]:
    """Where each vCPU's area is, as the MSR says; None where none is registered."""
    found = []
    for package in packages:
        value = 0 if package[STEAL] is None else package[STEAL][_MSR_VALUE]
        found.append(value & abi.KVM_STEAL_ADDRESS_MASK if value & abi.KVM_MSR_ENABLED else None)
    return tuple(found)


def of_guest(package: State) -> State:
    """What of a package is the guest's."""
    own = list(package)
    for place in _OF_HOST:
        own[place] = None
    return tuple(own)


def of_host(package: State) -> State:
    """What of a package is the host's."""
    return tuple([package[place] for place in _OF_HOST])


def without_areas(pages: Pages, memory: Memory, where: tuple[int | None, ...]) -> dict[int, bytes]:
    """These pages as they would be if each area held zeros, those of the areas always among them."""
    found = dict(pages)
    for gpa in where:
        if gpa is not None and gpa + _SIZE <= memory.size:
            page, offset = divmod(gpa, abi.PAGE_SIZE)
            content = found[page] if page in found else memory.content(pages, page)
            found[page] = content[:offset] + bytes(_SIZE) + content[offset + _SIZE :]
    return found


def held(pages: Pages, memory: Memory, where: tuple[int | None, ...]) -> tuple[bytes, ...]:
    """What each area holds; nothing of one that is none, or outside RAM."""
    found = []
    for gpa in where:
        if gpa is None or gpa + _SIZE > memory.size:
            found.append(b"")
        else:
            page, offset = divmod(gpa, abi.PAGE_SIZE)
            found.append(memory.content(pages, page)[offset : offset + _SIZE])
    return tuple(found)


def joined(guest: Snapshot, host: Snapshot, memory: Memory) -> Snapshot:
    """The state of a machine of one vCPU whose guest's side is as in the one, and its host's as in the other.

    Both have the same area registered.
    """
    own, vcpus, (package,), parts = guest.state
    _, _, (other,), _ = host.state
    mixed = list(package)
    for place in _OF_HOST:
        mixed[place] = other[place]
    (gpa,) = where = areas((other,))
    assert gpa is not None
    pages = memory.with_content(guest.pages, gpa, held(host.pages, memory, where)[0])
    return guest._replace(state=(own, vcpus, (tuple(mixed),), parts), pages=pages, watched=host.watched, made=host.made)
