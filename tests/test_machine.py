"""The exit loop: what a guest asks for and gets, and how a run ends."""

import pytest

from emu import abi, exits, trace
from emu.faults import HostError
from emu.machine import Machine
from emu.result import (
    EXIT,
    EXIT_LIMIT,
    HALTED,
    INSN_LIMIT,
    INTERRUPTED,
    OUTPUT_LIMIT,
    TIME_LIMIT,
    TRIPLE_FAULT,
)
from emu.scenario import Config
from tests.programs import AREA, REGISTER, assembled, gate, run, run_guest

# An IDT with a handler for #GP that counts in R15 and steps over a two-byte instruction; it needs no data but its own.
CATCH_GP = (
    gate(13, "gp_handler")
    + """
    lea rax, [rip + idt]
    mov [rip + idtr + 2], rax
    lidt [rip + idtr]
    xor r15d, r15d
    jmp 1f
gp_handler:
    inc r15
    add rsp, 8
    add qword ptr [rsp], 2
    iretq
.data
idtr: .word 16 * 14 - 1
      .quad 0
.bss
.balign 16
idt: .skip 16 * 14
.text
1:
"""
)


def test_byte_written_to_exit_port_is_the_exit_status():
    result = run("mov eax, 0x1234\n out PORT_EXIT, ax\n hlt").result
    assert (result.reason, result.exit_code) == (EXIT, 0x34)


def test_exit_ends_the_run_at_that_instruction():
    one = run("mov al, 7\n out PORT_EXIT, al\n 1: jmp 1b").result
    assert one.instructions == 2


def test_all_vcpus_halted_for_good_ends_the_run_even_beside_a_busy_task():
    result = run("cli\n hlt", vcpus=2, tasks=("busy",)).result
    assert (result.reason, result.exit_code) == (HALTED, None)


def test_halt_without_a_timer_armed_ends_the_run_though_interrupts_are_enabled():
    assert run("sti\n hlt").result.reason == HALTED


@pytest.mark.parametrize("insns", [1, 999, 12_345, 2_000_001])
def test_instruction_limit_is_exact(insns):
    result = run("1: jmp 1b", insn_limit=insns).result
    assert (result.reason, result.instructions) == (INSN_LIMIT, insns)


def test_time_limit_ends_at_that_time():
    result = run("1: jmp 1b", time_limit_ps=3_000_000).result
    assert (result.reason, result.virtual_ns, result.instructions) == (TIME_LIMIT, 3_000, 3_000)


def test_endless_exits_are_bounded():
    assert run("1: cpuid\n jmp 1b", exit_limit=100).result.reason == EXIT_LIMIT


def test_endless_output_is_bounded():
    result = run("1: out PORT_CONSOLE, al\n jmp 1b", output_limit=1 << 10).result
    assert (result.reason, len(result.console)) == (OUTPUT_LIMIT, 1 << 10)


def test_endless_faults_meet_the_limits():
    # The handler of #UD is itself invalid: each delivery costs a unit, so nothing loops for free.
    source = CATCH_GP.replace("16 * 13]", "16 * 6]") + "ud2"
    result = run(source.replace("gp_handler:", "gp_handler: ud2"), insn_limit=5_000).result
    assert result.reason in (INSN_LIMIT, TRIPLE_FAULT)


def test_interrupted_run_still_adds_up():
    def stop(machine: Machine) -> None:
        if machine.instructions > 1_000_000:
            machine.interrupt()

    result = run("1: jmp 1b", each=stop, vcpus=2, tasks=("busy",)).result
    assert result.reason == INTERRUPTED
    assert all(one.ran_ns + one.stolen_ns + one.idle_ns == one.elapsed_ns for one in result.vcpus)


def test_triple_fault_names_the_first_fault():
    recorded = run("mov rax, [0x10000000]\n hlt")
    assert recorded.result.reason == TRIPLE_FAULT
    assert recorded.machine.shutdown == (0, exits.Shutdown(abi.GUEST_GPA, abi.PF_VECTOR, 0, 0x10000000))


def test_unknown_msr_raises_gp_on_read_and_write():
    recorded = run(CATCH_GP + "mov ecx, 0x4b564d09\n rdmsr\n wrmsr\n mov rax, r15\n out PORT_EXIT, al")
    assert recorded.result.exit_code == 2


def test_faulting_wrmsr_changes_nothing():
    source = CATCH_GP + REGISTER + "or eax, 2\n wrmsr\n rdmsr\n mov r14, rax\n mov rax, r15\n out PORT_EXIT, al" + AREA
    recorded = run(source)
    area = recorded.machine.packages[0].vcpu.general("rbx")
    assert recorded.result.exit_code == 1
    assert recorded.machine.packages[0].vcpu.general("r14") == area | 1
    assert recorded.result.vcpus[0].msr == area | 1


