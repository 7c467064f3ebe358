"""A criterion of running, judged: one run on one machine, and what must come of it.

In Linux: tools/testing/selftests run a program and look at its status and output, as this does.
"""

from collections.abc import Collection, Mapping

from emu import abi, result, trace
from emu.boot.image import Image
from emu.classroom import verdict
from emu.classroom.asks import Criterion, Run
from emu.classroom.criteria import placeholders
from emu.classroom.proof import line_at
from emu.classroom.verdict import Verdict
from emu.explore.cause import last_own_line
from emu.explore.properties import Monitor
from emu.history import recording
from emu.history.history import History
from emu.history.recording import Outcome, Recording, TraceHash, source_texts
from emu.machine import Machine
from emu.trace import Event

_NAMES = {0: "success", 1: "failure", 3: "this machine does not offer it"}


class _Listener:
    """Hears a run: what its vCPUs read, and what the first thing was that did not hold."""

    def __init__(self, ask: Run) -> None:
        self.digest = TraceHash()
        self.reads: list[list[int]] = [[] for _ in range(ask.config.vcpus)]
        self.monitor = Monitor(ask.config.vcpus, frozenset(ask.properties))
        self.machine: Machine | None = None
        self.refused = 0
        self.broken_at: int | None = None
        self.writes: list[list[tuple[int, int]]] = [[] for _ in range(ask.config.vcpus)]  # position, value

    def __call__(self, event: Event) -> None:
        self.digest(event)
        machine = self.machine
        if machine is None:
            return
        self.monitor.heard(machine, event)
        if type(event) is trace.Mark and event.mark == "end":
            self.reads[event.vcpu].append(event.value)
        if type(event) is trace.MsrWrite and event.msr == abi.MSR_KVM_STEAL_TIME:
            self.refused += not event.accepted
        if type(event) is trace.MsrWrite and event.msr == abi.MSR_KVM_STEAL_TIME and event.accepted:
            self.writes[event.vcpu].append((machine.position + 1, event.value))
        if self.monitor.violations and self.broken_at is None:
            self.broken_at = machine.position


