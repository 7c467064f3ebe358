"""What a guest most likely did wrong, and on which line of its own: told from the accesses that led to a violation.

A property says that a read came out wrong; here the loads of that read are laid side by side. Each sentence names what
was seen in this run, so it is certain of the run and a guess about the program.

In Linux: Documentation/locking/seqlock.rst says how such a read must be made.
"""

from collections.abc import Callable
from typing import NamedTuple

from emu import abi, trace
from emu.code.places import linear, places
from emu.explore import properties
from emu.explore.runner import watched
from emu.explore.search import Counterexample
from emu.history.history import History
from emu.machine import Machine
from emu.vcpu.watch import Access, Watch

MOST_STEPS = 4096  # positions of a read that are looked at one by one
_LOOK_BACK = 512
_LOOKED_BACK_FIRST = 8
_IN_LOOP = 64  # steps in which a guest that goes round and round shows all that it looks at
_VERSION = range(abi.KVM_STEAL_TIME_VERSION, abi.KVM_STEAL_TIME_VERSION + 4)


class Cause(NamedTuple):
    """The sentence, and a line of the guest's own such as `clock.c:12`; each is empty where it is not known."""

    text: str
    place: str


class _Touch(NamedTuple):
    """An access to the area of the vCPU at work: its offset, size and value, and the line that made it."""

    offset: int
    size: int
    write: bool
    value: int
    place: str

    @property
    def of_version(self) -> bool:
        return self.offset in _VERSION

    @property
    def of_steal(self) -> bool:
        return not self.write and self.offset < abi.KVM_STEAL_TIME_VERSION


def cause(history: History, found: Counterexample, own: Callable[[str], bool]) -> Cause:
    """The most likely cause of `found` in `history`, which has its edits. `own` says whether a file is the author's."""
    where = last_own_line(history, found.position, own)
    name = found.violation.property
    if name in (properties.CURRENT, properties.FORWARD):
        said = _of_read(_touches(history, _begun(history, found.position), found.position, own))
    elif name == properties.ENDS:
        end = min(found.position + _IN_LOOP, found.position + MOST_STEPS)
        said = _of_loop(_touches(history, found.position, end, own))
    elif name == properties.NO_FAULT:
        history.go(found.position)
        fault = history.machine.result().fault
        said = Cause(fault.text if fault is not None else "", "")
    else:
        said = Cause("", "")
    return Cause(said.text, said.place or where)


def _of_read(touches: list[_Touch]) -> Cause:
    """Of a read that returned what was not current."""
    steals = [number for number, one in enumerate(touches) if one.of_steal]
    versions = [number for number, one in enumerate(touches) if one.of_version and not one.write]
    if not steals:
        return Cause("the read returns a value without loading steal", "")
    last = steals[-1]
    place = touches[last].place
    if not versions:
        return Cause("the read never looks at version, which alone tells whether an update is under way", place)
    after = [number for number in versions if number > last]
    earlier = [number for number in versions if number < last]
    if not earlier:
        text = "steal is loaded before version is: nothing tells in which state the area was at that moment"
        return Cause(text, place)
    before = touches[earlier[-1]]
    # Of several pieces the first counts: between it and the last an update may have come.
    first = next(number for number in steals if number > earlier[-1])
    if not after:
        if before.value & 1:
            return Cause(f"version was odd ({before.value}) before the load of steal: an update was under way", place)
        text = "version is not loaded again after steal, so an update that begins in between goes unnoticed"
        return Cause(text, touches[first].place)
    then = touches[after[0]]
    if earlier[-1] > last or then.size < 4 or before.size < 4:
        narrow = min(then.size, before.size)
        what = "one byte of version is" if narrow == 1 else f"{narrow} bytes of version are"
        text = f"only {what} compared: after enough updates it looks the same again"
        return Cause(text, then.place)
    if before.value != then.value:
        text = f"version was {before.value} before and {then.value} after the load of steal, and the value is returned"
        return Cause(text, then.place)
    if before.value & 1:
        text = (
            f"version was odd ({before.value}) before and after the load of steal: an update was under way all the time"
        )
        return Cause(text, then.place)
    return Cause("", place)


def _of_loop(touches: list[_Touch]) -> Cause:
    """Of a guest that goes round and round with the host at rest."""
    versions = [one for one in touches if one.of_version and not one.write]
    if versions:
        last = versions[-1]
        if last.value & 1:
            text = f"it waits for an even version, and version stays {last.value}"
        else:
            text = (
                f"version stays {last.value}, which is even: no update is under way, and still the loop does not accept"
                " it, so it must compare with a version from before the loop"
            )
        return Cause(text, last.place)
    if any(one.of_steal for one in touches):
        return Cause("the loop does not load version again, so it can never find it even", touches[-1].place)
    return Cause("an endless loop, which looks at nothing that the host could change", "")


def _begun(history: History, position: int) -> int:
    """Where the read began that has ended at `position`."""
    marks = [
        where
        for where, event in history.between(max(position - MOST_STEPS, 0), position)
        if isinstance(event, trace.Mark) and event.mark == "begin"
    ]
    return marks[-1] if marks else max(position - _LOOK_BACK, 0)


def _touches(history: History, first: int, last: int, own: Callable[[str], bool]) -> list[_Touch]:
    """The accesses of registered areas from position `first` to `last`, step by step."""
    machine = history.machine
    history.go(last)
    ranges = watched(machine)  # an area may be registered on the way
    history.go(first)
    ranges = tuple(sorted({*ranges, *watched(machine)}))
    found: list[_Touch] = []
    heard: list[tuple[Access, int]] = []

    def accessed(access: Access) -> None:
        heard.append((access, access.value if access.write else machine.ram.load(access.gpa, access.size)))

    watch = Watch(machine.engine, reads=ranges, writes=ranges, accessed=accessed) if ranges else None
    try:
        while history.position < last and not history.ended:
            place, area = _line(machine), _area(machine)
            heard.clear()
            history.step()
            found += [
                _Touch(access.gpa - area, access.size, access.write, value, place if own(place) else "")
                for access, value in heard
                if area is not None and 0 <= access.gpa - area < abi.KVM_STEAL_TIME_SIZE
            ]
    finally:
        if watch is not None:
            watch.close()
    return found


def last_own_line(history: History, position: int, own: Callable[[str], bool]) -> str:
    """The line of the author's own that was executed last before `position`, if that is not long ago; else nothing."""
    last, length = position, _LOOKED_BACK_FIRST
    while last > max(position - _LOOK_BACK, 0):
        # Going on is far less work than going back.
        first, found = max(last - length, position - _LOOK_BACK, 0), ""
        for at in range(first, last):
            history.go(at)
            place = _line(history.machine)
            found = place if own(place) else found
        if found:
            return found
        last, length = first, 4 * length
    return ""


def _line(machine: Machine) -> str:
    package = machine.acting or machine.packages[0]
    state = package.vcpu.state()
    return places(machine.image.source, [linear(state, state.rip)])[0].line


def _area(machine: Machine) -> int | None:
    steal = (machine.acting or machine.packages[0]).steal
    return steal.area_gpa if steal is not None and steal.enabled else None
