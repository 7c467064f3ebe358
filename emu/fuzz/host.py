"""A host under test: sequences of operations on one vCPU, judged by the specification's model and, where it is asked
for, by real KVM; or a steal-time device of somebody's in the emulator's place.

In Linux: tools/testing/selftests/kvm asks such questions one by one.
"""

import hashlib
from typing import Any, NamedTuple, cast

from emu.conform.compare import Difference
from emu.conform.shrink import shrink
from emu.conform.text import format_sequence
from emu.conform.verdict import AN_END, Bench, Disagreement, Verdict
from emu.devices.steal_time import StealTime
from emu.faults import HostError
from emu.fuzz.apart import Lost, apart
from emu.fuzz.operations import decode, encode
from emu.fuzz.own_device import device_of, watched
from emu.kvm.operations import Operation

RENEW_EVERY = 1000  # sequences: then one runs in a fresh VM


class HostFinding(NamedTuple):
    """A sequence of which `judge` does not do what the specification says; `story` says where."""

    key: str
    judge: str
    why: str
    sequence: tuple[Operation, ...]
    story: tuple[str, ...]


class HostHarness:
    """Judges inputs. `kvm` asks real KVM, too, and `known` leaves out the differences of it that are known. Where they
    are not left out, each is until it has been found: the common ones would hide the others.

    `device` is somebody's own, in place of the emulator's. With `careful` each sequence is judged apart, so that a
    device may end the process or hang: that is a disagreement as any other. `executions` counts. Raises HostError where
    there is no KVM.
    """

    def __init__(
        self, *, kvm: bool, known: bool = True, device: type[StealTime] | None = None, careful: bool = False
    ) -> None:
        self._bench = Bench(kvm=kvm, steal=watched(device or StealTime))
        self._own = device is not None
        self._careful = careful
        self._left_out = known
        self._found: set[str] = set()
        self.executions = 0
        self.known: dict[str, int] = {}

    def fails(self, data: bytes) -> Disagreement | None:
        """The first disagreement about what these bytes mean, or None."""
        return self.judge(decode(data))

    def judge(self, sequence: list[Operation]) -> Disagreement | None:
        """The same of a sequence."""
        verdict = self._verdict(sequence)
        if verdict.disagreements:
            return verdict.disagreements[0]
        return self._strictly(sequence) if self._to_be_found(verdict) else None

    def _verdict(self, sequence: list[Operation]) -> Verdict:
        if self.executions % RENEW_EVERY == 0:
            self._bench.renew()
        self.executions += 1
        verdict = self._apart(sequence) if self._careful else self._bench.judge(sequence)
        for one in verdict.known:
            self.known[one] = self.known.get(one, 0) + 1
        return verdict

    def _apart(self, sequence: list[Operation]) -> Verdict:
        found = apart(lambda: self._bench.judge(sequence))
        if not isinstance(found, Lost):
            return cast(Verdict, found)
        difference = Difference(None, "the sequence", AN_END, found.why)
        return Verdict((Disagreement(self._bench.emulator.name, difference),))

    def _to_be_found(self, verdict: Verdict) -> list[str]:
        """The known differences in it that count as findings and have not been found."""
        return [] if self._left_out else [one for one in verdict.known if one not in self._found]

    def _strictly(self, sequence: list[Operation]) -> Disagreement | None:
        """The first disagreement, known differences included."""
        self._bench.known = False
        try:
            verdict = self._bench.judge(sequence)
        finally:
            self._bench.known = True
        return verdict.disagreements[0] if verdict.disagreements else None

    def finding(self, data: bytes) -> HostFinding | None:
        """The shortest sequence that the same judge fails in, or None where these bytes do not fail again."""
        given = decode(data)
        verdict = self._verdict(given)
        judges, numbers = [one.judge for one in verdict.disagreements[:1]], self._to_be_found(verdict)[:1]
        if not judges and not numbers:
            return None

        def fails(sequence: list[Operation]) -> bool:
            again = self._verdict(sequence)
            if judges:
                return [one.judge for one in again.disagreements[:1]] == judges
            return not again.disagreements and numbers[0] in again.known

        short = shrink(given, lambda sequence: _can_be_said(sequence) and fails(sequence))
        found = self.judge(short)
        if found is None:
            return None
        self._found.update(() if judges else numbers)
        different = found.difference
        at = "in the end" if different.at is None else f"at operation {different.at + 1}"
        judge = "the device" if self._own and found.judge == self._bench.emulator.name else found.judge
        why = f"{judge}: {different.what}, {at}: {different.expected} is right, {different.found} was found"
        if different.expected == AN_END:
            why = f"{judge} does not get through it: {different.found}"
        kind = "end" if different.at is None else format_sequence([short[different.at]]).rsplit(" ", 1)[0]
        shape = " ".join(type(one).__name__ for one in short)
        key = f"{judge.removeprefix('the ').split()[0]}-{hashlib.sha256(f'{kind} {shape}'.encode()).hexdigest()[:8]}"
        story = [f"{number}. {format_sequence([one])}" for number, one in enumerate(short, 1)]
        return HostFinding(key, judge, why, tuple(short), (*story, f"=> {why}"))

    def close(self) -> None:
        """Give the VM back."""
        self._bench.close()


def harness_for(under: dict[str, Any], *, careful: bool) -> HostHarness:
    """A harness for what a job or a finding says to be under test: `kvm`, `known`, and `device`, as device_of takes it,
    or None. It is as `careful` as it can be (can_be_apart). Raises HostError."""
    device = device_of(under["device"]) if under["device"] else None
    careful = careful and can_be_apart(under)
    return HostHarness(kvm=under["kvm"], known=under["known"], device=device, careful=careful)


def can_be_apart(under: dict[str, Any]) -> bool:
    """Whether what is under test is somebody's device, and no VM, which a copy of its process cannot use."""
    return bool(under.get("device")) and not under.get("kvm")


def _can_be_said(sequence: list[Operation]) -> bool:
    try:
        encode(sequence)
    except HostError:
        return False
    return True
