"""Triple faults told so that a student finds the mistake: each kind of crash names its own cause."""

import io
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from emu import abi
from emu.boot.image import flat_image
from emu.diagnosis import diagnose
from emu.diagnosis import words as words_
from emu.diagnosis.colour import render_rich
from emu.diagnosis.words import history, told
from emu.exits import Cpuid, Exit, NestedFault, PortOut, Rdmsr, Shutdown, SoftwareInterrupt, Wrmsr
from emu.guest import load_guest
from emu.machine import Machine
from emu.result import TripleFault
from emu.scenario import Config
from tests.effort import EFFORT
from tests.programs import run


def report(source: str, bits: int = 64, **options: object) -> str:
    recorded = run(source, bits, **options)
    assert recorded.result.reason == "triple-fault"
    lines = diagnose(recorded.machine)
    assert all(line.isprintable() for line in lines)
    return "\n".join(lines)


def flat(report_of: bytes, mode: str) -> str:
    machine = Machine(flat_image(report_of, "flat.bin", mode), Config())
    machine.run()
    return "\n".join(diagnose(machine))


def test_no_shutdown_no_diagnosis():
    assert diagnose(run("cli\n hlt").machine) == []


@pytest.mark.parametrize(
    ("source", "words"),
    {
        "null call": (
            "call go\n go: xor eax, eax\n jmp rax",
            ["most likely, ran:", "#PF", "fetch an instruction from 0x0, page 0", "no page is mapped", "null pointer"],
        ),
        "write to code": (
            "go: mov byte ptr [rip + go], 1",
            ["write to 0x100000", "the program's code", "code pages are read-only"],
        ),
        "write to constants": (
            ".section .rodata\n table: .quad 7\n .text\n mov byte ptr [rip + table], 1",
            ["write to 0x101000 <table>, the program's constants", "constants are read-only"],
        ),
        "data executed": (
            ".data\n data: .byte 0xf4\n .text\n lea rax, [rip + data]\n jmp rax",
            ["the program's data", "not executable"],
        ),
        "beyond RAM": ("mov rax, [0x10000000]", ["read 0x10000000, beyond the guest's RAM", "no page is mapped there"]),
        "stack overflow": ("deep: call deep", ["guard page below vcpu0's stack", "the stack has overflowed", "<deep>"]),
        "unknown MSR read": ("mov ecx, 0x12345\n rdmsr", ["#GP", "MSR 0x12345 does not exist"]),
        "refused MSR value": (
            "mov ecx, MSR_KVM_STEAL_TIME\n mov eax, 2\n xor edx, edx\n wrmsr",
            [
                "MSR_KVM_STEAL_TIME (0x4b564d03)",
                "does not take the value 0x2: bits 1 to 5 must be 0",
                "64-byte aligned",
            ],
        ),
        "refused value of another MSR": (
            "mov ecx, MSR_EFER\n mov eax, 1 << 20\n xor edx, edx\n wrmsr",
            ["MSR_EFER (0xc0000080) does not take the value 0x100000"],
        ),
        "unknown MSR written": ("mov ecx, 0x12345\n wrmsr", ["MSR 0x12345 does not exist on this machine"]),
        "not canonical": (
            "movabs rax, 0x8000000000000000\n mov rcx, 2\n mov rdx, [rax + rcx*8 - 8]",
            ["it addresses 0x8000000000000008, which is not canonical"],
        ),
        "INT without gate": ("int 0x80", ["names gate 0x80 of the IDT", "no IDT has been loaded"]),
        "UD2": ("ud2", ["#UD", "UD2 is there to fault"]),
        "division": ("xor ecx, ecx\n div ecx", ["#DE", "divisor was zero"]),
        "breakpoint": ("int3", ["names gate 0x3 of the IDT"]),
    }.values(),
)
def test_crash_names_its_cause(source, words):
    text = report(source)
    for word in words:
        assert word in text
    assert "no IDT has been loaded" in text


IDT = """
    lea rax, [rip + handler]
    lea rdi, [rip + idt + 16 * {vector}]
    mov [rdi], ax
    mov word ptr [rdi + 2], SELECTOR_CODE64
    mov word ptr [rdi + 4], {type}
    shr rax, 16
    mov [rdi + 6], ax
    lea rax, [rip + idt]
    mov [rip + idtr + 2], rax
    lidt [rip + idtr]
    jmp 1f
handler: iretq
.data
idtr: .word {limit}
      .quad 0
.bss
.balign 16
idt: .skip 4096
.text
1:
"""


def test_gate_that_is_not_present_is_named():
    text = report(IDT.format(vector=14, type=0x0E00, limit=16 * 32 - 1) + "mov rax, [0x10000000]")
    assert "the gate of #PF in the IDT is not present" in text and "has no handler either" in text


