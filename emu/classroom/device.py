"""A steal-time device judged: the same operations are done to it and to the reference, each with memory of its own.

Two things are judged. `answers`: what RDMSR returns, what is refused, and what the area holds after each operation, as
the reference has it. `protocol`: steal changes only while version is odd, and nothing is stored outside the area. A
sequence that fails is made shorter for as long as it fails.

In Linux: KVM's selftest steal_time.c asks a few of these questions of the real one.
"""

import ast
import collections
import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from emu import abi
from emu.classroom import verdict
from emu.classroom.asks import ANSWERS, Criterion, Device
from emu.classroom.device_pipe import CLASS, UNASKED, Failed, Host, Silent
from emu.classroom.foreseen import Foreseen, course, request
from emu.classroom.operations import RAM, Operation
from emu.classroom.verdict import Verdict
from emu.devices.steal_time import StealTime, decode
from emu.faults import GuestFault

_MOST_AHEAD = 16  # sequences of 64 operations: as much as a pipe holds
_TRIALS = 300  # to make a sequence shorter


class Outcome(NamedTuple):
    """What an operation came to: a value, `refused`, or nothing; and a complaint about the protocol, or nothing."""

    value: int | str | None
    refused: bool
    complaint: str


def _is_touch(touch: Any) -> bool:
    """`["store", gpa, size, value]` or `["load", gpa, size]`."""
    if type(touch) is not list or not touch or {"store": 4, "load": 3}.get(str(touch[0])) != len(touch):
        return False
    return all(type(number) is int and abs(number) < 1 << 80 for number in touch[1:])


class _Side:
    """A device with memory of its own."""

    def __init__(self) -> None:
        self.memory = bytearray(RAM)
        self.area: int | None = None

    def load(self, gpa: int, size: int) -> int:
        return int.from_bytes(self.memory[gpa : gpa + size], "little")

    def put(self, gpa: int, size: int, value: int) -> None:
        self.memory[gpa : gpa + size] = (value % (1 << 8 * size)).to_bytes(size, "little")


class _Reference(_Side):
    def __init__(self, profile: str) -> None:
        super().__init__()
        self._device = StealTime(lambda gpa, size: gpa >= 0 and gpa + size <= RAM, profile)

    def do(self, one: Operation) -> Outcome:
        device = self._device
        try:
            if one.what == "rdmsr":
                return Outcome(device.rdmsr(one.a), False, "")
            if one.what == "wrmsr":
                device.wrmsr(one.a, one.b)
        except GuestFault:
            return Outcome(None, True, "")
        if one.what == "reset":
            device.reset()
        elif one.what == "store":
            self.put(*one[1:])
        elif one.what in ("update", "preempt"):
            for step in device.update(one.a, self.load) if one.what == "update" else device.preempt():
                self.put(step.gpa, step.size, step.value)
        self.area = device.area_gpa if device.enabled else None
        return Outcome(None, False, "")


