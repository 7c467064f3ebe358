"""The guest that executes a sequence: a few machine instructions per operation, chained by the records they read.

A record is RECORD_SIZE bytes: the address of the routine that executes it, two operands, room for what came of it. RSI
points at the current record; each routine ends by stepping to the next one and jumping where that says. An exception
leaves its vector and error code in the record and goes on with the next. Bytes and text stand side by side: a test
disassembles the one and compares it with the other.

In Linux: guest_code() of tools/testing/selftests/kvm/x86/kvm_pv_test.c has the same task.
"""

import struct

from emu import abi
from emu.boot.entry import LONG, Entry, Rights
from emu.ram import Ram

STUB_GPA = abi.GUEST_GPA
RECORDS_GPA = STUB_GPA + abi.PAGE_SIZE
STACK_TOP_GPA = STUB_GPA + 3 * abi.PAGE_SIZE
IDT_OFFSET = abi.PAGE_SIZE // 2
ENTRY = Entry(LONG, STUB_GPA)
RIGHTS = (Rights(STUB_GPA, abi.PAGE_SIZE, True, True),)

# routine, number, value, four words of results, vector (0: none), error
RECORD = struct.Struct("<QQQ4IQQQ")
RECORD_SIZE = RECORD.size

_STEP = (("4883c640", "add rsi, 0x40"), ("ff26", "jmp qword ptr [rsi]"))
_OPERAND_ADDRESS = ("488b5e08", "mov rbx, qword ptr [rsi + 8]")
_OPERAND_VALUE = ("488b4610", "mov rax, qword ptr [rsi + 0x10]")
_RETURN_OFFSET = 35  # where `wrmsr` steps to the next record

CODE: dict[str, tuple[tuple[str, str], ...]] = {
    "start": (
        ("be" + RECORDS_GPA.to_bytes(4, "little").hex(), f"mov esi, {RECORDS_GPA:#x}"),
        ("ff26", "jmp qword ptr [rsi]"),
    ),
    "rdmsr": (
        ("8b4e08", "mov ecx, dword ptr [rsi + 8]"),
        ("0f32", "rdmsr"),
        ("894618", "mov dword ptr [rsi + 0x18], eax"),
        ("89561c", "mov dword ptr [rsi + 0x1c], edx"),
        *_STEP,
    ),
    "wrmsr": (
        ("8b4e08", "mov ecx, dword ptr [rsi + 8]"),
        ("8b4610", "mov eax, dword ptr [rsi + 0x10]"),
        ("8b5614", "mov edx, dword ptr [rsi + 0x14]"),
        ("0f30", "wrmsr"),
        *_STEP,
    ),
    "cpuid": (
        ("8b4608", "mov eax, dword ptr [rsi + 8]"),
        ("8b4e10", "mov ecx, dword ptr [rsi + 0x10]"),
        ("0fa2", "cpuid"),
        ("894618", "mov dword ptr [rsi + 0x18], eax"),
        ("895e1c", "mov dword ptr [rsi + 0x1c], ebx"),
        ("894e20", "mov dword ptr [rsi + 0x20], ecx"),
        ("895624", "mov dword ptr [rsi + 0x24], edx"),
        *_STEP,
    ),
    "load1": (
        _OPERAND_ADDRESS,
        ("8a03", "mov al, byte ptr [rbx]"),
        ("884618", "mov byte ptr [rsi + 0x18], al"),
        *_STEP,
    ),
    "load2": (
        _OPERAND_ADDRESS,
        ("668b03", "mov ax, word ptr [rbx]"),
        ("66894618", "mov word ptr [rsi + 0x18], ax"),
        *_STEP,
    ),
    "load4": (
        _OPERAND_ADDRESS,
        ("8b03", "mov eax, dword ptr [rbx]"),
        ("894618", "mov dword ptr [rsi + 0x18], eax"),
        *_STEP,
    ),
    "load8": (
        _OPERAND_ADDRESS,
        ("488b03", "mov rax, qword ptr [rbx]"),
        ("48894618", "mov qword ptr [rsi + 0x18], rax"),
        *_STEP,
    ),
    "store1": (_OPERAND_ADDRESS, _OPERAND_VALUE, ("8803", "mov byte ptr [rbx], al"), *_STEP),
    "store2": (_OPERAND_ADDRESS, _OPERAND_VALUE, ("668903", "mov word ptr [rbx], ax"), *_STEP),
    "store4": (_OPERAND_ADDRESS, _OPERAND_VALUE, ("8903", "mov dword ptr [rbx], eax"), *_STEP),
    "store8": (_OPERAND_ADDRESS, _OPERAND_VALUE, ("488903", "mov qword ptr [rbx], rax"), *_STEP),
    "leave": ((f"e6{abi.PORT_EXIT:02x}", f"out {abi.PORT_EXIT:#x}, al"), *_STEP),
    "end": ((f"e6{abi.PORT_EXIT:02x}", f"out {abi.PORT_EXIT:#x}, al"), ("e92cffffff", f"jmp {STUB_GPA:#x}")),
    "general_protection": (("c746280d000000", "mov dword ptr [rsi + 0x28], 0xd"), ("eb07", f"jmp {STUB_GPA + 228:#x}")),
    "page_fault": (("c746280e000000", "mov dword ptr [rsi + 0x28], 0xe"),),
    "refused": (
        ("8f4630", "pop qword ptr [rsi + 0x30]"),
        (
            "48c70424" + (STUB_GPA + _RETURN_OFFSET).to_bytes(4, "little").hex(),
            f"mov qword ptr [rsp], {STUB_GPA + _RETURN_OFFSET:#x}",
        ),
        ("48cf", "iretq"),
    ),
}


def map_page_0(ram: Ram) -> None:
    """Map the first page, which `prepare` leaves out so that null pointers fault: here it is an address like any."""
    table = abi.PAGE_TABLES_GPA
    for _ in range(3):
        table = ram.load(table, 8) & -abi.PAGE_SIZE & (1 << abi.MAXPHYADDR) - 1
    ram.store(table, 8, abi.PTE_PRESENT | abi.PTE_WRITABLE | abi.PTE_NX)


def _assemble() -> tuple[bytes, dict[str, int]]:
    code, places = b"", {}
    for name, lines in CODE.items():
        places[name] = STUB_GPA + len(code)
        code += b"".join(bytes.fromhex(text) for text, _ in lines)
    return code, places


_INSTRUCTIONS, ROUTINES = _assemble()
_GATE = struct.Struct("<HHBBHII")
_INTERRUPT_GATE = 0x8E  # present, CPL 0, 64-bit, enters with interrupts off


def _idt() -> bytes:
    table = bytearray((abi.PF_VECTOR + 1) * _GATE.size)
    for vector, name in ((abi.GP_VECTOR, "general_protection"), (abi.PF_VECTOR, "page_fault")):
        at = ROUTINES[name]
        gate = _GATE.pack(at & 0xFFFF, abi.SELECTOR_CODE64, 0, _INTERRUPT_GATE, at >> 16 & 0xFFFF, at >> 32, 0)
        table[vector * _GATE.size : (vector + 1) * _GATE.size] = gate
    return bytes(table)


IDT = _idt()
PAGE = _INSTRUCTIONS.ljust(IDT_OFFSET, b"\0") + IDT.ljust(abi.PAGE_SIZE - IDT_OFFSET, b"\0")
