"""A host under test: sequences of operations on one vCPU, judged by the specification's model and, where it is asked
for, by real KVM; or a steal-time device of somebody's in the emulator's place.

In Linux: tools/testing/selftests/kvm asks such questions one by one.
"""

import hashlib
from typing import NamedTuple

from emu.conform.shrink import shrink
from emu.conform.text import format_sequence
from emu.conform.verdict import Bench, Disagreement, Verdict
from emu.devices.steal_time import StealTime
from emu.faults import HostError
from emu.fuzz.operations import decode, encode
from emu.fuzz.own_device import watched
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

    `executions` counts. Raises HostError where there is no KVM.
    """

    def __init__(self, *, kvm: bool, known: bool = True, device: type[StealTime] = StealTime) -> None:
        self._bench = Bench(kvm=kvm, steal=watched(device))
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
        verdict = self._bench.judge(sequence)
        for one in verdict.known:
            self.known[one] = self.known.get(one, 0) + 1
        return verdict

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
        why = f"{found.judge}: {different.what}, {at}: {different.expected} is right, {different.found} was found"
        kind = "end" if different.at is None else format_sequence([short[different.at]]).rsplit(" ", 1)[0]
        shape = " ".join(type(one).__name__ for one in short)
        key = f"{found.judge.split()[0]}-{hashlib.sha256(f'{kind} {shape}'.encode()).hexdigest()[:8]}"
        text = format_sequence(short)
        story = [f"{number}. {format_sequence([one])}" for number, one in enumerate(short, 1)]
        story += [f"=> {why}", f"again: emu conform --sequence '{text}'"]
        return HostFinding(key, found.judge, why, tuple(short), tuple(story))

    def close(self) -> None:
        """Give the VM back."""
        self._bench.close()


def _can_be_said(sequence: list[Operation]) -> bool:
    try:
        encode(sequence)
    except HostError:
        return False
    return True