def test_idt_that_is_too_short_is_named():
    text = report(IDT.format(vector=1, type=0x8E00, limit=16 * 4 - 1) + "ud2")
    assert "the IDT ends before the gate of #UD (its limit is 0x3f)" in text


def test_handler_on_an_overflown_stack_is_explained_by_the_missing_ist():
    text = report(IDT.format(vector=14, type=0x8E00, limit=16 * 32 - 1) + "deep: call deep")
    assert "leads to" in text and "<handler>" in text
    assert "only a handler with a stack of its own (IST) survives" in text


def test_idt_that_is_not_mapped_is_named():
    text = report(".data\n idtr: .word 4095\n .quad 0x10000000\n .text\n lidt [rip + idtr]\n ud2")
    assert "the IDT at 0x10000000 cannot be read" in text


def test_instructions_before_and_after_stand_around_the_faulting_one():
    lines = report("nop\n inc rbx\n first: mov ecx, 7\n xor eax, eax\n ud2\n nop\n inc rdx").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("=>"))
    assert "ud2" in lines[at] and "<first+0x7>" in lines[at]
    assert "xor eax, eax" in lines[at - 1] and "<first+0x5>" in lines[at - 1]
    assert "mov ecx, 7" in lines[at - 2] and "inc" not in lines[at - 3]
    assert "nop" in lines[at + 1]


def test_registers_are_shown_in_the_width_of_the_code():
    assert "rbx 00000000000000ff" in report("mov ebx, 0xff\n ud2")
    narrow = report("mov ebx, 0xff\n ud2", bits=32)
    assert "ebx 000000ff" in narrow and "rbx" not in narrow and "cs 0030" in narrow


def test_callers_are_found_on_the_stack():
    text = report("call outer\n outer: call inner\n hlt\n inner: push 7\n ud2")
    callers = text.partition("return addresses")[2].partition("the last exits")[0]
    assert "<outer+0x5>" in callers.splitlines()[1]


def test_the_vcpu_that_faulted_is_the_one_that_is_shown():
    text = report("test edi, edi\n jz 1f\n ud2\n 1: out PORT_CONSOLE, al\n jmp 1b", vcpus=3, quantum_ps=10_000)
    assert text.startswith("triple fault on vcpu1: #UD")


def test_32_bit_code_is_read_as_such():
    text = report("inc ecx\n xor edx, edx\n div edx", bits=32)
    assert "div edx" in text and "#DE" in text and "inc ecx" in text


def test_16_bit_code_is_read_as_such_and_its_table_explained():
    text = flat(b"\x31\xc0\x8e\xd8\x0f\x01\x1e\x00\x7d\x0f\x0b", "real")  # lidt of a zero limit, then ud2
    assert "the interrupt vector table ends before the entry of #UD (its limit is 0x0)" in text
    assert "eip 00007c09" in text


def test_flat_image_has_no_names_and_still_a_diagnosis():
    text = flat(b"\x0f\x0b", "long")
    assert f"at {abi.GUEST_GPA:#x}: ud2" in text and "<" not in text.partition("the last exits")[0]


def test_jump_out_of_memory_says_that_no_code_can_be_read():
    assert "no code can be read there" in report("mov eax, 0x10000000\n jmp rax")


def test_withheld_msr_is_not_said_to_take_other_values():
    text = report("mov ecx, MSR_KVM_STEAL_TIME\n wrmsr", without=("steal-time",))
    assert "is withheld from this guest (--without steal-time)" in text and "does not take" not in text


def test_area_outside_ram_is_the_cause_on_the_interface_of_2011():
    source = "mov ecx, MSR_KVM_STEAL_TIME\n mov eax, 0x40000001\n xor edx, edx\n wrmsr"
    assert "the area must be in the guest's RAM" in report(source, abi="kvm-2011").replace("\n    ", " ")


def test_last_line_is_the_cause_and_the_place(tmp_path):
    (tmp_path / "div0.c").write_text("int main(int cpu) {\n  volatile int zero = 0;\n  return cpu / zero;\n}\n")
    machine = Machine(load_guest(tmp_path / "div0.c"), Config())
    fault = machine.run().fault
    assert fault is not None and fault.text == "triple fault: #DE, divide error, at main (div0.c:3)"
    assert diagnose(machine)[-1] == fault.text
    assert fault.place.startswith("main+0x") and fault.place.endswith("div0.c:3)")
    assert (fault.vcpu, fault.vector, fault.error, fault.address) == (0, abi.DE_VECTOR, None, None)


