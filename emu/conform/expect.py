"""What the model expects of a sequence: one outcome for each operation, and what memory holds in the end.

A thing that was read comes with the kinds of its bytes, so that who compares knows what must be equal and what is time.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from emu import abi
from emu.conform import model as specification
from emu.conform.model import Model
from emu.kvm import operations
from emu.kvm.operations import Done, Leaf, Operation, Outcome, Refused, Value

Kinds = dict[int, tuple[str, int]]  # address of a byte -> what it is and the field it belongs to

FIRST_DELAY_NS, DELAY_STEP_NS = 1_000_003, 1_009  # the run delay of an emulated vCPU, and what each entry adds to it


class Read(NamedTuple):
    """Memory that was read: bytes from `gpa` on, and the kinds of some of them."""

    gpa: int
    data: bytes
    kinds: Kinds


class Expected(NamedTuple):
    """`outcomes` holds None where the specification says nothing (a CPUID leaf that is not KVM's).

    `refusals`, `late` and `crossings` tell whether K1, K2 or K4 could make a difference.
    """

    outcomes: list[Outcome | Read | None]
    memory: tuple[Read, ...]
    last_steal: int
    updated: bool
    refusals: int
    late: int
    crossings: int


class Observed(NamedTuple):
    """What a judge found: outcomes, and the pages of a sequence afterwards."""

    outcomes: list[Outcome]
    memory: tuple[bytes, ...]


class RunDelay:
    """A run delay that grows by the same amount at each entry, for judges in virtual time."""

    def __init__(self, first_ns: int = FIRST_DELAY_NS, step_ns: int = DELAY_STEP_NS) -> None:
        self.ns = first_ns
        self._step_ns = step_ns

    def __call__(self) -> int:
        return self.ns

    def entered(self) -> None:
        """One more entry."""
        self.ns += self._step_ns


def expect(
    sequence: Sequence[Operation],
    run_delay: RunDelay,
    last_steal: int = 0,
    quirks: frozenset[str] = frozenset(),
    outside: Collection[int] = (),
) -> Expected:
    """Let the model do a sequence. `last_steal` is what earlier sequences have had delivered, in ns.

    `outside` are the numbers of the operations before which something from outside interrupts the vCPU.
    """
    model = Model(operations.RAM_SIZE, run_delay, last_steal, quirks)
    outcomes: list[Outcome | Read | None] = []
    for at, operation in enumerate(sequence):
        if at in outside:
            model.outside()
        if isinstance(operation, operations.Rdmsr):
            value = model.rdmsr(operation.msr)
            outcomes.append(_GP if value is None else Value(value))
        elif isinstance(operation, operations.Wrmsr):
            outcomes.append(_DONE if model.wrmsr(operation.msr, operation.value) else _GP)
        elif isinstance(operation, operations.Store):
            done = model.store(operation.gpa, operation.value, operation.size)
            outcomes.append(_DONE if done else Refused(abi.PF_VECTOR, _PF_WRITE))
        elif isinstance(operation, operations.Load):
            loaded = model.load(operation.gpa, operation.size)
            outcomes.append(
                Refused(abi.PF_VECTOR, 0)
                if loaded is None
                else Value(int.from_bytes(loaded, "little"))
                if not model.kinds
                else Read(operation.gpa, loaded, _within(model.kinds, operation.gpa, operation.size))
            )
        elif isinstance(operation, operations.Cpuid):
            outcomes.append(_leaf(operation.leaf))
        else:
            if isinstance(operation, operations.Memory):
                outcomes.append(_read(model, operation.gpa, operation.size))
            else:
                outcomes.append(_DONE)
            if isinstance(operation, operations.SaveRestore):
                model.migrate()
            elif isinstance(operation, operations.Reset):
                model.init()
        if _leaves_guest(operation):
            run_delay.entered()
            model.enter()
    if len(sequence) in outside:
        model.outside()
    memory = tuple(_read(model, gpa, size) for gpa, size in operations.PAGES)
    return Expected(outcomes, memory, model.last_steal, model.updated, model.refusals, model.late, model.crossings)


def _read(model: Model, gpa: int, size: int) -> Read:
    data = bytearray(size)
    for at, byte in model.memory.items():
        if gpa <= at < gpa + size:
            data[at - gpa] = byte
    return Read(gpa, bytes(data), _within(model.kinds, gpa, size))


def _within(kinds: Kinds, gpa: int, size: int) -> Kinds:
    return {at: kind for at, kind in kinds.items() if gpa <= at < gpa + size}


def _leaves_guest(operation: Operation) -> bool:
    if isinstance(operation, operations.Rdmsr | operations.Wrmsr):
        return operation.msr in _LEAVING
    return not isinstance(operation, operations.Load | operations.Store | operations.Cpuid)


def _leaf(leaf: int) -> Leaf | None:
    return _LEAVES.get(leaf)


def _leaves() -> dict[int, Leaf]:
    ebx, ecx, edx = (int.from_bytes(abi.KVM_SIGNATURE[at : at + 4], "little") for at in (0, 4, 8))
    features = sum(1 << bit for bit in specification.FEATURES)
    return {
        abi.KVM_CPUID_SIGNATURE: Leaf(abi.KVM_CPUID_FEATURES, ebx, ecx, edx),
        abi.KVM_CPUID_FEATURES: Leaf(features, 0, 0, 0),
    }


_LEAVES = _leaves()
_LEAVING = frozenset(msr for msr, rule in specification.TABLE.items() if rule.leaves)
_DONE = Done()
_GP = Refused(abi.GP_VECTOR, 0)
_PF_WRITE = 2
