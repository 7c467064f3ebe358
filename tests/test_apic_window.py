"""The local APIC's registers in memory: each access exits, the registers answer, and the instruction is done."""

import pytest

from emu import abi, trace
from tests.programs import EXIT, Recorded, run

APIC = abi.APIC_DEFAULT_PHYS_BASE
SPIV, TPR, EOI, LVTT, INITIAL, DIVIDE, ICR, VERSION = 0xF0, 0x80, 0xB0, 0x320, 0x380, 0x3E0, 0x300, 0x30
DONE = "mov al, 0\n" + EXIT


def windowed(source: str, **options: object) -> Recorded:
    """A 32-bit guest without paging, EBX on the window."""
    return run(f"mov ebx, {APIC}\n" + source + DONE, bits=32, **options)


def registers(recorded: Recorded, *names: str) -> list[int]:
    vcpu = recorded.machine.packages[0].vcpu
    return [vcpu.general(name) & 0xFFFFFFFF for name in names]


def test_load_finds_the_register() -> None:
    recorded = windowed(f"mov esi, [ebx + {VERSION}]\n mov edi, [ebx + {SPIV}]\n")
    assert recorded.result.reason == "exit"
    assert registers(recorded, "rsi", "rdi") == [abi.APIC_VERSION_VALUE, 0xFF]


def test_store_reaches_the_register() -> None:
    recorded = windowed(f"mov dword ptr [ebx + {TPR}], 0x50\n mov esi, [ebx + {TPR}]\n")
    assert registers(recorded, "rsi") == [0x50]
    assert recorded.machine.packages[0].lapic.tpr == 0x50


@pytest.mark.parametrize(
    ("instruction", "spiv", "register"),
    [
        (f"or dword ptr [ebx + {SPIV}], 0x100", 0x1FF, None),
        (f"mov esi, 0x1aa\n xchg [ebx + {SPIV}], esi", 0x1AA, 0xFF),
        (f"mov esi, 0x10\n lock xadd [ebx + {SPIV}], esi", 0x10F, 0xFF),
        (f"and dword ptr [ebx + {SPIV}], 0xf0\n mov esi, [ebx + {SPIV}]", 0xF0, 0xF0),
    ],
)
def test_read_and_write_in_one_instruction(instruction: str, spiv: int, register: int | None) -> None:
    recorded = windowed(instruction + "\n")
    assert recorded.machine.packages[0].lapic._spiv == spiv
    if register is not None:
        assert registers(recorded, "rsi") == [register]


def test_register_is_moved_to_ram_pushed_and_compared() -> None:
    recorded = windowed(
        f"""
        mov dword ptr [ebx + {TPR}], 0x30
        lea esi, [ebx + {TPR}]
        mov edi, offset place
        movsd
        push dword ptr [ebx + {TPR}]
        pop ecx
        mov edx, [place]
        xor eax, eax
        cmp dword ptr [ebx + {TPR}], 0x30
        sete al
        mov ebp, eax
        """
        + DONE
        + ".bss\nplace: .skip 4\n.text\n"
    )
    assert registers(recorded, "rcx", "rdx", "rbp") == [0x30, 0x30, 1]
    assert registers(recorded, "rsi") == [APIC + TPR + 4]


def test_rep_movs_over_the_window_costs_one_unit_an_iteration() -> None:
    recorded = windowed(
        f"mov dword ptr [ebx + {TPR}], 0x70\n lea esi, [ebx + {TPR}]\n mov edi, offset place\n mov ecx, 8\n rep movsd\n"
        + "mov edx, [place]\n mov ebp, [place + 16]\n"
        + DONE
        + ".bss\nplace: .skip 64\n.text\n"
    )
    assert registers(recorded, "rdx", "rcx") == [0x70, 0]
    assert len([event for event in recorded.of(trace.Mmio) if not event.write]) == 8


def test_timer_by_the_window_interrupts_and_eoi_ends_it() -> None:
    recorded = windowed(
        f"""
        mov dword ptr [ebx + {SPIV}], 0x1ff
        mov dword ptr [ebx + {DIVIDE}], 0xb
        mov dword ptr [ebx + {LVTT}], 0x40
        mov dword ptr [ebx + {INITIAL}], 1000
        mov eax, offset handler
        mov word ptr [idt + 8 * 0x40], ax
        mov word ptr [idt + 8 * 0x40 + 2], cs
        mov word ptr [idt + 8 * 0x40 + 4], 0x8e00
        shr eax, 16
        mov word ptr [idt + 8 * 0x40 + 6], ax
        lidt [pointer]
        sti
    1:  hlt
        cmp dword ptr [count], 1
        jne 1b
        """
        + DONE
        + f"""
    handler:
        inc dword ptr [count]
        mov dword ptr [{APIC + EOI}], 0
        iretd
        .data
        .balign 8
    pointer: .word 8 * 256 - 1
        .long idt
        .bss
        .balign 8
    idt: .skip 8 * 256
    count: .skip 4
        .text
        """
    )
    assert recorded.result.reason == "exit"
    assert recorded.machine.packages[0].lapic.isr == 0
    assert [event.vector for event in recorded.of(trace.Trap)] == [0x40]


