"""Real KVM as one of the judges: its outcomes, and how much time may have passed in them.

`last_steal` carries over from sequence to sequence and is known exactly only where the thread was not switched out;
otherwise between which two values it lies.

In Linux: struct sched_info in include/linux/sched.h keeps what bounds the amounts, run_delay and pcount.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, combinations

from emu.bus.cpuid import REGISTERS, CpuidTable
from emu.conform.compare import MOST_UPDATES, Slack
from emu.conform.expect import Expected, Observed, RunDelay, expect
from emu.conform.model import K2
from emu.kvm import cpuid, operations
from emu.kvm.judge import Judge
from emu.kvm.operations import Leaf, Operation, Outcome
from emu.kvm.system import System

_MOST_INTERRUPTS = 3  # in one sequence of some microseconds


class RealKvm:
    """Runs sequences on /dev/kvm, in VMs that offer `table`. Raises HostError where there is none."""

    name = "KVM"

    def __init__(self, table: CpuidTable) -> None:
        system = System()
        try:
            supported = system.supported_cpuid()
        finally:
            system.close()
        self._unsupported: dict[int, list[int]] = {}
        for bit in cpuid.withheld(table, supported):
            self._unsupported.setdefault(bit.leaf, [0, 0, 0, 0])[REGISTERS.index(bit.register)] |= bit.mask
        self._judge = Judge(table)
        self._low = self._high = 0  # last_steal

    def close(self) -> None:
        """Give the VM back."""
        self._judge.close()

    def renew(self) -> None:
        """A fresh VM."""
        self._judge.renew()

    def sequence(self, sequence: Sequence[Operation]) -> Observed:
        """What came of it. A CPUID bit that this KVM does not support counts as if it did.

        Raises HostError where the sequence killed or blocked the vCPU.
        """
        judge = self._judge
        found = judge.sequence(sequence)
        if judge.renewed:
            self._low = self._high = 0
        for at, operation in enumerate(sequence):
            if isinstance(operation, operations.Cpuid):
                found[at] = self._with_unsupported(operation.leaf, found[at])
        return Observed(found, tuple(judge.ram.read(gpa, size) for gpa, size in operations.PAGES))

    def _with_unsupported(self, leaf: int, found: Outcome) -> Outcome:
        if not isinstance(found, Leaf) or leaf not in self._unsupported:
            return found
        return Leaf(*(bits | more for bits, more in zip(found, self._unsupported[leaf], strict=True)))

    def expectations(self, sequence: Sequence[Operation], quirks: frozenset[str] = frozenset()) -> Iterator[Expected]:
        """What the model expects of the sequence that ran last, under these quirks: one of these, the likely one first.

        With K2 a request waits for the next entry, which the host's own interrupts may bring at any operation.
        """
        books = self._judge.conditions
        places = range(1, len(sequence) + 1) if K2 in quirks else ()
        for outside in chain.from_iterable(combinations(places, count) for count in range(_MOST_INTERRUPTS + 1)):
            yield expect(sequence, RunDelay(books.run_delay_before_ns, 0), self._high, quirks, outside)

    def slack(self, sequence: Sequence[Operation]) -> Slack:
        """How far time may have gone in the sequence that ran last."""
        books = self._judge.conditions
        switches = books.arrivals_after - books.arrivals_before
        waited = books.run_delay_after_ns - books.run_delay_before_ns if switches else 0
        # A new vCPU begins at last_steal 0, so what was waited before it may have been delivered once more.
        waited *= 1 + sum(isinstance(operation, operations.SaveRestore) for operation in sequence)
        return Slack(self._high - self._low + waited, switches, MOST_UPDATES if switches else 0)

    def advance(self, sequence: Sequence[Operation], late: Expected, prompt: Expected) -> None:
        """Note what the sequence has had delivered: `late` and `prompt` are the model's with K2 and without."""
        books = self._judge.conditions
        if any(isinstance(operation, operations.SaveRestore) for operation in sequence):
            self._low = self._high = 0
        if late.updated:
            self._low = books.run_delay_before_ns
        if prompt.updated:
            self._high = books.run_delay_after_ns
