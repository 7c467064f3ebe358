"""Edits: what a user changes in a run from outside, each at a position of it, so that the branch replays as well.

In Linux: KVM_SET_REGS, KVM_SET_MSRS and a debugger's writes are edits nobody records.
"""

from typing import Any, NamedTuple

from emu import abi
from emu.faults import GuestFault, HostError
from emu.machine import Machine
from emu.package import Lie
from emu.state import GENERAL

_WORD = (1 << 64) - 1
MAX_AWAY_NS = 10**15
MAX_BURST = 1 << 31  # half of them bring a version back to where it was


class SetRegister(NamedTuple):
    """A general register, RIP or RFLAGS, by its name in lower case."""

    vcpu: int
    register: str
    value: int


class SetMemory(NamedTuple):
    """Bytes of guest-physical memory."""

    gpa: int
    data: bytes


class SetMsr(NamedTuple):
    """What a WRMSR of the guest would do, without the instruction; refused where that would raise #GP."""

    vcpu: int
    msr: int
    value: int


class Preempt(NamedTuple):
    """The pCPU goes to `who`, such as `task0` or `vcpu1`, who waits for it, with the host's next decision."""

    pcpu: int
    who: str


class HostStore(NamedTuple):
    """The next store of an update of this vCPU's area; where none is under way, the first of one.

    It tells of `added_ns` more run delay, in all, than there was; steal is stored in `halves` or whole. Nothing happens
    to a vCPU that wants no updates.
    """

    vcpu: int
    added_ns: int
    halves: bool


class HostUpdate(NamedTuple):
    """`times` whole updates of this vCPU's area at once; `added_ns` as of a HostStore."""

    vcpu: int
    added_ns: int
    times: int


class TakeAway(NamedTuple):
    """The vCPU on this pCPU waits for `ns` nanoseconds from here, as if the host ran something else."""

    pcpu: int
    ns: int


class SetAnswer(NamedTuple):
    """The next CPUID, RDMSR or WRMSR of this vCPU is answered otherwise than truly: see emu.package.Lie."""

    vcpu: int
    exit: str
    refuse: bool
    register: int
    keep: int
    flip: int


class Interrupt(NamedTuple):
    """An interrupt arrives at this vCPU's local APIC; a vCPU whose APIC is switched off never hears of it."""

    vcpu: int
    vector: int


Change = HostStore | HostUpdate | SetRegister | SetMemory | SetMsr | SetAnswer | Interrupt | Preempt | TakeAway
ANSWERED = ("cpuid", "rdmsr", "wrmsr")


class Edit(NamedTuple):
    """A change, and the position of the run at which it is made."""

    position: int
    change: Change


def apply(machine: Machine, change: Change) -> None:
    """Make the change now. Raises HostError where it cannot be made; then nothing has changed."""
    if machine.reason is not None:
        raise HostError("the run is over", remedy="go back first")
    if isinstance(change, SetMemory):
        if not machine.ram.holds(change.gpa, len(change.data)):
            raise HostError(f"{len(change.data)} bytes at {change.gpa:#x} are not in RAM", remedy="name a place in RAM")
        machine.leave_entry()
        machine.ram.write(change.gpa, change.data)
    elif isinstance(change, TakeAway):
        if not 1 <= change.ns <= MAX_AWAY_NS:
            raise HostError(f"a vCPU cannot wait for {change.ns} ns", remedy=f"from 1 to {MAX_AWAY_NS} it can")
        machine.take_away(change.pcpu, change.ns * 1000)
    elif isinstance(change, Preempt):
        machine.preempt(change.pcpu, change.who)
    else:
        if not 0 <= change.vcpu < len(machine.packages):
            raise HostError(f"there is no vCPU {change.vcpu}", remedy=f"there are {len(machine.packages)}, from 0")
        if isinstance(change, HostStore | HostUpdate):
            _by_hand(machine, change)
            return
        if isinstance(change, SetAnswer):
            _set_answer(machine, change)
            return
        if isinstance(change, Interrupt):
            if not abi.APIC_FIRST_VECTOR <= change.vector <= 255:
                raise HostError(f"there is no interrupt {change.vector}", remedy="they are numbered from 16 to 255")
            machine.raise_interrupt(change.vcpu, change.vector)
            return
        if not 0 <= change.value <= _WORD:
            raise HostError(f"{change.value:#x} does not fit into 64 bits")
        if isinstance(change, SetMsr):
            _set_msr(machine, change)
        else:
            _set_register(machine, change)


def _by_hand(machine: Machine, change: HostStore | HostUpdate) -> None:
    if not 0 <= change.added_ns <= _WORD:
        raise HostError(f"a run delay of {change.added_ns} ns does not fit into 64 bits")
    if isinstance(change, HostStore):
        machine.store_by_hand(change.vcpu, change.added_ns, halves=change.halves)
    elif not 1 <= change.times <= MAX_BURST:
        raise HostError(f"{change.times} updates at once cannot be made", remedy=f"from 1 to {MAX_BURST} can")
    else:
        machine.update_by_hand(change.vcpu, change.added_ns, change.times)


