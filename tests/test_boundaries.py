"""Where several things meet at one instruction boundary: quanta, limits, updates, timers, sleep. Found by review."""

import subprocess
import sys

import pytest

from emu import abi, clock, trace
from emu.result import EXIT, INSN_LIMIT
from tests.programs import AREA, REGISTER, run
from tests.programs import EXIT as EXIT_PORT
from tests.test_machine import ARM, TIMER

OUT_LAST = "test edi, edi\n jnz 2f\n nop\n mov al, 7\n" + EXIT_PORT + "2: jmp 2b\n"


@pytest.mark.parametrize("quantum", range(1, 9))
def test_port_write_happens_at_its_instruction_however_the_quantum_falls(quantum):
    recorded = run(OUT_LAST, vcpus=2, tasks=("busy",), quantum_ps=quantum * 1000)
    one = recorded.result.vcpus[0]
    assert (recorded.result.exit_code, one.instructions, one.ran_ns) == (7, 5, 5)
    exits = recorded.of(trace.ExitEvent)
    assert exits[-1].t == recorded.result.virtual_ns - 1


@pytest.mark.parametrize(("limit", "ended"), [(1, (INSN_LIMIT, None)), (2, (EXIT, 7)), (3, (EXIT, 7))])
def test_port_write_that_just_meets_the_limit_counts(limit, ended):
    result = run("mov al, 7\n" + EXIT_PORT, insn_limit=limit).result
    assert (result.reason, result.exit_code) == ended
    assert result.instructions == min(limit, 2)


@pytest.mark.parametrize("instruction", ["nop", "rdtsc", "cpuid", "mov rax, cr8", "mov rax, dr0", "in al, 0x80"])
def test_store_gap_counts_whatever_instructions_the_guest_executes(instruction):
    source = REGISTER + f"{instruction}\n" * 40 + "mov al, 0\n" + EXIT_PORT + AREA
    recorded = run(source, host_model="other-cpu", store_gap=(3,))
    stores = [event for event in recorded.of(trace.Store) if event.step != "preempted"]
    wrote = next(event.t for event in recorded.of(trace.MsrWrite)) + 1
    assert [event.t - wrote for event in stores] == [3, 6, 9]


def test_nobody_waits_for_a_sleeper_to_finish_its_update():
    source = REGISTER + "xor eax, eax\n cli\n hlt\n" + AREA
    recorded = run(source, host_model="other-cpu", store_gap=(1000,))
    one = recorded.result.vcpus[0]
    assert (one.area.version, one.updates) == (2, 1)


def test_deadline_counts_from_when_it_passed_and_not_from_when_one_looked():
    # Instructions of a microsecond: the deadline falls into the middle of one.
    arm = "rdtsc\n add eax, 500500\n mov ecx, MSR_IA32_TSC_DEADLINE\n wrmsr\n"
    deadline = TIMER.replace("mov eax, 0x40\n    wrmsr", "mov eax, 0x40040\n    wrmsr", 1) + arm
    source = f"mov r8, rdi\n{deadline} test r8, r8\n jnz 8f\n9: jmp 9b\n8: sti\n hlt\n cli\n hlt\n"
    recorded = run(source, vcpus=2, ps_per_insn=10**6, quantum_ps=3 * 10**7, time_limit_ps=10**9 * 2)
    armed = next(
        event for event in recorded.of(trace.MsrWrite) if event.msr == abi.MSR_IA32_TSC_DEADLINE and event.vcpu
    )
    woke = next(event for event in recorded.of(trace.Wake) if event.who == "vcpu1")
    assert woke.t == armed.value


