"""The process in which a student's device lives. It has the device and nothing else: no judge, no answer, no seed.

It reads one line for each operation and writes lines back: `load` asks for memory, `store` tells of a store, and the
last one says how the operation ended. What the device prints goes nowhere; what it forges are its own answers.

In Linux: a FUSE server is spoken to in the same way.
"""

import json
import os
import sys
import traceback
from types import ModuleType
from typing import Any

_GENERAL_PROTECTION = "GeneralProtection"


class _Host:
    def __init__(self, source: Any, sink: Any) -> None:
        self._source = source
        self._sink = sink
        self._name = ""
        self._class: Any = None
        self._device: Any = None

    def serve(self) -> None:
        """Answer until nothing comes any more."""
        for line in self._source:
            asked = json.loads(line)
            try:
                self._tell(self._do(asked))
            except BaseException as error:  # whatever the device raises is its answer
                self._tell(self._failure(error))

    def _do(self, asked: dict[str, Any]) -> dict[str, Any]:
        what = asked["do"]
        if what == "load":
            return self._loaded(asked)
        if what == "new":
            size = asked["ram"]
            self._device = self._class(lambda gpa, length: gpa >= 0 and gpa + length <= size)
            return {"end": None}
        if what == "rdmsr":
            value = self._device.rdmsr(asked["msr"])
            return {"end": value if type(value) is int else repr(value)[:100]}
        if what == "wrmsr":
            self._device.wrmsr(asked["msr"], asked["value"])
        elif what == "update":
            self._stores(self._device.update(asked["run_delay"], self._load))
        elif what == "preempt":
            self._stores(self._device.preempt())
        elif what == "reset":
            self._device.reset()
        return {"end": None}

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

    def _stores(self, stores: Any) -> None:
        for gpa, size, value in stores or ():
            self._tell({"store": [int(gpa), int(size), int(value)]})

    def _load(self, gpa: int, size: int) -> int:
        self._tell({"load": [int(gpa), int(size)]})
        return int(json.loads(self._source.readline())["value"])

    def _tell(self, told: dict[str, Any]) -> None:
        self._sink.write(json.dumps(told) + "\n")
        self._sink.flush()

    def _failure(self, error: BaseException) -> dict[str, Any]:
        if type(error).__name__ == _GENERAL_PROTECTION:
            return {"end": "gp"}
        lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == self._name]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        return {"error": f"{type(error).__name__}: {error}"[:300], "line": line if type(line) is int else 0}


def main() -> None:
    """Serve on what were standard input and output, which the device does not get."""
    source, sink = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    _Host(source, sink).serve()


if __name__ == "__main__":
    main()
