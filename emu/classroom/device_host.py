"""The process in which a student's device lives. It has the device and nothing else: no judge, no answer, no seed.

It reads a line with a sequence of operations, does them to a new device with memory of its own, and writes a line with
what came of each: the stores, and how it ended. What the device prints goes nowhere; what it forges are its own
answers.

In Linux: a FUSE server is spoken to in the same way.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

_GENERAL_PROTECTION = "GeneralProtection"


class _Memory:
    """The guest's memory as the device finds it; what it stores is kept in `touches`, and so are loads of no RAM."""

    def __init__(self, memory: bytearray, touches: list[list[int | str]]) -> None:
        self._memory = memory
        self._touches = touches

    def load(self, gpa: int, size: int) -> int:
        gpa, size = int(gpa), int(size)
        if not 0 <= gpa <= len(self._memory) - size:
            self._touched("load", gpa, size)
            return 0
        return int.from_bytes(self._memory[gpa : gpa + size], "little")

    def store_all(self, stores: Any) -> None:
        for gpa, size, value in stores or ():
            self._touched("store", int(gpa), int(size), int(value))
            self.put(int(gpa), int(size), int(value))

    def put(self, gpa: int, size: int, value: int) -> None:
        if 0 < size <= 8 and 0 <= gpa <= len(self._memory) - size:
            self._memory[gpa : gpa + size] = (value % (1 << 8 * size)).to_bytes(size, "little")

    def _touched(self, *touch: int | str) -> None:
        self._touches.append(list(touch))
        if len(self._touches) > MOST_TOUCHES:
            raise RuntimeError(f"more than {MOST_TOUCHES} stores in one operation")


def _rdmsr(device: Any, memory: _Memory, msr: int, *_: int) -> Any:
    value = device.rdmsr(msr)
    return value if type(value) is int else repr(value)[:100]


def _wrmsr(device: Any, memory: _Memory, msr: int, value: int, *_: int) -> None:
    device.wrmsr(msr, value)


def _update(device: Any, memory: _Memory, run_delay: int, *_: int) -> None:
    memory.store_all(device.update(run_delay, memory.load))


def _preempt(device: Any, memory: _Memory, *_: int) -> None:
    memory.store_all(device.preempt())


def _reset(device: Any, memory: _Memory, *_: int) -> None:
    device.reset()


def _guest_stores(device: Any, memory: _Memory, gpa: int, size: int, value: int) -> None:
    memory.put(gpa, size, value)


MOST_TOUCHES = 64  # of one operation
_DO: dict[str, Callable[..., Any]] = {
    "rdmsr": _rdmsr,
    "wrmsr": _wrmsr,
    "update": _update,
    "preempt": _preempt,
    "reset": _reset,
    "store": _guest_stores,
}


def played(make: Callable[[Callable[[int, int], bool]], Any], asked: dict[str, Any], name: str = "") -> dict[str, Any]:
    """What comes of the operations that are asked for, one after another, done to a device that `make` makes of a file
    of this name: of each the stores and how it ended, up to the first that raises something it should not."""
    memory = bytearray(asked["ram"])
    device = make(lambda gpa, size: gpa >= 0 and gpa + size <= len(memory))
    outcomes: list[dict[str, Any]] = []
    for what, *numbers in asked["operations"]:
        touches: list[list[int | str]] = []
        outcome: dict[str, Any] = {"touches": touches}
        outcomes.append(outcome)
        try:
            outcome["end"] = _DO[what](device, _Memory(memory, touches), *numbers)
        except BaseException as error:  # whatever the device raises is its answer
            outcome |= _failure(error, name)
            if "error" in outcome:
                break
    return {"outcomes": outcomes}


def _failure(error: BaseException, name: str) -> dict[str, Any]:
    if type(error).__name__ == _GENERAL_PROTECTION:
        return {"end": "gp"}
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == name]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    return {"error": f"{type(error).__name__}: {error}"[:300], "line": line if type(line) is int else 0}


class _Host:
    def __init__(self, source: Any, sink: Any) -> None:
        self._source = source
        self._sink = sink
        self._name = ""
        self._class: Any = None

    def serve(self) -> None:
        """Answer until nothing comes any more."""
        for line in self._source:
            asked = json.loads(line)
            try:
                self._tell(self._do(asked))
            except BaseException as error:  # whatever the device raises is its answer
                self._tell(_failure(error, self._name))

    def _do(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["do"] == "load":
            return self._loaded(asked)
        return played(self._class, asked, self._name)

    def _loaded(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The modules, in their order; the last is the device's."""
        for name, text in asked["modules"]:
            self._name = f"{name}.py"
            module = ModuleType(name)
            module.__file__ = self._name
            sys.modules[name] = module
            exec(compile(text, self._name, "exec"), module.__dict__)
        self._class = getattr(module, asked["class"])
        return {"end": None}

    def _tell(self, told: dict[str, Any]) -> None:
        self._sink.write(json.dumps(told) + "\n")
        self._sink.flush()


def main() -> None:
    """Serve on what were standard input and output, which the device does not get."""
    source, sink = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    _Host(source, sink).serve()


if __name__ == "__main__":
    main()