class Runs:
    """The runs of one program that its criteria ask for. Those that differ in what is asked of them alone are one."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self._made: dict[tuple[object, ...], tuple[History, _Listener]] = {}

    def of(self, ask: Run) -> tuple[History, _Listener]:
        """The run, at its end, and what was heard of it."""
        kind = ask.config, ask.properties
        if kind not in self._made:
            listener = _Listener(ask)
            history = History(self.image, ask.config, trace=listener)
            listener.machine = history.machine
            self._made[kind] = history, listener
        history, listener = self._made[kind]
        history.end()
        return history, listener


def judge(criterion: Criterion, runs: Runs, files: Mapping[str, bytes], own: Collection[str]) -> tuple[Verdict, bytes]:
    """The verdict, and a recording of the run where it is not passed, else nothing; arguments as proof.judge has."""
    ask, image = criterion.ask, runs.image
    assert isinstance(ask, Run)
    history, listener = runs.of(ask)
    machine = history.machine
    why, legal, at = _complaint(ask, machine, listener)
    blank = Verdict(criterion.name, criterion.title, verdict.PASSED, criterion.points, criterion.points)
    blank = blank._replace(hidden=criterion.hidden)
    if not why:
        return blank, b""

    def text_of(name: str) -> str | None:
        content = files.get(name)
        return None if content is None else content.decode("utf-8", "replace")

    assert machine.reason is not None
    end = history.position
    outcome = Outcome(end, machine.reason, machine.exit_port.code, listener.digest.hexdigest())
    place = last_own_line(history, at if at is not None else end, lambda place: place.rpartition(":")[0] in own)
    lines = source_texts(image.source, text_of)
    kept = Recording(
        criterion.name, image.source, ask.config, outcome, (), lines, at if at is not None else end, (why,)
    )
    failed = blank._replace(
        outcome=verdict.FAILED,
        points=0,
        why=why,
        legal=legal,
        place=place,
        line=line_at(place, text_of),
        evidence=f"{criterion.name}.emurec",
    )
    return failed, recording.to_bytes(kept)


def _complaint(ask: Run, machine: Machine, listener: _Listener) -> tuple[str, str, int | None]:
    """What is not as it must be, what would be, and the position where it shows; nothing where all is well."""
    found = machine.result()
    if listener.monitor.violations:
        return listener.monitor.violations[0].why, "", listener.broken_at
    if found.fault is not None:
        return found.fault.text, f"exit status {ask.exit_code}", None
    if found.reason in result.LIMITS:
        where = "; ".join(map(str, found.where))
        waits = [
            f"vcpu{vcpu} got no update: {_unserved(listener.writes[vcpu])[1]}"
            for vcpu, one in enumerate(found.vcpus)
            if not one.updates
        ]
        why = "; ".join([f"the run does not end: it met the {found.reason} ({where})", *waits])
        return why, f"exit status {ask.exit_code}", None
    if found.reason != result.EXIT:
        return "every vCPU sleeps and nothing wakes one", f"exit status {ask.exit_code}", None
    if found.exit_code != ask.exit_code:
        said = _NAMES.get(found.exit_code or 0, "")
        return f"the exit status is {found.exit_code}{f', {said}' if said else ''}", _status(ask.exit_code), None
    for vcpu, one in enumerate(found.vcpus):
        if one.updates < ask.updates:
            at, because = _unserved(listener.writes[vcpu])
            why = f"the host has updated vcpu{vcpu}'s area {one.updates} times: {because}"
            return why, f"{ask.updates} updates at least", at
        if len(listener.reads[vcpu]) < ask.reads:
            return f"vcpu{vcpu} has made {len(listener.reads[vcpu])} reads", f"{ask.reads} reads at least", None
        if ask.properties and listener.reads[vcpu] and listener.reads[vcpu][-1] > one.stolen_ns:
            why = (
                f"vcpu{vcpu} has read {listener.reads[vcpu][-1]:,} ns, and the host has made it wait for"
                f" {one.stolen_ns:,} ns only: another vCPU's time is in its area too"
            )
            return why, f"{one.stolen_ns:,} ns at most", None
        if ask.registered is not None and bool(one.msr & abi.KVM_MSR_ENABLED) != ask.registered:
            why = f"at the end MSR_KVM_STEAL_TIME of vcpu{vcpu} is {one.msr:#x}: {_registration(one.msr)}"
            return why, "bit 0 set" if ask.registered else "bit 0 clear", None
    if listener.refused < ask.refused:
        why = f"{listener.refused} values were refused by MSR_KVM_STEAL_TIME with #GP, and survived"
        return why, f"{ask.refused} at least", None
    if ask.console is not None:
        said = found.console.decode("ascii", "backslashreplace")
        wanted = expected(ask.console, listener.reads)
        if said != wanted:
            return _difference(said, wanted)
    return "", "", None


def expected(console: str, reads: list[list[int]]) -> str:
    """The console text with what the vCPUs have read last in its places."""
    last = [one[-1] if one else 0 for one in reads]
    parts = placeholders(console)
    for at in range(1, len(parts), 2):
        word = parts[at]
        parts[at] = str(sum(last) if word == "all" else last[int(word)] if int(word) < len(last) else 0)
    return "".join(parts)


def _difference(said: str, wanted: str) -> tuple[str, str, None]:
    one, other = said.splitlines(), wanted.splitlines()
    at = next(
        (n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )
    shown = repr(one[at][:200]) if at < len(one) else "nothing more"
    right = repr(other[at][:200]) if at < len(other) else "nothing more"
    return f"line {at + 1} of what it prints is {shown}", right, None


def _unserved(writes: list[tuple[int, int]]) -> tuple[int | None, str]:
    """Where, and why, an area gets fewer updates than it should, from the values that were written to the MSR."""
    if not writes:
        return None, "nothing was written to MSR_KVM_STEAL_TIME"
    position, value = max(writes, key=lambda one: one[1])
    if not any(one & abi.KVM_MSR_ENABLED for _, one in writes):
        return position, f"{value:#x} was written to MSR_KVM_STEAL_TIME, and the enable bit, bit 0, is not set"
    return position, "it was registered for too short a time, or at an address where no RAM is"


def _registration(msr: int) -> str:
    if not msr:
        return "no area is registered"
    return "an area is registered" if msr & abi.KVM_MSR_ENABLED else "the enable bit, bit 0, is not set"


def _status(code: int) -> str:
    return f"exit status {code}" + (f", {_NAMES[code]}" if code in _NAMES else "")