def test_withheld_feature_clears_its_cpuid_bit_and_its_msr_raises_gp():
    source = CATCH_GP + "mov eax, KVM_CPUID_FEATURES\n cpuid\n mov r14, rax\n mov ecx, MSR_KVM_STEAL_TIME\n rdmsr\n"
    source += "mov rax, r15\n out PORT_EXIT, al"
    offered, withheld = run(source), run(source, without=("steal-time",))
    bit = 1 << abi.KVM_FEATURE_STEAL_TIME
    assert (offered.result.exit_code, offered.machine.packages[0].vcpu.general("r14") & bit) == (0, bit)
    assert (withheld.result.exit_code, withheld.machine.packages[0].vcpu.general("r14") & bit) == (1, 0)


def test_guest_says_so_where_the_feature_is_missing():
    recorded = run_guest("clock", without=("steal-time",))
    assert recorded.result.exit_code == 3
    assert "steal time" in recorded.console


def test_hypercalls_answer_enosys_by_either_instruction():
    recorded = run("mov eax, 77\n vmcall\n mov rbx, rax\n mov eax, 77\n vmmcall\n xor eax, ebx\n out PORT_EXIT, al")
    assert recorded.result.exit_code == 0
    assert recorded.machine.packages[0].vcpu.general("rbx") == -abi.KVM_ENOSYS % 2**64


def test_ports_with_nobody_home_read_ones_and_swallow_writes():
    recorded = run("mov dx, 0x1234\n out dx, eax\n xor eax, eax\n in al, dx\n out PORT_EXIT, al")
    assert recorded.result.exit_code == 0xFF


def test_rdtsc_reads_virtual_time_and_rdtscp_the_vcpu_number():
    source = "nop\n rdtsc\n mov r14, rax\n rdtscp\n mov r13, rcx\n mov r12, rax\n mov al, 0\n" + "cli\n hlt"
    recorded = run(source, vcpus=2)
    vcpu = recorded.machine.packages[0].vcpu
    assert (vcpu.general("r14"), vcpu.general("r12"), vcpu.general("r13")) == (1, 3, 0)
    assert recorded.machine.packages[1].vcpu.general("r13") == 1


def test_tsc_runs_at_the_rate_asked_for():
    recorded = run("mov rcx, 1000\n1: dec rcx\n jnz 1b\n rdtsc\n out PORT_EXIT, al", tsc_khz=2_000_000)
    assert recorded.machine.packages[0].vcpu.general("rax") == 2 * 2001


def test_vcpus_enter_with_their_number_the_count_and_a_stack_of_their_own():
    recorded = run("push rdi\n cli\n hlt", vcpus=3)
    states = [package.vcpu.state() for package in recorded.machine.packages]
    tops = [recorded.machine.ram.size - n * (abi.STACK_SIZE + abi.PAGE_SIZE) for n in range(3)]
    assert [state.general[7] for state in states] == [0, 1, 2]  # RDI
    assert [state.general[6] for state in states] == [3, 3, 3]  # RSI
    assert [state.general[4] for state in states] == [top - 8 for top in tops]  # RSP


def test_guard_page_below_the_stack_faults():
    recorded = run(f"sub rsp, {abi.STACK_SIZE}\n push rax\n hlt")
    assert recorded.result.reason == TRIPLE_FAULT
    assert recorded.machine.shutdown[1].vector == abi.PF_VECTOR


def test_data_cannot_be_executed():
    recorded = run("lea rax, [rip + area]\n mov byte ptr [rax], 0xf4\n jmp rax" + AREA)
    assert recorded.machine.shutdown[1].vector == abi.PF_VECTOR
    assert recorded.machine.shutdown[1].error & 0x11 == 0x11  # present, instruction fetch


def test_code_cannot_be_written():
    recorded = run("mov byte ptr [rip], 0\n hlt")
    assert recorded.machine.shutdown[1].vector == abi.PF_VECTOR
    assert recorded.machine.shutdown[1].error & 3 == 3  # present, write


def test_only_the_boot_vcpu_starts_under_start_bsp():
    recorded = run("mov al, 0\n cli\n hlt", vcpus=2, start="bsp")
    assert [one.instructions > 0 for one in recorded.result.vcpus] == [True, False]
    assert recorded.result.vcpus[1].idle_ns == recorded.result.vcpus[1].elapsed_ns


