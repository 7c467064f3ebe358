"""A run as waveforms (VCD), for GTKWave, Surfer and others: the signals of a hypervisor as those of a circuit.

For each vCPU: whether it runs or waits (else it sleeps), steal, version, its lowest bit by itself, the preempted byte's
bit 0, the value of the steal-time MSR, and a counter of exits. For each pCPU: who runs there. The unit of time is a
nanosecond.

The format: IEEE 1364-2005, clause 18, with the strings that GTKWave added.
"""

import io

from vcd.writer import Variable, VCDWriter

from emu import abi
from emu.report.chrome import stored_steal
from emu.trace import Begin, Event, ExitEvent, MsrWrite, Store, Switch
from emu.view.courses import RUNS, WAITS, States, waiting

_LINES = {"runs": RUNS, "waits": WAITS}
_BITS = {"steal": 64, "version": 32, "odd": 1, "preempted": 1, "msr_steal_time": 64, "exits": 32}
Value = int | str


class Waves:
    """A sink of the events of a whole run; `text` is the file then."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Value] = {}
        self._changes: list[tuple[int, tuple[str, str], Value]] = []
        self._first: dict[tuple[str, str], Value] = {}
        self._end = 0
        self._states = States()

    def __call__(self, event: Event) -> None:
        self._end = max(self._end, event.t)
        for who, state in self._states(event):
            for name, one in _LINES.items():
                self._set(event.t, who, name, int(state == one))
        match event:
            case Begin():
                self._begin(event)
            case Switch():
                self._set(event.t, f"pcpu{event.pcpu}", "who", event.next)
            case Store(area="steal-time"):
                self._store(event)
            case ExitEvent():
                who = f"vcpu{event.vcpu}"
                self._set(event.t, who, "exits", int(self._values[who, "exits"]) + 1)
            case MsrWrite(msr=abi.MSR_KVM_STEAL_TIME, accepted=True):
                self._set(event.t, f"vcpu{event.vcpu}", "msr_steal_time", event.value)

    def text(self) -> str:
        """The file."""
        file = io.StringIO()
        with VCDWriter(file, timescale="1 ns", date="", version="emu") as writer:
            variables: dict[tuple[str, str], Variable[Value]] = {}
            for (scope, name), value in self._first.items():
                kind = "string" if isinstance(value, str) else "wire"
                size = None if isinstance(value, str) else _BITS.get(name, 1)
                variables[scope, name] = writer.register_var(scope, name, kind, size, init=value)
            for at, place, value in sorted(self._changes, key=lambda change: change[0]):
                writer.change(variables[place], at, value)
            writer.close(self._end)
        return file.getvalue()

    def _begin(self, event: Begin) -> None:
        wants = waiting(event.config)
        for number in range(event.config["pcpus"]):
            self._first[f"pcpu{number}", "who"] = "idle"
        for number in range(event.config["vcpus"]):
            who = f"vcpu{number}"
            self._first |= {(who, "runs"): 0, (who, "waits"): int(who in wants)}
            self._first |= {(who, name): 0 for name in _BITS}
        for number in range(len(event.config["tasks"])):
            self._first |= {(f"task{number}", name): 0 for name in _LINES}
        self._values = dict(self._first)

    def _store(self, event: Store) -> None:
        who = f"vcpu{event.vcpu}"
        if event.step in ("odd", "even"):
            self._set(event.t, who, "version", event.value)
            self._set(event.t, who, "odd", event.value & 1)
        elif event.step == "preempted":
            self._set(event.t, who, "preempted", event.value & abi.KVM_VCPU_PREEMPTED)
        elif event.step.startswith("steal"):
            self._set(event.t, who, "steal", stored_steal(int(self._values[who, "steal"]), event))

    def _set(self, at: int, who: str, name: str, value: Value) -> None:
        if self._values[who, name] != value:
            self._values[who, name] = value
            self._changes.append((at, (who, name), value))
