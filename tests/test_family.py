"""The family around steal time, at work in the machine: clocks, PV EOI, kicks and IPIs by hypercall, TLB flushes."""

import pytest

from emu import abi, clock, trace
from emu.devices.kvmclock import DEFAULT_BOOT_NS
from emu.vcpu.vcpu import Vcpu
from tests.programs import AREA, EXIT, REGISTER, run
from tests.test_machine import ARM, CATCH_GP, TIMER

REGISTER_CLOCK = """
    lea rbx, [rip + area]
    mov eax, ebx
    or eax, 1
    xor edx, edx
    mov ecx, MSR_KVM_SYSTEM_TIME_NEW
    wrmsr
"""
# What a guest computes from its TSC, by the formula of the interface, into RAX.
READ_CLOCK = """
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r12, rax
    sub rax, [rbx + PVCLOCK_TSC_TIMESTAMP]
    mov cl, [rbx + PVCLOCK_TSC_SHIFT]
    shl rax, cl
    mov edx, [rbx + PVCLOCK_TSC_TO_SYSTEM_MUL]
    mul rdx
    shrd rax, rdx, 32
    add rax, [rbx + PVCLOCK_SYSTEM_TIME]
"""


@pytest.mark.parametrize("khz", [1_000_000, 2_400_000, 999_999, 19_200])
def test_guest_computes_virtual_time_from_its_tsc(khz):
    spin = "mov r14, 100000\n7: dec r14\n jnz 7b\n"
    recorded = run(REGISTER_CLOCK + spin + READ_CLOCK + "mov r13, rax\n mov al, 0\n" + EXIT + AREA, tsc_khz=khz)
    vcpu = recorded.machine.packages[0].vcpu
    read_at_ns = clock.ns(clock.tsc_due_ps(vcpu.general("r12"), khz))
    assert abs(vcpu.general("r13") - read_at_ns) <= 1
    assert read_at_ns > 200_000 or khz < 100_000


def test_wall_clock_is_stored_at_once_and_tells_when_the_machine_began():
    source = "lea rbx, [rip + area]\n mov eax, ebx\n xor edx, edx\n mov ecx, MSR_KVM_WALL_CLOCK_NEW\n wrmsr\n"
    recorded = run(source + "mov r12d, [rbx]\n mov r13d, [rbx + 4]\n mov r14d, [rbx + 8]\n mov al, 0\n" + EXIT + AREA)
    vcpu = recorded.machine.packages[0].vcpu
    seconds, ns = divmod(DEFAULT_BOOT_NS, 10**9)
    assert [vcpu.general(name) for name in ("r12", "r13", "r14")] == [2, seconds, ns]


def test_clocks_of_two_vcpus_never_run_backwards_between_them():
    # Each vCPU in turn publishes its reading under a lock and checks that it is not below the last one.
    source = (
        """
        mov r9, rdi
        shl rdi, 6
        lea rbx, [rip + areas]
        add rbx, rdi
        mov eax, ebx
        or eax, 1
        xor edx, edx
        mov ecx, MSR_KVM_SYSTEM_TIME_NEW
        wrmsr
        xor r15d, r15d
        mov r14d, 300
    1:  lock bts dword ptr [rip + flags], 0
        jc 1b
    """
        + READ_CLOCK
        + """
        cmp rax, [rip + last]
        jae 2f
        inc r15
    2:  mov [rip + last], rax
        mov dword ptr [rip + flags], 0
        dec r14
        jnz 1b
        cli
        hlt
        .bss
        .balign 64
    areas: .skip 256
    flags: .skip 8
    last: .skip 8
        .text
    """
    )
    recorded = run(source, vcpus=3, pcpus=2, tasks=("busy",), quantum_ps=3 * 10**6, tsc_khz=2_345_678)
    assert recorded.result.reason == "halted"
    assert [package.vcpu.general("r15") for package in recorded.machine.packages] == [0, 0, 0]
    assert recorded.machine.ram.load(recorded.machine.packages[0].clock.time.area_gpa + 256 + 8, 8) > 0


PV_EOI_HANDLER = TIMER.replace(
    """    xor eax, eax
    xor edx, edx
    mov ecx, APIC_EOI
    wrmsr
""",
    """    btr dword ptr [rip + flags], 0
    jc 3f
    xor eax, eax
    xor edx, edx
    mov ecx, APIC_EOI
    wrmsr
3:
""",
)
REGISTER_PV_EOI = "lea rax, [rip + flags]\n or eax, 1\n xor edx, edx\n mov ecx, MSR_KVM_PV_EOI_EN\n wrmsr\n"
WORD = ".bss\n .balign 8\nflags: .skip 8\n .text\n"


@pytest.mark.parametrize("offered", [True, False])
def test_pv_eoi_ends_interrupts_without_an_exit(offered):
    arm = ARM.format(ticks=20_000) + "sti\n hlt\n"
    source = PV_EOI_HANDLER + (REGISTER_PV_EOI if offered else "") + 3 * arm + "mov rax, r15\n" + EXIT + WORD
    recorded = run(source)
    by_msr = [event for event in recorded.of(trace.MsrWrite) if event.msr == abi.APIC_EOI]
    assert recorded.result.exit_code == 3  # three wake-ups: none was lost behind an interrupt that never ended
    assert len(by_msr) == (0 if offered else 3)
    assert recorded.machine.packages[0].lapic.isr == 0