class _Students(_Side):
    """What the device made of a sequence, gone through operation by operation. Memory is kept here once more: what the
    process says of it is not asked."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__()
        self.stored = 0
        outcomes = answer.get("outcomes")
        if type(outcomes) is not list or not all(type(one) is dict for one in outcomes):
            raise Silent(UNASKED)
        self._outcomes = iter(outcomes)

    def do(self, one: Operation) -> Outcome:
        told = next(self._outcomes, None)
        if told is None:
            raise Silent(UNASKED)
        touches = told.get("touches")
        if type(touches) is not list or not all(map(_is_touch, touches)):
            raise Silent(UNASKED)
        if one.what == "store":
            self.put(*one[1:])
            return Outcome(None, False, "")
        complaint = ""
        for kind, *numbers in touches:
            wrong = self._touched(kind, *numbers)
            complaint = complaint or wrong
        if "error" in told:
            raise Failed(str(told["error"])[:300], told["line"] if type(told.get("line")) is int else 0)
        value = told.get("end")
        if type(value) is str and value != "gp":
            value = value[:100]
        elif type(value) is not int and value != "gp":
            value = None
        return Outcome(None if value == "gp" else value, value == "gp", complaint)

    def _touched(self, kind: str, gpa: int, size: int, value: int = 0) -> str:
        """Do a store; what is wrong with it."""
        sound = size in (1, 2, 4, 8) and 0 <= gpa <= RAM - size
        if kind == "load" or not sound:
            return f"it {kind}s {size} bytes at {gpa:#x}, where no RAM is"
        return self._stored(gpa, size, value)

    def _stored(self, gpa: int, size: int, value: int) -> str:
        area = self.area
        complaint = ""
        self.stored += 1
        if area is None:
            complaint = f"it stores {size} bytes at {gpa:#x}, and no area is registered"
        elif not area <= gpa <= area + abi.KVM_STEAL_TIME_SIZE - size:
            complaint = f"it stores {size} bytes at {gpa:#x}, outside the area at {area:#x}"
        else:
            offset, version = gpa - area, self.load(area + abi.KVM_STEAL_TIME_VERSION, 4)
            if offset < abi.KVM_STEAL_TIME_VERSION and not version & 1:
                complaint = f"it stores steal while version is {version}, which is even"
        self.put(gpa, size, value)
        return complaint


def judge(
    criterion: Criterion, source: str, name: str, open_host: Callable[[], Host], tell: Callable[[], None]
) -> tuple[Verdict, bytes]:
    """The verdict, and the sequence that shows a failure as JSON, else nothing. `source` is the text of the file
    `name`; `open_host` gives a host in which it is loaded."""
    ask = criterion.ask
    assert isinstance(ask, Device)
    blank = Verdict(criterion.name, criterion.title, verdict.PASSED, criterion.points, criterion.points)
    blank = blank._replace(hidden=criterion.hidden)
    failed = blank._replace(outcome=verdict.FAILED, points=0)
    stored = [0]
    try:
        host = open_host()
        for asked, line, under_way in _answers(host, ask):
            tell()
            if line == asked.answer:
                stored[0] += asked.stores
                continue
            found = _judged(ask, asked.operations, host.understood(line), stored)
            if found is not None:
                sequence = asked.operations[: found.number + 1]
                with contextlib.suppress(Silent):  # then what was found is told as it was found
                    for _ in range(under_way):
                        host.answer()
                    sequence, found = _shortened(host, ask, sequence, found)
                return _failure(failed, ask, sequence, found, source, name)
    except Silent as reason:
        return failed._replace(outcome=verdict.LIMIT, why=str(reason)), b""
    except Failed as error:
        return failed._replace(
            why=f"it cannot be used: {error.what}", place=f"{name}:{error.line}", line=_line(source, error.line)
        ), b""
    if ask.judge != ANSWERS and not stored[0]:
        return failed._replace(why="the device has never stored anything, so this was never put to the test"), b""
    return blank, b""


class Difference(NamedTuple):
    """At operation `number` something was wrong: `why`, what would have been `legal`, on `line` (0: not known)."""

    number: int
    why: str
    legal: str
    line: int = 0


def _answers(host: Host, ask: Device) -> Iterator[tuple[Foreseen, str, int]]:
    """Each sequence of a criterion, the line that the device answers, and how many more answers are under way.

    More and more are asked for ahead, so that two processes need not wait for each other at each.
    """
    coming = iter(course(ask))
    waiting: collections.deque[Foreseen] = collections.deque()
    ahead = 1
    while True:
        if len(waiting) <= ahead // 2:
            more = list(itertools.islice(coming, ahead - len(waiting)))
            host.ask(*[one.asked for one in more])
            waiting += more
            ahead = min(2 * ahead, _MOST_AHEAD)
        if not waiting:
            return
        asked = waiting.popleft()
        yield asked, host.line(), len(waiting)


def _answer(host: Host, sequence: Sequence[Operation]) -> Mapping[str, Any]:
    host.ask(request(sequence))
    return host.answer()


def _judged(
    ask: Device, sequence: Sequence[Operation], answer: Mapping[str, Any], stored: list[int]
) -> Difference | None:
    """Do a sequence to the reference; the first difference. `stored` counts the device's stores."""
    ours, theirs = _Reference(ask.profile), _Students(answer)
    try:
        return _trial(ours, theirs, ask, sequence)
    finally:
        stored[0] += theirs.stored


def _trial(ours: _Reference, theirs: _Students, ask: Device, sequence: Sequence[Operation]) -> Difference | None:
    for number, one in enumerate(sequence):
        before = theirs.area
        expected = ours.do(one)
        try:
            theirs.area = ours.area if one.what == "update" else before
            found = theirs.do(one)
        except Failed as error:
            return Difference(number, f"{one} raises {error.what}", _legal(one, expected, ours), error.line)
        theirs.area = ours.area
        if ask.judge != ANSWERS:
            if found.complaint:
                return Difference(number, f"in {one} {found.complaint}", "")
            if found.refused != expected.refused:
                return None  # from here on the two are in different states: that is for `answers`
            continue
        answer = found.value if one.what == "rdmsr" else None
        if (answer, found.refused) != (expected.value, expected.refused):
            return Difference(number, f"{one} {_said(one, found)}", _legal(one, expected, ours))
        if ours.memory != theirs.memory:
            return Difference(number, *_memory(one, ours, theirs))
    return None


