"""Why an instruction faulted, and why no handler could be entered: plain sentences, each only where it is certain.

In Linux: show_fault_oops() in arch/x86/mm/fault.c tells a page fault; fixup_bug() and gp_try_fixup in traps.c a #GP.
"""

import re
from collections.abc import Callable

from emu import abi
from emu.diagnosis import words
from emu.diagnosis.scene import PF_PRESENT, PF_RESERVED, PF_USER, PF_WRITE, Scene
from emu.exits import Rdmsr, Wrmsr

_GATE_PRESENT = 0x80
_ERROR_IN_IDT = 2
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]{1,16}|[0-9]{1,19})")
_PRIVILEGED = ("hlt", "cli", "sti", "lgdt", "lidt", "ltr", "invlpg", "wrmsr", "rdmsr", "in", "out", "mov cr", "clts")


def reasons(scene: Scene, instruction: str) -> list[str]:
    """What the faulting instruction, given as text, did wrong."""
    explain = _REASONS.get(scene.shutdown.vector)
    return explain(scene, instruction) if explain else []


def _page_fault(scene: Scene, _: str) -> list[str]:
    address, error = scene.shutdown.address or 0, scene.shutdown.error or 0
    fetched = scene.fetch_failed
    did = "fetch an instruction from" if fetched else "write to" if error & PF_WRITE else "read"
    region = scene.region(address)
    name = scene.symbols.name(address)
    where = f"{address:#x}{f' <{name}>' if name else ''}{f', {region}' if region else ''}"
    found = [f"it tried to {did} {where}"]
    if scene.guarded_stack(address) is not None:
        found.append("the stack has overflowed: too deep a recursion, or too large a local variable")
    elif error & PF_RESERVED:
        found.append("a page-table entry on the way has a reserved bit set")
    elif not error & PF_PRESENT:
        found.append("no page is mapped there" + ("" if scene.given_paging else " by the guest's own page tables"))
    elif error & PF_USER and fetched is False and not error & PF_WRITE:
        found.append("the page is not for user mode (CPL 3)")
    elif fetched:
        found.append("the page is not executable: only code pages are, data pages are NX")
    elif error & PF_WRITE:
        page = (
            "code pages are"
            if region.endswith("code")
            else "constants are"
            if region.endswith("constants")
            else "it is"
        )
        found.append(f"the page cannot be written: {page} read-only")
    if fetched and address < abi.PAGE_SIZE and scene.given_paging:
        found.append("a call or jump went through a null pointer, or RET took a zero from the stack")
    return found


def _general_protection(scene: Scene, instruction: str) -> list[str]:
    error = scene.shutdown.error or 0
    if error & _ERROR_IN_IDT:
        return [f"the error code names gate {error >> 3:#x} of the IDT: it is missing, not present or not for this CPL"]
    if error:
        return [f"the error code names segment selector {error & ~3:#x}, which cannot be used here"]
    last = next((one for number, one in reversed(scene.machine.last_exits) if number == scene.number), None)
    if isinstance(last, Rdmsr):
        return [_missing(scene, last.msr) or f"{words.msr(last.msr)} cannot be read"]
    if isinstance(last, Wrmsr):
        return [_refused_value(scene, last)]
    if scene.cpl == 3 and instruction.startswith(_PRIVILEGED):
        return ["the instruction is privileged, and user mode (CPL 3) may not execute it"]
    address = _effective_address(scene, instruction) if scene.bits == 64 else None
    if address is not None and not _canonical(address):
        return [f"it addresses {address:#x}, which is not canonical: bits 63 to 47 of an address must be alike"]
    return []


def _missing(scene: Scene, msr: int) -> str:
    """Why this vCPU has no such MSR; empty where it has."""
    if msr in scene.machine.packages[scene.number].msrs.numbers():
        return ""
    if msr == abi.MSR_KVM_STEAL_TIME:
        return f"{words.msr(msr)} is withheld from this guest (--without steal-time)"
    return f"{words.msr(msr)} does not exist on this machine"


def _refused_value(scene: Scene, last: Wrmsr) -> str:
    missing = _missing(scene, last.msr)
    if missing:
        return missing
    refused = f"{words.msr(last.msr)} does not take the value {last.value:#x}"
    if last.msr != abi.MSR_KVM_STEAL_TIME:
        return refused
    if last.value & abi.KVM_STEAL_RESERVED_MASK:
        return f"{refused}: bits 1 to 5 must be 0, as the area's address must be 64-byte aligned"
    if scene.machine.config.abi == "kvm-2011":
        return f"{refused}: the area must be in the guest's RAM, which the interface of 2011 demands"
    return refused