@pytest.mark.parametrize("ticks", [1, 2, 3, 5, 8, 30, 200])
@pytest.mark.parametrize("quantum", [3, 17, 100])
@pytest.mark.parametrize("model", ["kvm", "other-cpu"])
def test_no_wake_up_is_lost_between_a_timer_and_a_sleep(ticks, quantum, model):
    once = "cli\n" + ARM.format(ticks=ticks) + "sti\n hlt\n"
    source = REGISTER + TIMER + once * 3 + "mov rax, r15\n" + EXIT_PORT + AREA
    recorded = run(source, tasks=("busy",), quantum_ps=quantum * 1000, host_model=model)
    assert (recorded.result.reason, recorded.result.exit_code) == (EXIT, 3)


def test_sleep_with_an_interrupt_pending_does_not_begin():
    source = TIMER + "cli\n" + ARM.format(ticks=5) + "mov r14, 1000\n7: dec r14\n jnz 7b\n sti\n hlt\n"
    recorded = run(source + "mov rax, r15\n" + EXIT_PORT)
    assert recorded.result.exit_code == 1
    assert recorded.result.vcpus[0].idle_ns == 0


_ABORTS = """
from tests.programs import run
from tests.test_machine import CATCH_GP
catch = CATCH_GP.replace("0x8e00", "0x8e01").replace("16 * 13]", "16 * 6]")
null = "xor eax, eax\\n ltr ax\\n ud2\\n"
print(run(catch + null, insn_limit=1000).result.reason)
skip = CATCH_GP.replace("[rsp], 2", "[rsp], 3")
print(run(skip + "xor eax, eax\\n ltr ax\\n mov rax, r15\\n out PORT_EXIT, al").result.exit_code)
"""


def test_task_register_without_a_task_raises_gp_and_does_not_end_the_process():
    done = subprocess.run([sys.executable, "-c", _ABORTS], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["triple-fault", "1"])


def test_task_register_can_be_loaded():
    recorded = run("mov eax, SELECTOR_TSS + TSS_DESCRIPTOR_SIZE\n ltr ax\n mov al, 5\n" + EXIT_PORT, vcpus=2)
    # The other vCPU's own TSS is busy, so that loading it raises #GP: with no IDT that is the end of it.
    assert recorded.result.reason == "triple-fault"
    fresh = "lea rax, [GDT_GPA + SELECTOR_TSS]\n and byte ptr [rax + 5], 0xfd\n mov eax, SELECTOR_TSS\n ltr ax\n"
    recorded = run(fresh + "str bx\n mov al, 5\n" + EXIT_PORT)
    assert (recorded.result.exit_code, recorded.machine.packages[0].vcpu.general("rbx")) == (5, abi.SELECTOR_TSS)
    assert recorded.machine.ram.load(abi.GDT_GPA + abi.SELECTOR_TSS + 5, 1) & 2  # busy again


def test_translation_changed_without_a_flush_is_dropped_and_not_our_fault():
    # The guest unmaps its own code and goes on, on what the CPU still remembers; an exit looks at the tables anew.
    unmap = """
        mov rax, cr3
        mov rax, [rax]
        and rax, ~0xfff
        mov rax, [rax]
        and rax, ~0xfff
        mov qword ptr [rax], 0
        cpuid
        mov al, 5
    """
    recorded = run(unmap + EXIT_PORT)
    _, shutdown = recorded.machine.shutdown
    assert (shutdown.vector, shutdown.address == shutdown.rip) == (abi.PF_VECTOR, True)


@pytest.mark.parametrize("loop", ["mov dr0, rax", "mov rax, cr3\n mov cr3, rax", "mov rax, cr4\n mov cr4, rax"])
def test_what_needs_no_completing_is_bounded_as_exits_are(loop):
    result = run(f"1: {loop}\n jmp 1b", exit_limit=500).result
    assert result.reason == "exit-limit"


def test_timer_that_fires_all_the_time_is_bounded():
    periodic = TIMER.replace("mov eax, 0x40\n    wrmsr", "mov eax, 0x20040\n    wrmsr", 1)
    source = periodic + ARM.format(ticks=1) + "sti\n1: hlt\n jmp 1b"
    assert run(source, exit_limit=3000, time_limit_ps=10 * clock.UNITS["ms"]).result.reason == "exit-limit"
