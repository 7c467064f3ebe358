"""Three judges, one verdict: what the model, the emulator and, where there is one, real KVM say of a sequence."""

import traceback
from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import NamedTuple, Protocol

from emu import abi
from emu.conform.compare import MOST_UPDATES, Difference, difference, format_outcome
from emu.conform.emulator import Emulator
from emu.conform.expect import Expected, Observed, RunDelay, expect
from emu.conform.known import K3
from emu.conform.model import K1, K2, K4
from emu.conform.real import RealKvm
from emu.devices.steal_time import StealTime
from emu.faults import HostError
from emu.kvm.operations import Cpuid, Leaf, Operation

AN_END = "an end"  # what is right where a judge does not get through a sequence
_ATTEMPTS = 4
_MOST_TOLD = 200  # characters


class Disagreement(NamedTuple):
    """`judge` does not do what the specification says."""

    judge: str
    difference: Difference


class Verdict(NamedTuple):
    """Disagreements of a sequence, and the numbers of the known differences that it met."""

    disagreements: tuple[Disagreement, ...] = ()
    known: tuple[str, ...] = ()


def _told(error: Exception) -> str:
    """An exception, and the place where it was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{repr(error)[:_MOST_TOLD]} at {Path(last.filename).name}:{last.lineno}"


class Virtual(Protocol):
    """A judge in virtual time."""

    name: str

    def sequence(self, sequence: Sequence[Operation]) -> Observed: ...


class Bench:
    """The judges of one thread. `known`, which may be changed at any time, is whether known differences of KVM are told
    apart from others; `steal` is a class of steal-time device that the emulator has in place of its own.

    Raises HostError where `kvm` is asked for and there is none.
    """

    def __init__(self, *, kvm: bool, known: bool = True, steal: type[StealTime] = StealTime) -> None:
        self.emulator = Emulator(steal=steal)
        self._engine: Virtual | None = None
        self.known = known
        self._kvm = RealKvm(self.emulator.table) if kvm else None

    def close(self) -> None:
        """Give the VM back."""
        if self._kvm is not None:
            self._kvm.close()

    def renew(self) -> None:
        """The next sequence runs in a fresh VM."""
        if self._kvm is not None:
            self._kvm.renew()

    def judge(self, sequence: Sequence[Operation], *, engine: bool = False) -> Verdict:
        """What the judges say; with `engine` the emulator's engine is asked, too."""
        found: list[Disagreement] = []
        emulator = self._virtual(self.emulator, sequence, found)
        if engine:
            if self._engine is None:
                from emu.conform.engine import EngineEmulator

                self._engine = EngineEmulator()
            self._virtual(self._engine, sequence, found)
        known: tuple[str, ...] = ()
        if self._kvm is not None:
            known = self._real(self._kvm, sequence, emulator, found)
        return Verdict(tuple(found), known)

    def _virtual(self, judge: Virtual, sequence: Sequence[Operation], found: list[Disagreement]) -> Observed | None:
        try:
            observed = judge.sequence(sequence)
        except Exception as error:
            found.append(Disagreement(judge.name, Difference(None, "the sequence", AN_END, _told(error))))
            return None
        different = difference(sequence, expect(sequence, RunDelay()), observed)
        if different is not None:
            found.append(Disagreement(judge.name, different))
        return observed

    def _real(
        self, kvm: RealKvm, sequence: Sequence[Operation], emulator: Observed | None, found: list[Disagreement]
    ) -> tuple[str, ...]:
        for _ in range(_ATTEMPTS):
            try:
                observed = kvm.sequence(sequence)
            except HostError as error:
                found.append(Disagreement(kvm.name, Difference(None, "the sequence", AN_END, str(error))))
                return ()
            different, met, clock = self._explained(kvm, sequence, observed)
            if not clock:
                break
        if emulator is not None:
            leaf, more = _leaves(sequence, emulator, observed)
            if more and self.known:
                met += (K3,)
            elif different is None:
                different = leaf
        if different is not None:
            found.append(Disagreement(kvm.name, different))
        return met

    def _explained(
        self, kvm: RealKvm, sequence: Sequence[Operation], observed: Observed
    ) -> tuple[Difference | None, tuple[str, ...], bool]:
        """The difference that is left, the known ones that were met, and whether no more is left than that the host set
        its clocks anew, which it does at times of its own: then the sequence deserves another attempt."""
        slack = kvm.slack(sequence)
        prompt = late = next(kvm.expectations(sequence))
        different = difference(sequence, prompt, observed, slack)
        if prompt.late:
            late = next(kvm.expectations(sequence, frozenset((K2,))))
        met: tuple[str, ...] = ()
        clock = False
        if different is not None:
            loose = slack._replace(clock_updates=MOST_UPDATES)
            clock = difference(sequence, prompt, observed, loose) is None
            for numbers in _variants(prompt) if self.known else ():
                for one in kvm.expectations(sequence, frozenset(numbers)):
                    if difference(sequence, one, observed, slack) is None:
                        different, met, clock = None, numbers, False
                        break
                    clock = clock or difference(sequence, one, observed, loose) is None
                if different is None:
                    break
        kvm.advance(sequence, late, prompt)
        return different, met, clock


def _variants(expected: Expected) -> Iterator[tuple[str, ...]]:
    """Which quirks may explain a difference: those that can matter in this sequence, the fewest first."""
    matters = ((K2, expected.late), (K1, expected.refusals), (K4, expected.crossings))
    numbers = [number for number, count in matters if count]
    return chain.from_iterable(combinations(numbers, count) for count in range(1, len(numbers) + 1))


def _leaves(sequence: Sequence[Operation], emulator: Observed, real: Observed) -> tuple[Difference | None, bool]:
    """Leaves that the specification does not name must be the emulator's: the first that is not, and whether all that
    are not have only more bits than they should, which is K3."""
    first, more = None, False
    for at, operation in enumerate(sequence):
        if not isinstance(operation, Cpuid):
            continue
        ours, theirs = emulator.outcomes[at], real.outcomes[at]
        if isinstance(ours, Leaf) and isinstance(theirs, Leaf) and ours != theirs:
            first = first or Difference(at, f"leaf {operation.leaf:#x}", format_outcome(ours), format_outcome(theirs))
            if operation.leaf != abi.CPUID_FEATURES or ours[:2] != theirs[:2]:
                return first, False
            if ours.ecx & ~theirs.ecx or ours.edx & ~theirs.edx:
                return first, False
            more = True
    return first, more