def test_kick_wakes_a_vcpu_that_sleeps_with_interrupts_disabled():
    source = """
        test edi, edi
        jnz 2f
        mov r14, 50000
    1:  dec r14
        jnz 1b
        mov eax, KVM_HC_KICK_CPU
        xor ebx, ebx
        mov ecx, 1
        vmcall
        mov r13, rax
        cli
        hlt
    2:  cli
        hlt
        mov al, 5
    """
    recorded = run(source + EXIT, vcpus=2, quantum_ps=10**7)
    assert recorded.result.exit_code == 5
    assert recorded.machine.packages[0].vcpu.general("r13") == 0


def test_kick_before_the_sleep_is_remembered_once():
    source = "test edi, edi\n jnz 2f\n mov eax, KVM_HC_KICK_CPU\n xor ebx, ebx\n mov ecx, 1\n vmcall\n cli\n hlt\n"
    source += "2: mov r14, 90000\n1: dec r14\n jnz 1b\n cli\n hlt\n inc r15\n hlt\n inc r15\n hlt\n"
    recorded = run(source, vcpus=2)
    assert (recorded.result.reason, recorded.machine.packages[1].vcpu.general("r15")) == ("halted", 1)


def test_ipis_by_hypercall_reach_those_who_exist_and_are_counted():
    sender = "mov eax, KVM_HC_SEND_IPI\n mov ebx, 0b11110\n xor ecx, ecx\n xor edx, edx\n mov esi, 0x40\n vmcall\n"
    sender += "mov r13, rax\n mov r14, 90000\n7: dec r14\n jnz 7b\n mov al, 0\n" + EXIT
    source = f"mov r8, rdi\n{TIMER} test r8, r8\n jnz 8f\n mov r14, 90000\n7: dec r14\n jnz 7b\n{sender}\n"
    source += "8: sti\n9: hlt\n jmp 9b\n"
    recorded = run(source, vcpus=3, quantum_ps=10**7)
    assert recorded.machine.packages[0].vcpu.general("r13") == 2
    assert [package.vcpu.general("r15") for package in recorded.machine.packages] == [0, 1, 1]


def test_flush_asked_for_in_the_preempted_byte_comes_before_the_next_instruction(monkeypatch):
    flushed = []
    original = Vcpu.flush_tlb
    monkeypatch.setattr(Vcpu, "flush_tlb", lambda self: (flushed.append(self.number), original(self))[1])
    # vcpu0 keeps asking for a flush of vcpu1 whenever it finds it preempted, as a guest kernel would.
    source = """
        test edi, edi
        jnz 3f
        lea rbx, [rip + area]
        mov r14, 100000
    1:  mov al, 1
        mov dl, 3
        lock cmpxchg [rbx + KVM_STEAL_TIME_PREEMPTED], dl
        jnz 2f
        inc r15
    2:  dec r14
        jnz 1b
        mov al, 0
        out PORT_EXIT, al
    3:
    """
    source += REGISTER + "1: jmp 1b\n" + AREA
    options = {"vcpus": 2, "pcpus": 2, "pin": ("0=0", "1=1"), "tasks": ("busy:pcpu=1",)}
    recorded = run(source, **options)
    asked = recorded.machine.packages[0].vcpu.general("r15")
    assert asked > 1
    assert flushed.count(1) in (asked, asked - 1)
    flushed.clear()
    run(source, without=("pv-tlb-flush",), **options)
    assert flushed == []


@pytest.mark.parametrize(
    ("name", "msr"),
    [
        ("clocksource", abi.MSR_KVM_SYSTEM_TIME_NEW),
        ("clocksource", abi.MSR_KVM_WALL_CLOCK),
        ("pv-eoi", abi.MSR_KVM_PV_EOI_EN),
        ("poll-control", abi.MSR_KVM_POLL_CONTROL),
    ],
)
def test_withheld_member_of_the_family_raises_gp(name, msr):
    source = CATCH_GP + f"mov ecx, {msr}\n rdmsr\n mov rax, r15\n" + EXIT
    assert (run(source).result.exit_code, run(source, without=(name,)).result.exit_code) == (0, 1)


@pytest.mark.parametrize("name", ["pv-unhalt", "pv-send-ipi"])
def test_withheld_hypercall_is_unknown(name):
    number = {"pv-unhalt": abi.KVM_HC_KICK_CPU, "pv-send-ipi": abi.KVM_HC_SEND_IPI}[name]
    source = f"mov eax, {number}\n xor ebx, ebx\n xor ecx, ecx\n xor edx, edx\n mov esi, 0x40\n vmcall\n"
    recorded = run(source + "mov r13, rax\n mov al, 0\n" + EXIT, without=(name,))
    assert recorded.machine.packages[0].vcpu.general("r13") == -abi.KVM_ENOSYS % 2**64