TIMER = (
    gate(0x40, "tick")
    + """
    lea rax, [rip + idt]
    mov [rip + idtr + 2], rax
    lidt [rip + idtr]
    mov ecx, MSR_IA32_APICBASE
    rdmsr
    or eax, APICBASE_X2APIC
    wrmsr
    xor edx, edx
    mov ecx, APIC_SPIV
    mov eax, 0x1ff
    wrmsr
    mov ecx, APIC_LVTT
    mov eax, 0x40
    wrmsr
    mov ecx, APIC_TDCR
    mov eax, 0xb
    wrmsr
    xor r15d, r15d
    jmp 1f
tick:
    inc r15
    push rax
    push rcx
    push rdx
    xor eax, eax
    xor edx, edx
    mov ecx, APIC_EOI
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq
.data
idtr: .word 16 * 0x41 - 1
      .quad 0
.bss
.balign 16
idt: .skip 16 * 0x41
.text
1:
"""
)
ARM = "mov ecx, APIC_TMICT\n mov eax, {ticks}\n xor edx, edx\n wrmsr\n"


def test_hlt_sleeps_until_the_timer_and_sleep_is_idle_not_stolen():
    recorded = run(
        TIMER + ARM.format(ticks=50_000) + "sti\n hlt\n mov rax, r15\n out PORT_EXIT, al",
        tasks=("periodic:period=1ms,run=1us",),
    )
    one = recorded.result.vcpus[0]
    assert recorded.result.exit_code == 1
    assert 49_000 < one.idle_ns <= 50_000
    assert one.stolen_ns <= 1_000


def test_wake_up_that_finds_its_pcpu_taken_waits_and_that_wait_is_stolen():
    recorded = run(
        TIMER + ARM.format(ticks=50_000) + "sti\n hlt\n mov rax, r15\n out PORT_EXIT, al",
        tasks=("busy",),
        quantum_ps=10**9,
    )
    one = recorded.result.vcpus[0]
    assert recorded.result.exit_code == 1
    assert one.idle_ns <= 50_000
    assert one.stolen_ns > 900_000  # the rest of the task's millisecond


def test_interrupt_waits_for_if_and_comes_at_the_first_boundary_after_the_shadow():
    spin = "mov rcx, 1000\n2: dec rcx\n jnz 2b\n"
    source = TIMER + ARM.format(ticks=100) + "cli\n" + spin + "mov r14, r15\n sti\n mov r13, r15\n mov r12, r15\n"
    recorded = run(source + "mov rax, r15\n out PORT_EXIT, al")
    vcpu = recorded.machine.packages[0].vcpu
    assert recorded.result.exit_code == 1
    # R14 before STI and R13 in its shadow still see no tick; the instruction after that does.
    assert [vcpu.general(name) for name in ("r14", "r13", "r12")] == [0, 0, 1]


def test_guest_can_survive_every_illegal_value():
    recorded = run_guest("bad_msr")
    assert recorded.result.exit_code == 0, recorded.console


@pytest.mark.parametrize(
    ("options", "field"),
    [({"pin": ("1=0",)}, "--pin"), ({"weight": ("3=2",)}, "--weight"), ({"tasks": ("lazy",)}, "--task lazy")],
)
def test_option_that_does_not_fit_is_refused_with_its_place(options, field):
    with pytest.raises(HostError) as refused:
        Machine(assembled("hlt"), Config(**options))
    assert field in refused.value.where


def test_trace_begins_with_what_determines_the_run_and_ends_with_why_it_ended():
    recorded = run("mov al, 3\n out PORT_EXIT, al")
    assert recorded.events[0] == trace.Begin(0, trace.FORMAT, recorded.machine.image.sha256, Config().traceable())
    assert recorded.events[-1] == trace.End(2, EXIT, 3)


UNFETCHABLE = CATCH_GP.replace("lea rax, [rip + gp_handler]", "mov rax, {handler}").replace("16 * 13]", "16 * 6]")


@pytest.mark.parametrize("handler", [0x3000_0000, 0x40_0000_0000, 0x7FFF_0000_0000])
def test_handler_that_cannot_be_fetched_faults_where_it_stands_and_not_in_its_delivery(handler):
    recorded = run(UNFETCHABLE.format(handler=handler) + "ud2")
    assert recorded.result.reason == TRIPLE_FAULT
    assert recorded.machine.shutdown == (0, exits.Shutdown(handler, abi.PF_VECTOR, 0x10, handler))


@pytest.mark.parametrize("handler", [0xF000_0000, 0x2000_0000])
def test_handler_in_unassigned_memory_finds_no_instruction(handler):
    source = f"""
        lea eax, [idtr]
        lidt [eax]
        ud2
        .data
    idtr: .word 8 * 7 - 1
          .long idt
    idt:  .skip 8 * 6
          .word {handler & 0xFFFF}, SELECTOR_CODE32, 0x8e00, {handler >> 16}
        .text
    """
    recorded = run(source, bits=32, insn_limit=100)
    assert recorded.result.reason == INSN_LIMIT  # each #UD of the handler is delivered to the handler again
