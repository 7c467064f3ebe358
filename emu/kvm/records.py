"""A sequence as records of the stub, and the outcomes that the guest has left in them.

In Linux: the tables of tools/testing/selftests/kvm/x86/kvm_pv_test.c, struct msr_data and struct hcall_data.
"""

from collections.abc import Callable, Sequence
from mmap import mmap
from typing import Any

from emu.kvm import operations, stub
from emu.kvm.operations import Done, Leaf, Operation, Outcome, Refused, Value


def of_host(operation: Operation) -> bool:
    """Whether the guest leaves for it, so that the host can do it."""
    return type(operation) in _HOST


def pack(sequence: Sequence[Operation]) -> bytes:
    """The records, the one that ends the sequence included; for RECORDS_GPA."""
    return b"".join([_PACK[type(operation)](operation) for operation in sequence]) + _END


def outcomes(memory: mmap, sequence: Sequence[Operation], hosts: Sequence[Outcome]) -> list[Outcome]:
    """What came of each operation: `hosts` for the host's own, in their order, the records in `memory` for the rest."""
    left = iter(hosts)
    found: list[Outcome] = []
    at = stub.RECORDS_GPA
    for operation in sequence:
        kind = type(operation)
        if kind in _HOST:
            found.append(next(left))
        else:
            _, _, _, eax, ebx, ecx, edx, vector, error, _ = stub.RECORD.unpack_from(memory, at)
            if vector:
                found.append(Refused(vector, error))
            elif kind is operations.Cpuid:
                found.append(Leaf(eax, ebx, ecx, edx))
            elif kind in _READS:
                found.append(Value(eax | ebx << 32))
            else:
                found.append(_DONE)
        at += stub.RECORD_SIZE
    return found


def _record(routine: str, number: int = 0, value: int = 0) -> bytes:
    return stub.RECORD.pack(stub.ROUTINES[routine], number, value, 0, 0, 0, 0, 0, 0, 0)


_DONE = Done()
_END = _record("end")
_LEAVE = _record("leave")
_READS = (operations.Rdmsr, operations.Load)
_HOST = (operations.Reenter, operations.SaveRestore, operations.Reset, operations.Memory)
_PACK: dict[type, Callable[[Any], bytes]] = {
    operations.Rdmsr: lambda op: _record("rdmsr", op.msr),
    operations.Wrmsr: lambda op: _record("wrmsr", op.msr, op.value),
    operations.Cpuid: lambda op: _record("cpuid", op.leaf, op.subleaf),
    operations.Load: lambda op: _record(f"load{op.size}", op.gpa),
    operations.Store: lambda op: _record(f"store{op.size}", op.gpa, op.value),
    **dict.fromkeys(_HOST, lambda op: _LEAVE),
}
