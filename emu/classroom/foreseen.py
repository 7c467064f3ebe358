"""What a device is asked, and what it answers if it does all that the reference does, store by store.

Worked out once, in the process whose copies are the judges: a device that answers just that is right, and nothing needs
to be looked at. One that answers anything else may be right too.

In Linux: nothing like it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from emu.classroom import device_host
from emu.classroom.asks import Device
from emu.classroom.device_pipe import line_of
from emu.classroom.operations import RAM, Operation, sequences
from emu.devices.steal_time import Load, StealTime, Step
from emu.faults import GuestFault

_MOST = 100_000  # operations of a criterion


class Foreseen(NamedTuple):
    """The line `asked` asks for these operations; `answer` is the reference's, which makes so many `stores`; None where
    it has not been worked out."""

    operations: list[Operation]
    asked: str
    answer: str | None = None
    stores: int = 0


_worked_out: dict[Device, tuple[Foreseen, ...]] = {}


def foresee(criteria: Sequence[Sequence[Any]]) -> None:
    """Work the answers out for these criteria, each a `Device` as JSON has it, for this process and its copies."""
    for ask in map(Device.told, criteria):
        if ask not in _worked_out and ask.sequences * ask.length <= _MOST:
            _worked_out[ask] = tuple(_answered(ask, one) for one in sequences(ask))


def course(ask: Device) -> Iterable[Foreseen]:
    """The sequences of a criterion, in their order."""
    known = _worked_out.get(ask)
    return known if known is not None else (Foreseen(one, request(one)) for one in sequences(ask))


def request(operations: Sequence[Operation]) -> str:
    """The line that asks for these operations."""
    return line_of({"do": "sequence", "ram": RAM, "operations": [list(one) for one in operations]})


def _answered(ask: Device, operations: list[Operation]) -> Foreseen:
    asked = request(operations)
    answer = device_host.played(lambda ram_holds: _Refusing(ram_holds, ask.profile), json.loads(asked))
    stores = sum(len(one["touches"]) for one in answer["outcomes"])
    return Foreseen(operations, asked, line_of(answer).removesuffix("\n"), stores)


class GeneralProtection(Exception):
    """As a student's device says it."""


class _Refusing:
    """The reference behind the interface that a student's device has."""

    def __init__(self, ram_holds: Callable[[int, int], bool], profile: str) -> None:
        self._device = StealTime(ram_holds, profile)
        self.reset = self._device.reset

    def rdmsr(self, msr: int) -> int:
        return int(_or_refused(self._device.rdmsr, msr))

    def wrmsr(self, msr: int, value: int) -> None:
        _or_refused(self._device.wrmsr, msr, value)

    def update(self, run_delay_ns: int, load: Load) -> Iterator[tuple[int, int, int]]:
        return map(_store, self._device.update(run_delay_ns, load))

    def preempt(self) -> Iterator[tuple[int, int, int]]:
        return map(_store, self._device.preempt())


def _store(step: Step) -> tuple[int, int, int]:
    return step.gpa, step.size, step.value


def _or_refused(method: Callable[..., Any], *numbers: int) -> Any:
    try:
        return method(*numbers)
    except GuestFault:
        raise GeneralProtection from None
