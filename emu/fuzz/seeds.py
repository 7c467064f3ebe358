"""What an ordinary run's host did to an area, as an input: where a campaign may begin.

In Linux: tools/syz-trace2syz of syzkaller makes its seeds of the traces of test suites.
"""

import bisect

from emu import abi, trace
from emu.faults import HostError
from emu.fuzz.records import MOST_RECORDS, STEP, UPDATE, Input, Record, encode
from emu.history.recording import Recording
from emu.vcpu.watch import Access, Watch

_LONGEST_GAP = 191
_MOST_ADDED = (1 << 31) - 1


def seed(recording: Recording, where: str, host: str) -> bytes:
    """An input that does to a guest's area what was done in this run. Raises HostError where nothing was."""
    history = recording.history(where)
    machine = history.machine
    touched: list[int] = []

    def accessed(access: Access) -> None:
        steal = machine.packages[0].steal
        if steal is not None and steal.enabled:
            offset = access.gpa - steal.area_gpa
            if -access.size < offset < abi.KVM_STEAL_TIME_SIZE and (not touched or touched[-1] != machine.arriving()):
                touched.append(machine.arriving())

    everywhere = [(0, machine.ram.size - 1)]
    watch = Watch(machine.engine, reads=everywhere, writes=everywhere, accessed=accessed)
    try:
        events = history.between(0, recording.outcome.position)
    finally:
        watch.close()
    records: list[Record] = []
    last = begun = added = told = 0

    def add(kind: str, at: int) -> None:
        nonlocal last
        place = bisect.bisect_left(touched, at)
        records.append(Record(kind, min(place - last, _LONGEST_GAP), added << 1))
        last = place

    for at, event in events:
        if type(event) is not trace.Store or event.area != "steal-time" or event.vcpu:
            continue
        if event.step == "odd":
            begun = at
        elif event.step.startswith("steal"):
            added, told = min(max(event.value - told, 0), _MOST_ADDED), max(event.value, told)
        elif event.step == "even":
            if bisect.bisect_left(touched, begun) == bisect.bisect_left(touched, at):
                add(UPDATE, at)
            else:  # the guest looked while the update was under way
                for moment in (begun, at, at):
                    add(STEP, moment)
            added = 0
    if not records:
        raise HostError("in this run the host has updated no area", where)
    return encode(Input(host, 2, 0, tuple(records[:MOST_RECORDS])))
