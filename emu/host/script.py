"""A script: a file that says who runs when and for how long, to the instruction.

    0 vcpu0 250us        # pCPU 0 belongs to vcpu0 for 250 microseconds
    0 task0 1ms          # then to the first host task
    0 vcpu1 1234insns    # then to vcpu1 for exactly 1234 instructions
    loop                 # and over again; without this line, round robin follows

The lines of one pCPU follow each other from virtual time 0, so the whole timetable is known before the run. Who blocks
before its line is over leaves the rest of it idle. A vCPU cannot stop inside an instruction: where a line's end falls
into one, the next line begins up to one instruction late and still ends on time, which costs no line an instruction
it was promised. A pCPU whose lines are over rests until all are; one that no line names serves, round
robin, those that no line names.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from emu import clock
from emu.faults import HostError
from emu.host.policy import DEFAULT_QUANTUM_PS, RoundRobin
from emu.stateful import State

_FORM = "write `pcpu who duration`, such as `0 vcpu0 250us` or `0 vcpu1 1234insns`"
_INSNS = "insns"


class Line(NamedTuple):
    """pCPU `pcpu` belongs to `who` for `length_ps`; `where` is `file:line`, for messages."""

    pcpu: int
    who: str
    length_ps: int
    where: str = ""


class Slot(NamedTuple):
    """A line in its place: [begin_ps, end_ps) from the start of the script. `line` is None where the pCPU rests."""

    begin_ps: int
    end_ps: int
    line: Line | None


class Script(RoundRobin):
    """The timetable of `lines`, in file order; after it, or for whom it does not name, round robin.

    Raises HostError where there is no line, one has no length, or an entity would be on two pCPUs at once.
    """

    def __init__(self, lines: Sequence[Line], loop: bool = False, quantum_ps: int = DEFAULT_QUANTUM_PS) -> None:
        super().__init__(quantum_ps)
        if not lines:
            raise HostError("the script has no lines", remedy=_FORM)
        self.lines = tuple(lines)
        self.loop = loop
        self._slots: dict[int, list[Slot]] = {}
        for line in lines:
            if line.length_ps < 1:
                raise HostError(f"the line gives {line.who} no time", line.where, "give a positive duration")
            slots = self._slots.setdefault(line.pcpu, [])
            begin = slots[-1].end_ps if slots else 0
            slots.append(Slot(begin, begin + line.length_ps, line))
        self.length_ps = max(slots[-1].end_ps for slots in self._slots.values())
        self._refuse_two_places()
        for slots in self._slots.values():
            if slots[-1].end_ps < self.length_ps:
                slots.append(Slot(slots[-1].end_ps, self.length_ps, None))
        # Per pCPU: the slot it is at, and when this round of the script began.
        self._at = dict.fromkeys(self._slots, (0, 0))

    def state(self) -> State:
        return tuple(self._at.values())

    def load(self, state: State) -> None:
        self._at = dict(zip(self._slots, state, strict=True))

    def slot(self, pcpu: int, at_ps: int) -> Slot | None:
        """The slot of a planned pCPU at `at_ps`, in absolute time; None once the script is over.

        Asked with times that do not go back.
        """
        slots = self._slots[pcpu]
        index, start = self._at[pcpu]
        while start + slots[index].end_ps <= at_ps:
            index += 1
            if index == len(slots):
                if not self.loop:
                    return None
                index, start = 0, start + self.length_ps
        self._at[pcpu] = index, start
        begin, end, line = slots[index]
        return Slot(start + begin, start + end, line)

    def _refuse_two_places(self) -> None:
        places: dict[str, list[Slot]] = {}
        for slots in self._slots.values():
            for slot in slots:
                if slot.line is not None:
                    places.setdefault(slot.line.who, []).append(slot)
        for who, taken in places.items():
            taken.sort(key=lambda slot: (slot.begin_ps, slot.end_ps))
            for one, other in itertools.pairwise(taken):
                if other.begin_ps < one.end_ps and one.line is not None and other.line is not None:
                    first, second = sorted((one.line, other.line), key=self.lines.index)
                    places_text = f"on pCPU {second.pcpu} and, by {first.where}, on pCPU {first.pcpu}"
                    message = f"at {clock.ns(other.begin_ps)} ns {who} is to run {places_text}"
                    raise HostError(message, second.where, "let it run in one place at a time")


def parse_script(
    text: str, where: str, *, pcpus: int, vcpus: int, tasks: int, ps_per_insn: int, quantum_ps: int = DEFAULT_QUANTUM_PS
) -> Script:
    """The script in `text`, for a machine of so many pCPUs, vCPUs and host tasks; `where` names the file.

    Raises HostError at `where:line` for the first line that cannot be followed.
    """
    lines: list[Line] = []
    loop = False
    for number, raw in enumerate(text.split("\n"), 1):
        words = raw.partition("#")[0].split()
        if not words:
            continue
        place = f"{where}:{number}"
        if loop:
            raise HostError("a line follows `loop`", place, "let `loop` be the last line")
        if words == ["loop"]:
            loop = True
            continue
        if len(words) != 3:
            raise HostError(f"the line has {len(words)} words in place of three", place, _FORM)
        pcpu, who, length = words
        known = [f"vcpu{n}" for n in range(vcpus)] + [f"task{n}" for n in range(tasks)]
        if pcpu not in [str(n) for n in range(pcpus)]:
            raise HostError(f"there is no pCPU {pcpu}", place, f"there {_are(pcpus)}, numbered from 0")
        if who not in known:
            raise HostError(f"there is no {who}", place, f"there are {', '.join(known)}")
        lines.append(Line(int(pcpu), who, _length_ps(who, length, ps_per_insn, place), place))
    if not lines:
        raise HostError("the script has no lines", where, _FORM)
    return Script(lines, loop, quantum_ps)


def _length_ps(who: str, length: str, ps_per_insn: int, where: str) -> int:
    if length.endswith(_INSNS):
        digits = length[: -len(_INSNS)]
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
            raise HostError(f"{length!r} is not a number of instructions", where, _FORM)
        if not who.startswith("vcpu"):
            raise HostError(f"{who} executes no instructions", where, "give a host task a duration, such as 1ms")
        ps = int(digits) * ps_per_insn
    else:
        try:
            ps = clock.parse_duration(length)
        except ValueError as error:
            raise HostError(f"{length!r} is not a duration", where, _FORM) from error
    if ps < 1:
        raise HostError(f"{length!r} gives {who} no time", where, _FORM)
    return ps


def _are(pcpus: int) -> str:
    return "is 1" if pcpus == 1 else f"are {pcpus}"