def test_verdict_without_source_lines_has_the_address():
    state = run("ud2").machine.packages[0].vcpu.state()
    fault = TripleFault.of(Shutdown(0x10_0005, abi.PF_VECTOR, 2, 0xB8000), state, b"no ELF file", 3, alone=False)
    assert fault.text == "triple fault on vcpu3: #PF, page fault on 0xb8000, at 0x100005" and fault.place == ""
    assert flat(b"\x90\x0f\x0b", "long").splitlines()[-1].endswith(f"at {abi.GUEST_GPA + 1:#x}")
    no_table = b"\x31\xc0\x8e\xd8\x0f\x01\x1e\x00\x7d\x0f\x0b"  # lidt of a zero limit, then ud2
    assert flat(no_table, "real").splitlines()[-1].endswith(f"at {abi.REAL_MODE_GPA + 9:#x}")


def test_verdict_names_the_vcpu_where_there_are_several():
    assert report("ud2", vcpus=2).splitlines()[-1].startswith("triple fault on vcpu0: #UD")


@pytest.mark.parametrize("bits", [32, 64])
def test_report_keeps_to_the_width_it_is_given(bits):
    source = ".data\n far: .quad 0\n .text\n a_label_of_some_length: mov dword ptr [far], 0x12345678\n ud2"
    machine = run(source.replace("[far]", "[rip + far]") if bits == 64 else source, bits).machine
    wide = diagnose(machine, 200)
    assert any("78 56 34 12" in line for line in wide)
    for width in (60, 80):
        narrow = diagnose(machine, width)
        assert max(map(len, narrow)) <= width and len(narrow) >= len(wide)
        assert any(line.startswith("=>") and "ud2" in line for line in narrow)


def test_colours_are_for_terminals_that_want_them():
    machine = run("ud2").machine
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        stream = io.StringIO()
        colours = {"force_terminal": True, "color_system": "standard", "no_color": not coloured}
        render_rich(Console(file=stream, width=80, _environ=environment, **colours), machine)
        assert ("\x1b[1;31mtriple fault" in stream.getvalue()) == coloured
        assert "triple fault: #UD, invalid opcode" in stream.getvalue()


def test_source_lines_are_told(tmp_path):
    (tmp_path / "wild.c").write_text(
        "typedef int (*function)(void);\nint main(int cpu) {\n  volatile function f = 0;\n  return f() + cpu;\n}\n"
    )
    machine = Machine(load_guest(tmp_path / "wild.c"), Config())
    machine.run()
    text = "\n".join(diagnose(machine))
    assert "wild.c:4" in text.partition("return addresses")[2]


def test_own_page_tables_are_not_judged_by_the_map_they_replaced():
    text = report("mov rax, cr3\n mov rdi, 0x200000\n mov rsi, rax\n mov rcx, 512\n rep movsq\n mov rax, 0x200000\n"
                  " mov cr3, rax\n mov rax, [0x10000000]")  # fmt: skip
    assert "no page is mapped there by the guest's own page tables" in text and "beyond" not in text


@pytest.mark.parametrize(
    ("exit_", "words"),
    [
        (Cpuid(0, 2, abi.KVM_CPUID_FEATURES, 0), "CPUID, leaf 0x40000001, subleaf 0x0"),
        (Rdmsr(0, 2, abi.MSR_EFER), "RDMSR of MSR_EFER (0xc0000080)"),
        (Wrmsr(0, 2, 0x999, 7), "WRMSR of 0x7 to MSR 0x999"),
        (PortOut(0, abi.PORT_EXIT, 1, 3), "OUT of 0x3 to port 0xf4 (exit)"),
        (SoftwareInterrupt(0, 2, 0x80), "INT 0x80"),
        (NestedFault(0, 0xFEE00080, "write"), "a store to guest-physical 0xfee00080, where the host looks on"),
    ],
)
def test_exits_are_told_in_words(exit_, words):
    assert told(exit_) == words


def test_there_are_words_for_every_exit():
    assert set(words_._TOLD) == set(get_args(Exit))


def test_printed_bytes_are_one_line_and_cannot_give_orders():
    last = [(0, PortOut(n, abi.PORT_CONSOLE, 1, byte)) for n, byte in enumerate(b"hi\x1b[m\n")]
    assert history(last, hex) == ["vcpu0  printed 'hi\\x1b[m\\n', lastly at 0x5"]


@settings(derandomize=True, deadline=None, database=None, max_examples=60 * EFFORT)
@given(st.binary(min_size=1, max_size=40), st.sampled_from(["long", "pm32", "real"]))
def test_any_code_at_all_ends_and_has_a_diagnosis_where_it_shut_down(code, mode):
    machine = Machine(
        flat_image(code, "noise.bin", mode), Config(insn_limit=1000, exit_limit=100, output_limit=1 << 10)
    )
    result = machine.run()
    lines = diagnose(machine)
    assert bool(lines) == (result.reason == "triple-fault")
    assert all(line.isprintable() for line in lines)