def _set_answer(machine: Machine, change: SetAnswer) -> None:
    if change.exit not in ANSWERED:
        raise HostError(f"the answer to {change.exit!r} cannot be set", remedy=f"known are {', '.join(ANSWERED)}")
    if not (0 <= change.register <= 3 and 0 <= change.keep <= _WORD and 0 <= change.flip <= _WORD):
        raise HostError("this is no change of an answer", remedy="a register from 0 to 3, and masks of 64 bits")
    machine.lie(change.vcpu, Lie(change.exit, change.refuse, change.register, change.keep, change.flip))


def _set_msr(machine: Machine, change: SetMsr) -> None:
    try:
        machine.write_msr(change.vcpu, change.msr, change.value)
    except GuestFault:
        raise HostError(
            f"MSR {change.msr:#x} does not take {change.value:#x}: WRMSR would raise #GP",
            remedy="give a value that it takes",
        ) from None


def _set_register(machine: Machine, change: SetRegister) -> None:
    package = machine.packages[change.vcpu]
    if change.register in (*GENERAL, "rip", "rflags"):
        machine.leave_entry()
    if change.register in GENERAL:
        package.vcpu.set_general(change.register, change.value)
        return
    if change.register not in ("rip", "rflags"):
        known = ", ".join((*GENERAL, "rip", "rflags"))
        raise HostError(f"there is no register {change.register!r} to set", remedy=f"known are {known}")
    if package.exit is not None:
        raise HostError(
            f"vCPU {change.vcpu} is in the middle of an exit, which goes on where it came from",
            remedy="step once, then set it",
        )
    state = package.vcpu.state()
    changed = state._replace(rip=change.value) if change.register == "rip" else state._replace(rflags=change.value)
    package.vcpu.load(changed)


def told(change: Change) -> str:
    """The change in a few words."""
    if isinstance(change, HostStore):
        return f"the host makes its next store of an update for vcpu{change.vcpu}"
    if isinstance(change, HostUpdate):
        return f"the host updates vcpu{change.vcpu}'s area, {change.times} times at once"
    if isinstance(change, SetRegister):
        return f"vcpu{change.vcpu}: {change.register} becomes {change.value:#x}"
    if isinstance(change, SetMemory):
        return f"memory at {change.gpa:#x} becomes {change.data[:16].hex(' ')}{' ...' if len(change.data) > 16 else ''}"
    if isinstance(change, SetMsr):
        return f"vcpu{change.vcpu}: MSR {change.msr:#x} becomes {change.value:#x}"
    if isinstance(change, SetAnswer):
        if change.refuse:
            return f"the host refuses vcpu{change.vcpu}'s next {change.exit.upper()}"
        where = f" in {('EAX', 'EBX', 'ECX', 'EDX')[change.register]}" if change.exit == "cpuid" else ""
        kept = change.keep & (0xFFFFFFFF if change.exit == "cpuid" else _WORD)
        bits = f"bits {kept:#x} of the truth" + (f", and {change.flip:#x} turned over" if change.flip else "")
        return f"the host answers vcpu{change.vcpu}'s next {change.exit.upper()} with {bits}{where}"
    if isinstance(change, Interrupt):
        return f"interrupt {change.vector} arrives at vcpu{change.vcpu}"
    if isinstance(change, Preempt):
        return f"the host gives pCPU {change.pcpu} to {change.who}"
    return f"the host keeps the vCPU on pCPU {change.pcpu} waiting for {change.ns:,} ns"


# --- as a file has them -----------------------------------------------------------------------------------------------

_KINDS: dict[str, type[Change]] = {
    "register": SetRegister,
    "memory": SetMemory,
    "msr": SetMsr,
    "answer": SetAnswer,
    "interrupt": Interrupt,
    "preempt": Preempt,
    "away": TakeAway,
    "store": HostStore,
    "update": HostUpdate,
}


def to_json(edit: Edit) -> dict[str, Any]:
    """The edit as plain data; bytes in hexadecimal."""
    kind = next(name for name, known in _KINDS.items() if known is type(edit.change))
    fields = {key: value.hex() if isinstance(value, bytes) else value for key, value in edit.change._asdict().items()}
    return {"at": edit.position, "kind": kind, **fields}


def from_json(data: Any) -> Edit:
    """Back again. Raises ValueError where `data` is no edit."""
    if not isinstance(data, dict) or data.get("kind") not in _KINDS:
        raise ValueError("an edit of no known kind")
    kind = _KINDS[data["kind"]]
    values = {key: value for key, value in data.items() if key not in ("at", "kind")}
    if set(values) != set(kind._fields) or not _is_number(data.get("at")):
        raise ValueError(f"an edit of kind {data['kind']} with other fields than it has")
    for key, value in values.items():
        kinds = {"data": str, "who": str, "halves": bool, "refuse": bool, "exit": str}
        if kind is SetRegister:
            kinds["register"] = str
        if not (isinstance(value, kinds[key]) if key in kinds else _is_number(value)):
            raise ValueError(f"an edit whose {key} is {value!r:.40}")
    if kind is SetMemory:
        values["data"] = bytes.fromhex(values["data"])
    return Edit(data["at"], kind(**values))


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= 1 << 80