def _effective_address(scene: Scene, instruction: str) -> int | None:
    """What a memory operand such as `[rax + rcx*8 - 0x10]` comes to; None where it is not as simple as that."""
    before, bracket, rest = instruction.partition("[")
    if not bracket or before.endswith(":"):
        return None
    total = 0
    for part in rest.partition("]")[0].replace("- ", "+ -").split("+"):
        name, _, scale = part.strip().partition("*")
        if name in scene.registers:
            total += scene.registers[name] * int(scale or 1)
        elif _NUMBER.fullmatch(name):
            total += int(name, 0)
        else:
            return None
    return total % 2**64


def _invalid_opcode(_: Scene, instruction: str) -> list[str]:
    if instruction == "ud2":
        return ["UD2 is there to fault: compilers put it where execution must never come"]
    return ["this CPU has no such instruction, or does not offer it in this mode"]


def _divide_error(_: Scene, __: str) -> list[str]:
    return ["the divisor was zero, or the quotient did not fit its register"]


def _breakpoint(_: Scene, __: str) -> list[str]:
    return ["INT3 calls a debugger, and there is none"]


_REASONS: dict[int, Callable[[Scene, str], list[str]]] = {
    abi.PF_VECTOR: _page_fault,
    abi.GP_VECTOR: _general_protection,
    abi.UD_VECTOR: _invalid_opcode,
    abi.DE_VECTOR: _divide_error,
    abi.BP_VECTOR: _breakpoint,
}


def _canonical(address: int) -> bool:
    return address >> abi.LINEAR_ADDRESS_BITS - 1 in (0, (1 << 65 - abi.LINEAR_ADDRESS_BITS) - 1)


def no_handler(scene: Scene) -> list[str]:
    """Why neither the exception's handler nor that of #DF could be entered."""
    idtr, vector = scene.state.idtr, scene.shutdown.vector
    who = words.short(vector)
    if not scene.protected:
        if (vector + 1) * 4 - 1 > idtr.limit:
            return [f"the interrupt vector table ends before the entry of {who} (its limit is {idtr.limit:#x})"]
        return ["the handler's frame could not be pushed: see the stack pointer"]
    if idtr.limit == 0:
        return [f"no IDT has been loaded (its limit is 0), so {who} has no handler, and neither has #DF"]
    size = 16 if scene.long_mode else 8
    if (vector + 1) * size - 1 > idtr.limit:
        first = f"the IDT ends before the gate of {who} (its limit is {idtr.limit:#x})"
        return [first, _double_fault(scene, size)]
    low, high = scene.load(idtr.base + vector * size, 8), scene.load(idtr.base + vector * size + 8, 4)
    if low is None or (high is None and size == 16):
        return [f"the IDT at {idtr.base:#x} cannot be read: no page is mapped there"]
    if not low >> 40 & _GATE_PRESENT:
        return [f"the gate of {who} in the IDT is not present", _double_fault(scene, size)]
    handler = low & 0xFFFF | low >> 32 & 0xFFFF0000 | ((high or 0) << 32 if size == 16 else 0)
    found = [f"the gate of {who} leads to {scene.place(handler)}"]
    ist = low >> 32 & 7 if size == 16 else 0
    stack = scene.guarded_stack(scene.stack_linear - 1)
    if not ist and stack is not None:
        found.append(
            f"the exception's frame goes to the same stack (RSP {scene.registers['rsp']:#x}), and that is in the guard"
            f" page below vcpu{stack}'s stack: only a handler with a stack of its own (IST) survives an overflow"
        )
    elif not ist and scene.load(scene.stack_linear - 8, 8) is None:
        found.append(f"its frame cannot be pushed: no memory is mapped at the stack pointer, {scene.stack_linear:#x}")
    found.append(_double_fault(scene, size))
    return found


def _double_fault(scene: Scene, size: int) -> str:
    idtr = scene.state.idtr
    low = scene.load(idtr.base + abi.DF_VECTOR * size, 8)
    if (abi.DF_VECTOR + 1) * size - 1 > idtr.limit or low is None or not low >> 40 & _GATE_PRESENT:
        return "#DF, the double fault that this makes, has no handler either"
    return "#DF, the double fault that this makes, has a gate, but its handler could not be entered either"
