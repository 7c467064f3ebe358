"""Interrupts in the machine: priorities, periodic and deadline timers, and registers that are not there yet."""

import pytest

from emu import abi
from tests.programs import EXIT, run
from tests.test_machine import ARM, CATCH_GP, TIMER

SELF = "mov ecx, APIC_SELF_IPI\n mov eax, 0x40\n xor edx, edx\n wrmsr\n"
BY_MSR = "mov ecx, APIC_TASKPRI\n mov eax, {}\n xor edx, edx\n wrmsr\n"
BY_CR8 = "mov eax, {}\n shr eax, 4\n mov cr8, rax\n"


@pytest.mark.parametrize("write", [BY_MSR, BY_CR8], ids=["by MSR", "by CR8"])
def test_task_priority_holds_an_interrupt_until_it_is_lowered(write):
    source = TIMER + write.format(0x40) + "sti\n nop\n" + SELF + "nop\n mov r14, r15\n" + write.format(0x30)
    recorded = run(source + "mov rax, r15\n" + EXIT)
    assert recorded.machine.packages[0].vcpu.general("r14") == 0
    assert recorded.result.exit_code == 1


def test_interrupt_without_eoi_holds_its_class():
    silent = TIMER.replace("    mov ecx, APIC_EOI\n    wrmsr\n", "")
    assert "APIC_EOI" not in silent
    recorded = run(silent + "sti\n nop\n" + SELF + "nop\n" + SELF + "nop\n mov rax, r15\n" + EXIT)
    assert recorded.result.exit_code == 1
    assert recorded.machine.packages[0].lapic.irr == recorded.machine.packages[0].lapic.isr == 1 << 0x40


def test_periodic_timer_wakes_every_period():
    periodic = TIMER.replace("mov eax, 0x40\n    wrmsr", "mov eax, 0x20040\n    wrmsr", 1)
    recorded = run(periodic + ARM.format(ticks=50_000) + "sti\n" + 5 * "hlt\n" + "mov rax, r15\n" + EXIT)
    assert recorded.result.exit_code == 5
    assert 5 * 50_000 <= recorded.result.vcpus[0].elapsed_ns < 5 * 50_000 + 1000


def test_deadline_timer_wakes_where_the_tsc_gets_there():
    deadline = TIMER.replace("mov eax, 0x40\n    wrmsr", "mov eax, 0x40040\n    wrmsr", 1)
    arm = "rdtsc\n add eax, 70000\n mov r12d, eax\n mov ecx, MSR_IA32_TSC_DEADLINE\n wrmsr\n"
    recorded = run(deadline + arm + "sti\n hlt\n rdtsc\n sub eax, r12d\n mov r13d, eax\n mov rax, r15\n" + EXIT)
    assert recorded.result.exit_code == 1
    assert 0 <= recorded.machine.packages[0].vcpu.general("r13") < 100


@pytest.mark.parametrize("msr", [abi.APIC_LVTT, abi.APIC_SELF_IPI, abi.APIC_ICR])
def test_x2apic_register_raises_gp_in_the_mode_a_vcpu_starts_in(msr):
    access = f"mov ecx, {msr}\n xor eax, eax\n xor edx, edx\n wrmsr\n rdmsr\n"
    assert run(CATCH_GP + access + "mov rax, r15\n" + EXIT).result.exit_code == 2
