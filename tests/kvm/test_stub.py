"""The stub's bytes are the instructions that its table claims, and they stand where the table says."""

import struct

from emu import abi
from emu.code.disassembly import disassemble
from emu.kvm import operations, stub


def test_bytes_are_the_instructions_they_claim():
    claimed = [text for lines in stub.CODE.values() for _, text in lines]
    size = sum(len(bytes.fromhex(code)) for lines in stub.CODE.values() for code, _ in lines)
    found = disassemble(stub.PAGE[:size], stub.STUB_GPA, 64, len(claimed) + 1)
    assert [line.text for line in found] == claimed


def test_jumps_lead_to_routines():
    targets = {text for lines in stub.CODE.values() for _, text in lines if text.startswith("jmp 0x")}
    assert targets == {f"jmp {stub.ROUTINES[name]:#x}" for name in ("start", "refused")}


def test_refused_operation_goes_on_with_the_next_record():
    (target,) = [text for _, text in stub.CODE["refused"] if text.startswith("mov")]
    at = int(target.rpartition(" ")[2], 16) - stub.STUB_GPA
    assert [line.text for line in disassemble(stub.PAGE[at : at + 6], at, 64, 2)] == [text for _, text in stub._STEP]


def test_record_has_the_fields_where_the_stub_has_them():
    packed = stub.RECORD.pack(0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0)
    assert [packed[at] for at in (0, 0x8, 0x10, 0x18, 0x1C, 0x20, 0x24, 0x28, 0x30)] == [0x11 * n for n in range(1, 10)]
    assert stub.RECORD_SIZE == 0x40
    assert (operations.MAX_OPERATIONS + 1) * stub.RECORD_SIZE <= abi.PAGE_SIZE


def test_gates_lead_to_the_handlers():
    for vector, name in ((abi.GP_VECTOR, "general_protection"), (abi.PF_VECTOR, "page_fault")):
        low, selector, ist, kind, middle, high, _ = struct.unpack_from("<HHBBHII", stub.IDT, 16 * vector)
        assert low | middle << 16 | high << 32 == stub.ROUTINES[name]
        assert (selector, ist, kind) == (abi.SELECTOR_CODE64, 0, 0x8E)


def test_no_page_of_a_sequence_holds_the_stub():
    stub_pages = range(abi.GDT_GPA, stub.STACK_TOP_GPA)
    for gpa, size in operations.PAGES:
        assert gpa + size <= stub_pages.start or gpa >= stub_pages.stop
        assert gpa + size <= operations.RAM_SIZE
