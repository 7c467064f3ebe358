"""A run in the JSON that Perfetto and Chrome's own viewer read: who ran, waited and slept, steal and version as curves.

One process for the guest with a thread for each vCPU, one for the host with a thread for each pCPU and task. Times are
microseconds there; they are written as decimals with three places, so that no nanosecond is lost.

The format: "Trace Event Format", by the Catapult project; https://ui.perfetto.dev opens such a file.
"""

import json
from typing import Any

from emu import abi
from emu.diagnosis.words import msr as named
from emu.trace import Begin, End, Event, ExitEvent, Mark, MsrWrite, Store, Switch, Trap
from emu.view.courses import RUNS, SLEEPS, WAITS, States, waiting

_GUEST, _HOST = 1, 2
# Perfetto wants numbers of threads that are no other thread's, no process's, and not 0.
_THREADS = {"vcpu": (_GUEST, 1000), "pcpu": (_HOST, 2000), "task": (_HOST, 3000)}
_NAMES = {RUNS: "runs", WAITS: "waits", SLEEPS: "sleeps"}


class ChromeTrace:
    """A sink of the events of a whole run; `text` is the file then."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._open: dict[str, tuple[str, int]] = {}
        self._steal: dict[int, int] = {}
        self._states = States()

    def __call__(self, event: Event) -> None:
        for who, state in self._states(event):
            self._enter(who, _NAMES[state], event.t)
        match event:
            case Begin():
                self._begin(event)
            case Switch():
                self._enter(f"pcpu{event.pcpu}", event.next, event.t)
            case Store(area="steal-time"):
                self._store(event)
            case ExitEvent():
                self._instant(event.t, event.vcpu, f"exit {event.exit}", _hexed({"rip": event.rip, **event.detail}))
            case MsrWrite():
                told = {"msr": named(event.msr), "value": event.value, "accepted": event.accepted}
                self._instant(event.t, event.vcpu, "wrmsr", _hexed(told))
            case Trap():
                self._instant(event.t, event.vcpu, f"vector {event.vector}", {"kind": event.kind, "error": event.error})
            case Mark():
                self._instant(event.t, event.vcpu, f"read {event.mark}s", _hexed({"value": event.value}))
            case End():
                for who in list(self._open):
                    self._enter(who, "", event.t)

    def text(self) -> str:
        """The file."""
        return '{"displayTimeUnit":"ns","traceEvents":[\n' + ",\n".join(self._lines) + "\n]}\n"

    def _begin(self, event: Begin) -> None:
        config = event.config
        self._add("M", _GUEST, name="process_name", args={"name": "guest"})
        self._add("M", _HOST, name="process_name", args={"name": "host"})
        names = [f"{kind}{number}" for kind in ("vcpu", "pcpu") for number in range(config[f"{kind}s"])]
        names += [f"task{number}" for number in range(len(config["tasks"]))]
        wants = waiting(config)
        for name in names:
            process, thread = _thread(name)
            self._add("M", process, thread, name="thread_name", args={"name": name})
            self._add("M", process, thread, name="thread_sort_index", args={"sort_index": thread})
            if process == _GUEST:
                self._enter(name, _NAMES[WAITS if name in wants else SLEEPS], event.t)

    def _enter(self, who: str, state: str, at: int) -> None:
        before, since = self._open.get(who, ("", at))
        if before and before != "idle" and at > since:
            name = "waits: stolen" if before == "waits" and who.startswith("vcpu") else before
            self._add("X", *_thread(who), since, at - since, name=name, cat="sched")
        self._open[who] = state, at

    def _store(self, event: Store) -> None:
        number = event.vcpu
        if event.step in ("odd", "even"):
            self._count(event.t, f"vcpu{number} version", "value", event.value)
        if event.step == "preempted":
            self._count(event.t, f"vcpu{number} preempted", "value", event.value & abi.KVM_VCPU_PREEMPTED)
        if event.step.startswith("steal"):
            steal = self._steal[number] = stored_steal(self._steal.get(number, 0), event)
            self._count(event.t, f"vcpu{number} steal", "ns", steal)

    def _count(self, at: int, name: str, unit: str, value: int) -> None:
        self._add("C", _GUEST, None, at, name=name, args={unit: value})

    def _instant(self, at: int, vcpu: int, name: str, told: dict[str, Any]) -> None:
        self._add("i", *_thread(f"vcpu{vcpu}"), at, name=name, s="t", args=told)

    def _add(self, kind: str, process: int, thread: int | None = None, at: int = 0, dur: int = 0, **more: Any) -> None:
        head = {"ph": kind, "pid": process, **({} if thread is None else {"tid": thread}), **more}
        times = f',"ts":{_us(at)}' + (f',"dur":{_us(dur)}' if dur else "")
        self._lines.append(json.dumps(head, separators=(",", ":"))[:-1] + times + "}")


def stored_steal(before: int, event: Store) -> int:
    """The steal in an area after a store of it, whole or of one half."""
    if event.step == "steal-low":
        return before & ~0xFFFFFFFF | event.value
    if event.step == "steal-high":
        return before & 0xFFFFFFFF | event.value << 32
    return event.value


def _thread(who: str) -> tuple[int, int]:
    process, first = _THREADS[who[:4]]
    return process, first + int(who[4:])


def _hexed(told: dict[str, Any]) -> dict[str, Any]:
    """Readers take a number for a floating-point one, which would lose the last digits of a large one."""
    return {name: hex(value) if type(value) is int else value for name, value in told.items()}


def _us(ns: int) -> str:
    return f"{ns // 1000}.{ns % 1000:03d}"
