"""What has been seen once is not run again: moves of the guest and steps of the host, each by what it goes by.

Between two visible points the guest goes by its own side of the state, and by what its one access to an area finds
there. A step of the host goes by the host's side. So the same move, made beside another state of the other side, comes
to the same, and states are put together instead of run. All counters are part of a side: what is put together is, to
the last field, what a run would have come to.

This holds for one vCPU that never waits: run delay is then what was added by hand. A move that anything else is noticed
of, such as an exit or a store to the area, is always run.
"""

from typing import NamedTuple

from emu import abi
from emu.devices.pv_eoi import PvEoi
from emu.devices.steal_time import StealTime
from emu.explore import sides
from emu.explore.instance import Instance
from emu.explore.sides import Snapshot
from emu.history.edits import Change
from emu.history.memory import Memory
from emu.package import BY_HAND, Package
from emu.stateful import State
from emu.vcpu.watch import Access

_MOST = 4096  # sides that are remembered
_UPDATE = Package.fields.index("update")
_PV_EOI = len(Package.fields) + Package.parts.index("pv_eoi")
_REQUESTED = StealTime.fields.index("requested")
_PENDING = PvEoi.fields.index("pending")
_TURN = 5  # of a machine's own state
_Key = tuple[object, ...]


class Move(NamedTuple):
    """What a move or a step has come to: the state behind it, the digests of its two sides, and what was judged on
    the way."""

    after: Snapshot
    key: bytes
    judged: dict[str, int]


class Step(NamedTuple):
    """A move of the host, and what it may do next."""

    move: Move
    options: list[Change]
    rest: bool


class Moves:
    """What is known of the moves of one instance, in the RAM whose moments `memory` names."""

    def __init__(self, instance: Instance, memory: Memory) -> None:
        alone = instance.vcpus == 1 and not instance.switches and not instance.jumps
        self._steps_known = alone
        self._moves_known = alone and not instance.own  # which want to see each state themselves
        self._memory = memory
        self._reads: dict[_Key, tuple[int, int]] = {}  # where a guest's side reads the area: offset, size
        self._moves: dict[tuple[_Key, bytes], Move] = {}
        self._steps: dict[_Key, Step] = {}
        self._last: tuple[Snapshot | None, _Key | None] = None, None  # asked for last: a state, and its guest's side

    # --- the guest's -------------------------------------------------------------------------------------------------

    def move(self, here: Snapshot) -> Move | None:
        """Where the guest goes from here, if that is known."""
        side = self._guest_side(here)
        self._last = here, side
        read = None if side is None else self._reads.get(side)
        if side is None or read is None:
            return None
        found = self._moves.get((side, self._read(here, read)))
        return None if found is None else found._replace(after=sides.joined(found.after, here, self._memory))

    def moved(self, here: Snapshot, access: Access | None, move: Move) -> None:
        """The guest went on from here; `access` is the one thing that was noticed of it, if it was one."""
        last, side = self._last
        if side is None or last is not here or access is None or access.write:
            return
        (gpa,) = sides.areas(here.state[2])
        if gpa is None or not 0 <= access.gpa - gpa <= abi.KVM_STEAL_TIME_SIZE - access.size:
            return
        read = access.gpa - gpa, access.size
        if len(self._moves) >= _MOST:
            self._reads.clear()
            self._moves.clear()
        self._reads[side] = read
        self._moves[side, self._read(here, read)] = move

    def _guest_side(self, here: Snapshot) -> _Key | None:
        """All that the guest goes by but the area; None where the host is about to do something by itself."""
        if not self._moves_known:
            return None
        own, vcpus, (package,), parts = here.state
        steal = package[sides.STEAL]
        if steal is None or steal[_REQUESTED] or package[_UPDATE] not in (None, BY_HAND):
            return None
        where = sides.areas((package,))
        pages = sides.without_areas(here.pages, self._memory, where)
        return own, vcpus, sides.of_guest(package), parts, tuple(sorted(pages.items())), where, here.printed

    def _read(self, here: Snapshot, read: tuple[int, int]) -> bytes:
        offset, size = read
        (area,) = sides.held(here.pages, self._memory, sides.areas(here.state[2]))
        return area[offset : offset + size]

    # --- the host's --------------------------------------------------------------------------------------------------

    def step(self, here: Snapshot, change: Change) -> Step | None:
        """What this step of the host comes to here, if that is known."""
        side = self._host_side(here, change) if self._steps else None
        found = None if side is None else self._steps.get(side)
        if found is None:
            return None
        after = sides.joined(_left(here), found.move.after, self._memory)
        return found._replace(move=found.move._replace(after=after))

    def stepped(self, here: Snapshot, change: Change, step: Step) -> None:
        """The host made this step here."""
        side = self._host_side(here, change)
        if side is None:
            return
        if len(self._steps) >= _MOST:
            self._steps.clear()
        self._steps[side] = step

    def _host_side(self, here: Snapshot, change: Change) -> _Key | None:
        """All that this step goes by; None where it makes the guest's vCPU leave in a way that matters."""
        if not self._steps_known:
            return None
        (package,) = here.state[2]
        pv_eoi, where = package[_PV_EOI], sides.areas((package,))
        if where[0] is None or (pv_eoi is not None and pv_eoi[_PENDING]):
            return None
        area = sides.held(here.pages, self._memory, where)
        return change, sides.of_host(package), area, here.watched, here.made


def _left(here: Snapshot) -> Snapshot:
    """The same with the vCPU out of guest mode: no step is made in the middle of an entry."""
    own, *rest = here.state
    turn = own[_TURN]
    if turn is None or turn.entry is None:
        return here
    left: State = (*own[:_TURN], turn._replace(entry=None), *own[_TURN + 1 :])
    return here._replace(state=(left, *rest))
