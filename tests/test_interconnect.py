"""What vCPUs send each other: interrupts by number, by shorthand and to oneself, NMI, INIT and start-up."""

import pytest

from emu import abi, trace
from tests.programs import EXIT, gate, run
from tests.test_machine import TIMER

X2APIC = TIMER  # enables x2APIC mode and the APIC, with a handler for vector 0x40 that counts in R15
SEND = "mov ecx, APIC_ICR\n mov eax, {low}\n mov edx, {to}\n wrmsr\n"
SPIN = "mov r14, 20000\n7: dec r14\n jnz 7b\n"


def both(sender: str, receiver: str) -> str:
    """vCPU 0 runs `sender`, every other one `receiver`; both with IDT and APIC set up."""
    return f"mov r8, rdi\n{X2APIC} test r8, r8\n jnz 8f\n{sender}\n8:\n{receiver}\n"


WAIT = "sti\n9: hlt\n jmp 9b\n"


@pytest.mark.parametrize(
    ("low", "to", "heard"),
    [
        (0x40, 1, [0, 1, 0]),
        (0x40, 0xFFFFFFFF, [1, 1, 1]),
        (0x40 | abi.APIC_DEST_ALLBUT, 0, [0, 1, 1]),
        (0x40 | abi.APIC_DEST_ALLINC, 0, [1, 1, 1]),
        (0x40 | abi.APIC_DEST_SELF, 0, [1, 0, 0]),
        (0x40 | abi.APIC_DEST_LOGICAL, 0b110, [0, 1, 1]),
        (0x40, 5, [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("pcpus", [1, 3])
def test_interrupt_goes_to_whom_it_is_addressed(low, to, heard, pcpus):
    sender = (
        SPIN + SPIN + SPIN + SEND.format(low=low, to=to) + "sti\n nop\n" + SPIN + SPIN + SPIN + "mov al, 0\n" + EXIT
    )
    recorded = run(both(sender, WAIT), vcpus=3, pcpus=pcpus, quantum_ps=10**7)
    assert [package.vcpu.general("r15") for package in recorded.machine.packages] == heard
    to_itself = low & abi.APIC_SHORT_MASK == abi.APIC_DEST_SELF  # which never leaves the APIC
    expected = [] if to_itself else [tuple(n for n in range(3) if heard[n])]
    assert [event.to for event in recorded.of(trace.Ipi)] == expected


def test_sleeper_is_woken_at_the_moment_of_sending_and_waits_from_then():
    sender = SPIN + SEND.format(low=0x40, to=1) + SPIN + SPIN + SPIN + SPIN + "mov al, 0\n" + EXIT
    recorded = run(both(sender, WAIT), vcpus=2, tasks=("busy",), quantum_ps=10**7)
    sent = recorded.of(trace.Ipi)[0].t
    wakes = [event.t for event in recorded.of(trace.Wake) if event.who == "vcpu1"]
    assert wakes == [sent]
    on = next(event.t for event in recorded.of(trace.Switch) if event.next == "vcpu1" and event.t > sent)
    assert recorded.result.vcpus[1].stolen_ns >= on - sent > 0


def test_nmi_is_taken_with_interrupts_disabled_and_ends_even_that_sleep():
    handler = (
        gate(2, "5f")
        + """
        jmp 6f
    5:  mov al, 9
        out PORT_EXIT, al
    6:
    """
    )
    receiver = handler + "cli\n9: hlt\n jmp 9b\n"
    recorded = run(
        both(SPIN + SEND.format(low=abi.APIC_DM_NMI, to=1) + "cli\n hlt\n", receiver), vcpus=2, quantum_ps=10**7
    )
    assert recorded.result.exit_code == 9


# A page of real-mode code at 0x8000, where the start-up message with vector 8 sends a vCPU.
TRAMPOLINE = """
    lea rsi, [rip + trampoline]
    mov edi, 0x8000
    mov ecx, trampoline_end - trampoline
    rep movsb
    .section .rodata
trampoline:
    .code16
    mov ax, cs
    mov ds, ax
    inc word ptr [0x100]
    mov [0x102], ax
    mov [0x104], dx
    cli
6:  hlt
    jmp 6b
trampoline_end:
    .code64
    .text
"""
INIT, SIPI = abi.APIC_DM_INIT | 1 << 14, abi.APIC_DM_STARTUP | 8
ENABLE = "mov ecx, MSR_IA32_APICBASE\n rdmsr\n or eax, APICBASE_X2APIC\n wrmsr\n"


def test_boot_vcpu_starts_the_others_by_init_and_startup():
    start = SEND.format(low=INIT | abi.APIC_DEST_ALLBUT, to=0) + SEND.format(low=SIPI | abi.APIC_DEST_ALLBUT, to=0)
    source = TRAMPOLINE + ENABLE + start + SPIN + SPIN + "mov al, 0\n" + EXIT
    recorded = run(source, vcpus=3, start="bsp", quantum_ps=10**7)
    ram = recorded.machine.ram
    assert ram.load(0x8100, 2) == 2
    assert ram.load(0x8102, 2) == 0x800
    assert ram.load(0x8104, 2) == abi.CPUID_FAMILY_MODEL & 0xFFFF
    assert [one.instructions > 0 for one in recorded.result.vcpus] == [True] * 3
    assert recorded.result.vcpus[1].idle_ns > 0


def test_second_startup_message_finds_nobody_waiting():
    start = SEND.format(low=INIT, to=1) + 2 * (SEND.format(low=SIPI, to=1) + SPIN)
    recorded = run(TRAMPOLINE + ENABLE + start + "mov al, 0\n" + EXIT, vcpus=2, start="bsp", quantum_ps=10**7)
    assert recorded.machine.ram.load(0x8100, 2) == 1


def test_init_stops_a_running_vcpu_and_forgets_its_registration():
    receiver = "mov eax, 0x300001\n xor edx, edx\n mov ecx, MSR_KVM_STEAL_TIME\n wrmsr\n9: jmp 9b\n"
    source = both(SPIN + SPIN + SEND.format(low=INIT, to=1) + SPIN + SPIN + "mov al, 0\n" + EXIT, receiver)
    recorded = run(source, vcpus=2, quantum_ps=10**7)
    assert recorded.result.exit_code == 0
    one = recorded.machine.packages[1]
    assert one.steal.updates > 0
    assert (one.steal.msr_value, one.lapic.startup.waiting, one.entity.run_state) == (0, True, "blocked")
    assert one.vcpu.rip == 0xFFF0


def test_storm_of_messages_is_bounded_and_leaves_nothing_behind():
    source = both(SEND.format(low=0x40 | abi.APIC_DEST_ALLINC, to=0) + "9: wrmsr\n jmp 9b\n", "9: jmp 9b\n")
    recorded = run(source, vcpus=2, exit_limit=2000)
    assert recorded.result.reason == "exit-limit"
    assert recorded.machine.packages[0].lapic.take_ipis() == ()


def test_guest_without_anybody_to_start_it_ends_as_halted():
    recorded = run("cli\n hlt", vcpus=2, start="bsp")
    assert recorded.result.reason == "halted"