def replay(host: Host, ask: Device, sequence: Sequence[Operation]) -> Iterator[tuple[Operation, str, str]]:
    """Each operation of a sequence, what the device makes of it, and what the reference does. Raises Silent."""
    ours, theirs = _Reference(ask.profile), _Students(_answer(host, sequence))
    for one in sequence:
        expected = ours.do(one)
        try:
            found = theirs.do(one)
            told = "; ".join(filter(None, (_came_to(one, found, theirs), found.complaint)))
        except Failed as error:
            told = f"raises {error.what}"
        theirs.area = ours.area
        yield one, told, _came_to(one, expected, ours)


def _came_to(one: Operation, outcome: Outcome, side: _Side) -> str:
    if one.what in ("rdmsr", "wrmsr"):
        return _said(one, outcome)
    return _area(side) if side.area is not None else "no area"


def _shortened(
    host: Host, ask: Device, sequence: list[Operation], found: Difference
) -> tuple[list[Operation], Difference]:
    """A shorter sequence that fails too, at its end as this one does."""
    trials = 0
    at = 0
    while at < len(sequence) and trials < _TRIALS:
        shorter = sequence[:at] + sequence[at + 1 :]
        trials += 1
        other = _judged(ask, shorter, _answer(host, shorter), [0]) if shorter else None
        if other is None:
            at += 1
        else:
            sequence, found = shorter[: other.number + 1], other
    return sequence, found


def _failure(
    failed: Verdict, ask: Device, sequence: list[Operation], found: Difference, source: str, name: str
) -> tuple[Verdict, bytes]:
    last = sequence[-1].what
    line = found.line or _definition(source, "wrmsr" if last == "store" else last)
    table = {"device": ask.profile, "judge": ask.judge, "operations": [list(one) for one in sequence]}
    told = failed._replace(
        why=found.why,
        legal=found.legal,
        place=f"{name}:{line}" if line else "",
        line=_line(source, line),
        story=verdict.bounded([str(one) for one in sequence]),
        evidence=f"{failed.criterion}.json",
    )
    return told, (json.dumps(table) + "\n").encode("ascii")


def read_sequence(content: bytes) -> tuple[Device, list[Operation]]:
    """What a file of evidence has in it. Raises ValueError where it is none."""
    table = json.loads(content)
    if not isinstance(table, dict) or table.keys() != {"device", "judge", "operations"}:
        raise ValueError("it is no sequence of operations")
    found = [Operation(*one) for one in table["operations"]]
    numbers = all(type(number) is int and 0 <= number < 1 << 64 for one in found for number in one[1:])
    if not (0 < len(found) <= 64 and numbers and all(type(one.what) is str for one in found)):
        raise ValueError("it is no sequence of operations")
    return Device(str(table["device"]), 0, 1, len(found), (), str(table["judge"])), found


def _said(one: Operation, found: Outcome) -> str:
    if found.refused:
        return "raises GeneralProtection"
    if one.what == "rdmsr":
        return f"returns {found.value:#x}" if isinstance(found.value, int) else f"returns {found.value}"
    return "is accepted"


def _legal(one: Operation, expected: Outcome, ours: _Side) -> str:
    if one.what in ("update", "preempt"):
        return "an area with " + _area(ours) if ours.area is not None else "no store at all"
    return f"it {_said(one, expected)}"


def _memory(one: Operation, ours: _Side, theirs: _Side) -> tuple[str, str]:
    area = ours.area
    if area is None or ours.memory[area : area + 64] == theirs.memory[area : area + 64]:
        at = next(
            number for number, pair in enumerate(zip(ours.memory, theirs.memory, strict=True)) if pair[0] != pair[1]
        )
        return (
            f"after {one} the byte at {at:#x} is {theirs.memory[at]:#x}",
            f"{ours.memory[at]:#x}: it is not the device's",
        )
    theirs.area = area
    return f"after {one} the area has {_area(theirs)}", _area(ours)


def _area(side: _Side) -> str:
    assert side.area is not None
    if side.area > RAM - 64:
        return "no RAM below it"
    found = decode(bytes(side.memory[side.area : side.area + 64]))
    return f"steal {found.steal:#x}, version {found.version}, preempted {found.preempted}"


def _definition(source: str, method: str) -> int:
    """The line of the method's definition; 0 where there is none."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == CLASS:
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name == method:
                    return one.lineno
    return 0


def _line(source: str, number: int) -> str:
    lines = source.splitlines()
    return lines[number - 1].strip()[:200] if 0 < number <= len(lines) else ""
