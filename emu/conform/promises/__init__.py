"""What becomes of each promise of the specification: judged by sequences where they can, else left to its test.

What is expected of a sequence is what the model says of it, so a promise is kept where a judge does the same.

In Linux: Documentation/virt/kvm/x86/msr.rst is the document that these promises make precise.
"""

from collections.abc import Sequence
from typing import NamedTuple

from emu.conform.promises import clocks, registers, steal_time
from emu.conform.specification import Promised
from emu.conform.text import parse_sequence
from emu.conform.verdict import Bench

SEQUENCES: dict[str, tuple[str, ...]] = steal_time.SEQUENCES | clocks.SEQUENCES | registers.SEQUENCES
"""The sequences that would show a promise broken, as text, by its number."""

KEPT, BROKEN, ABSENT, TEST = "kept", "broken", "-", "test"


class Row(NamedTuple):
    """What became of a promise.

    `emulator` and `kvm`: KEPT, BROKEN, ABSENT where it was not asked; `emulator` is TEST where no sequence can judge.
    `known` are the numbers of the known differences of KVM that were met.
    """

    promised: Promised
    emulator: str
    kvm: str = ABSENT
    known: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether sequences were run."""
        return self.emulator != TEST

    @property
    def agree(self) -> bool | None:
        """Whether those that were asked do the same; None where nobody was."""
        return BROKEN not in (self.emulator, self.kvm) if self.judged else None


def rows(bench: Bench, specification: Sequence[Promised], *, kvm: bool) -> list[Row]:
    """Judge every promise that can be, the emulator by its devices and by its engine."""
    return [
        _judged(bench, promised, kvm) if promised.number in SEQUENCES else Row(promised, TEST)
        for promised in specification
    ]


def _judged(bench: Bench, promised: Promised, kvm: bool) -> Row:
    broken: set[str] = set()
    known: set[str] = set()
    for text in SEQUENCES[promised.number]:
        verdict = bench.judge(parse_sequence(text), engine=True)
        broken |= {"KVM" if one.judge == "KVM" else "emulator" for one in verdict.disagreements}
        known |= set(verdict.known)
    real = ABSENT if not kvm else BROKEN if "KVM" in broken else KEPT
    return Row(promised, BROKEN if "emulator" in broken else KEPT, real, tuple(sorted(known)))