def test_ipi_by_the_window_reaches_the_other_vcpu() -> None:
    # vCPU 1 sleeps with its APIC on; vCPU 0 sends it a fixed interrupt by ICR.
    recorded = run(
        f"""
        mov ebx, {APIC}
        mov dword ptr [ebx + {SPIV}], 0x1ff
        test edi, edi
        jnz sleeper
        mov ecx, 2000
    1:  dec ecx
        jnz 1b
        mov dword ptr [ebx + {ICR + 0x10}], 1 << 24
        mov dword ptr [ebx + {ICR}], 0x55
        mov ecx, 2000
    2:  dec ecx
        jnz 2b
        """
        + DONE
        + "sleeper: hlt\n jmp sleeper\n",
        bits=32,
        vcpus=2,
        quantum_ps=10**6,
    )
    assert recorded.machine.packages[1].lapic.irr == 1 << 0x55
    assert [(event.vector, event.to) for event in recorded.of(trace.Ipi)] == [(0x55, (1,))]


@pytest.mark.parametrize(
    "access",
    [
        f"mov al, [ebx + {SPIV}]",
        f"mov ax, [ebx + {SPIV} + 1]",
        f"mov [ebx + {TPR} + 1], eax",
        f"movq xmm0, [ebx + {SPIV}]",
        f"movups xmm1, [ebx + {SPIV}]",
        f"movups [ebx + {SPIV}], xmm1",
        f"fld qword ptr [ebx + {SPIV}]",
        "fxsave [ebx]",
        "fxrstor [ebx]",
        "mov eax, [ebx + 0xffe]",
        "mov [ebx - 2], eax",
        "mov esp, ebx\n add esp, 0x800\n push eax\n call 1f\n1:",
        "lgdt [ebx]\n lidt [ebx]",
        "jmp ebx",
        "mov esp, ebx\n ud2",
        "lidt [ebx + 0x100]\n int 3",
        "mov eax, ebx\n mov cr3, eax\n mov eax, cr0\n or eax, 0x80000000\n mov cr0, eax\n nop",
        "rep movsd",
        "mov ecx, 5\n lea edi, [ebx + 0x3e0]\n mov edx, 0x3f8\n rep insb",
        "mov ecx, 5\n lea esi, [ebx + 0xf0]\n mov edx, 0xe9\n rep outsb",
        "cmpxchg8b [ebx + 0xf0]",
        "ltr [ebx + 0xf0]",
        "btc dword ptr [ebx + 0xf0], 8",
    ],
)
@pytest.mark.parametrize("quantum", [10**8, 3000])
def test_any_access_leaves_the_run_in_order(access: str, quantum: int) -> None:
    options = {"quantum_ps": quantum, "tasks": ("busy",), "insn_limit": 20_000}
    one, other = (windowed(access + "\n", **options) for _ in range(2))
    assert one.events == other.events
    assert one.result.reason in ("exit", "triple-fault", "insn-limit")


def test_window_can_be_moved_over_ram_and_back() -> None:
    recorded = windowed(
        f"""
        mov dword ptr [0x300000 + {TPR}], 0x1234
        mov ecx, MSR_IA32_APICBASE
        rdmsr
        mov edi, eax
        and eax, 0xfff
        or eax, 0x300000
        wrmsr
        mov esi, [0x300000 + {TPR}]
        mov dword ptr [0x300000 + {TPR}], 0x20
        mov ebp, [ebx + {TPR}]
        mov eax, edi
        xor edx, edx
        wrmsr
        mov edx, [0x300000 + {TPR}]
        mov ecx, [ebx + {TPR}]
        """
    )
    assert registers(recorded, "rsi", "rbp", "rdx", "rcx") == [0, 0xFFFFFFFF, 0x1234, 0x20]


def test_in_x2apic_mode_nothing_is_there_and_nested_paging_is_off() -> None:
    recorded = windowed(
        f"""
        mov ecx, MSR_IA32_APICBASE
        rdmsr
        or eax, APICBASE_X2APIC
        wrmsr
        mov esi, [ebx + {VERSION}]
        mov dword ptr [ebx + {TPR}], 0x20
        """
    )
    assert registers(recorded, "rsi") == [0xFFFFFFFF]
    assert recorded.machine.packages[0].lapic.tpr == 0
    assert not recorded.machine._engine.nests
    assert not recorded.of(trace.Mmio)


def test_cutting_a_run_anywhere_changes_nothing() -> None:
    source = f"or dword ptr [ebx + {SPIV}], 0x100\n mov ecx, 40\n1: xadd [ebx + {TPR}], ecx\n inc esi\n loop 1b\n"
    runs = [windowed(source, ps_per_insn=1000, quantum_ps=q, tasks=("busy",)) for q in (10**9, 1000, 7000)]
    kept = [[(e.gpa, e.size, e.value, e.write) for e in one.of(trace.Mmio)] for one in runs]
    assert kept[0] and kept[0] == kept[1] == kept[2]
    assert len({one.result.instructions for one in runs}) == 1


def test_window_of_one_vcpu_is_there_while_the_other_has_none() -> None:
    source = f"""
    test edi, edi
    jz 2f
    mov ecx, MSR_IA32_APICBASE
    rdmsr
    or eax, APICBASE_X2APIC
    wrmsr
    9: jmp 9b
    2: mov ecx, 200
    1: mov dword ptr [ebx + {TPR}], 0x40
    mov esi, [ebx + {TPR}]
    dec ecx
    jnz 1b
    """
    recorded = windowed(source, vcpus=2, pcpus=2, interleave_ps=10**5)
    assert (recorded.result.reason, registers(recorded, "rsi", "rcx")) == ("exit", [0x40, 0])
    assert len(recorded.of(trace.Mmio)) == 400
