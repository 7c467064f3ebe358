"""Sequences as text that can be typed, read in a report, and run again.

Operations are separated by `;`: `wrmsr STEAL_TIME 0x200001; reenter; load 0x200008 4`. Numbers are decimal or 0x..;
an MSR is a number or its name without `MSR_KVM_`.
"""

from collections.abc import Sequence
from typing import Any

from emu import abi
from emu.faults import HostError
from emu.kvm import operations
from emu.kvm.operations import Operation

MSRS: dict[str, int] = {
    name.removeprefix("MSR_KVM_"): value for name, value in vars(abi).items() if name.startswith("MSR_KVM_")
}
_NAMES = {value: name for name, value in MSRS.items()}
_SIZES = (1, 2, 4, 8)


def format_sequence(sequence: Sequence[Operation]) -> str:
    """One line."""
    return "; ".join(map(format_operation, sequence))


def format_operation(operation: Operation) -> str:
    """Such as `wrmsr STEAL_TIME 0x200001`."""
    word = _WORDS[type(operation)]
    if isinstance(operation, operations.Load | operations.Memory):
        return f"{word} {operation.gpa:#x} {operation.size}"
    if isinstance(operation, operations.Store):
        return f"{word} {operation.gpa:#x} {operation.value:#x} {operation.size}"
    return " ".join(
        [
            word,
            *(
                _NAMES.get(value, f"{value:#x}") if field == "msr" else f"{value:#x}"
                for field, value in zip(operation._fields, operation, strict=True)
            ),
        ]
    )


def parse_sequence(text: str) -> list[Operation]:
    """The operations of a line. Raises HostError that names the operation that cannot be used."""
    parts = [part.strip() for part in text.split(";")]
    sequence = [_parse(part, f"--sequence: {part}") for part in parts if part]
    if not sequence:
        raise HostError("there is no operation in it", "--sequence", _REMEDY)
    if len(sequence) > operations.MAX_OPERATIONS:
        raise HostError(f"a sequence has at most {operations.MAX_OPERATIONS} operations", "--sequence")
    return sequence


def _parse(part: str, where: str) -> Operation:
    word, *words = part.split()
    kind = _KINDS.get(word)
    if kind is None:
        raise HostError(f"there is no operation {word!r}", where, f"use one of {', '.join(_KINDS)}")
    fields = kind._fields
    required = len(fields) - len(kind._field_defaults)
    if not required <= len(words) <= len(fields):
        raise HostError(f"{word} takes {' '.join(fields) or 'nothing'}", where, _REMEDY)
    values = {field: _number(field, text, where) for field, text in zip(fields, words, strict=False)}
    operation: Operation = kind(**values)
    if isinstance(operation, operations.Load | operations.Store) and operation.size not in _SIZES:
        raise HostError("a load or store has 1, 2, 4 or 8 bytes", where)
    if isinstance(operation, operations.Memory) and not 0 <= operation.gpa <= operations.RAM_SIZE - operation.size:
        raise HostError(f"there are {operations.RAM_SIZE:#x} bytes of RAM", where)
    return operation


def _number(field: str, text: str, where: str) -> int:
    if field == "msr" and text.removeprefix("MSR_KVM_") in MSRS:
        return MSRS[text.removeprefix("MSR_KVM_")]
    try:
        value = int(text, 0)
    except ValueError:
        raise HostError(f"{text!r} is no number", where, _REMEDY) from None
    most = _MOST.get(field, (1 << 64) - 1)
    if not 0 <= value <= most:
        raise HostError(f"{field} is from 0 to {most:#x}", where)
    return value


_MOST = {"msr": (1 << 32) - 1, "leaf": (1 << 32) - 1, "subleaf": (1 << 32) - 1, "size": operations.RAM_SIZE}
_WORDS: dict[type, str] = {
    operations.Rdmsr: "rdmsr",
    operations.Wrmsr: "wrmsr",
    operations.Cpuid: "cpuid",
    operations.Load: "load",
    operations.Store: "store",
    operations.Reenter: "reenter",
    operations.SaveRestore: "save-restore",
    operations.Reset: "reset",
    operations.Memory: "memory",
}
_KINDS: dict[str, Any] = {word: kind for kind, word in _WORDS.items()}
_REMEDY = "for example: wrmsr STEAL_TIME 0x200001; reenter; load 0x200008 4"
