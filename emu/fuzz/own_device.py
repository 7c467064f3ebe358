"""Somebody's own steal-time device in the emulator's place, and an eye on the protocol that it keeps.

Two kinds are taken: a class derived from emu.devices.steal_time.StealTime, and one with the interface of the assignment
steal-device (`rdmsr`, `wrmsr`, `update`, `preempt`, `reset`; see tutorials/assignments).

In Linux: record_steal_time() in arch/x86/kvm/x86.c keeps the protocol that is watched.
"""

from collections.abc import Callable, Iterator
from typing import Any

from emu import abi, own_code
from emu.devices.steal_time import Load, StealTime, Step, Update
from emu.faults import HostError, general_protection

_METHODS = ("rdmsr", "wrmsr", "update", "preempt", "reset")
_REFUSES = "GeneralProtection"
_NAMES = {
    abi.KVM_STEAL_TIME_STEAL: "steal",
    abi.KVM_STEAL_TIME_STEAL + 4: "steal-high",
    abi.KVM_STEAL_TIME_PREEMPTED: "preempted",
}
RamHolds = Callable[[int, int], bool]


class Protocol(Exception):
    """A store that the protocol does not allow."""


def watched(device: type[StealTime]) -> type[StealTime]:
    """The same device, which raises Protocol where steal is stored while version is even, or outside the area."""

    class Watched(device):  # type: ignore[valid-type, misc]
        def step(self, load: Load) -> Step | None:
            step: Step | None = super().step(load)
            if step is not None:
                offset = step.gpa - (self.msr_value & abi.KVM_STEAL_ADDRESS_MASK)
                if not 0 <= offset <= abi.KVM_STEAL_TIME_SIZE - step.size:
                    raise Protocol(f"{step.size} bytes are stored at {step.gpa:#x}, outside the area")
                version = load(step.gpa - offset + abi.KVM_STEAL_TIME_VERSION, 4)
                if offset < abi.KVM_STEAL_TIME_VERSION and not version & 1:
                    raise Protocol(f"steal is stored while version is {version}, which is even")
            return step

    return Watched


def adapted(own: Callable[[RamHolds], Any]) -> type[StealTime]:
    """A device of the assignment's interface as one of the emulator's."""

    class Adapted(StealTime):
        def __init__(self, ram_holds: RamHolds, profile: str = "kvm", *, tlb_flush: bool = False) -> None:
            super().__init__(ram_holds, profile, tlb_flush=tlb_flush)
            self._own = own(ram_holds)
            self._stores: Iterator[Any] = iter(())
            self._delay = 0

        def rdmsr(self, msr: int) -> int:
            return int(_or_refused(self._own.rdmsr, msr))

        def wrmsr(self, msr: int, value: int) -> None:
            _or_refused(self._own.wrmsr, msr, value)
            self.msr_value = value
            self.under_way = None
            if self.enabled:
                self.request()

        def reset(self) -> None:
            super().reset()
            self._own.reset()

        def begin(self, run_delay_ns: int, *, halves: bool = False) -> None:
            self.requested = False
            self._delay = run_delay_ns % (1 << 64)
            self._stores = iter(())
            self.under_way = Update(self.area_gpa, self._delay, halves, "own")

        def step(self, load: Load) -> Step | None:
            if self.under_way is None:
                return None
            if self.under_way.next == "own":
                self.under_way = self.under_way._replace(next="going on")
                self._stores = iter(self._own.update(self._delay, load) or ())
            for gpa, size, value in self._stores:
                return _step(int(gpa), int(size), int(value), self.area_gpa)
            self.under_way = None
            return None

        def preempt(self) -> Iterator[Step]:
            for gpa, size, value in self._own.preempt() or ():
                yield _step(int(gpa), int(size), int(value), self.area_gpa)

    return Adapted


def _step(gpa: int, size: int, value: int, area: int) -> Step:
    if gpa - area == abi.KVM_STEAL_TIME_VERSION:
        return Step("odd" if value & 1 else "even", gpa, size, value)
    return Step(_NAMES.get(gpa - area, "steal"), gpa, size, value)


def _or_refused(function: Callable[..., Any], *numbers: int) -> Any:
    try:
        return function(*numbers)
    except Exception as error:
        if type(error).__name__ == _REFUSES:
            raise general_protection() from None
        raise


def device_of(word: str) -> type[StealTime]:
    """The class that FILE.py:CLASS names. The file is executed. Raises HostError where it names none that will do."""
    found = own_code.own(word, "class")
    if isinstance(found, type) and issubclass(found, StealTime):
        return found
    if isinstance(found, type) and all(callable(getattr(found, method, None)) for method in _METHODS):
        return adapted(found)
    kinds = "derive it from emu.devices.steal_time.StealTime, or give it what steal-device asks for"
    raise HostError("this is no steal-time device", word, kinds)
