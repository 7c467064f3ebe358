"""The family around steal time, at work in the machine: clocks, PV EOI, kicks and IPIs by hypercall, TLB flushes."""

import pytest

from emu import abi, clock, trace
from emu.devices.kvmclock import DEFAULT_BOOT_NS
from emu.package import HYPERCALLS, UNTOLD
from emu.scenario import FEATURES, PROFILES
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
        ("migration-control", abi.MSR_KVM_MIGRATION_CONTROL),
    ],
)
def test_withheld_member_of_the_family_raises_gp(name, msr):
    source = CATCH_GP + f"mov ecx, {msr}\n rdmsr\n mov rax, r15\n" + EXIT
    assert (run(source).result.exit_code, run(source, without=(name,)).result.exit_code) == (0, 1)


NUMBERS = {
    "pv-unhalt": abi.KVM_HC_KICK_CPU,
    "pv-send-ipi": abi.KVM_HC_SEND_IPI,
    "pv-sched-yield": abi.KVM_HC_SCHED_YIELD,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_withheld_hypercall_is_unknown(name):
    number = NUMBERS[name]
    source = f"mov eax, {number}\n xor ebx, ebx\n xor ecx, ecx\n xor edx, edx\n mov esi, 0x40\n vmcall\n"
    recorded = run(source + "mov r13, rax\n mov al, 0\n" + EXIT, without=(name,))
    assert recorded.machine.packages[0].vcpu.general("r13") == -abi.KVM_ENOSYS % 2**64


YIELD = """
    test edi, edi
    jnz 2f
    mov eax, KVM_HC_SCHED_YIELD
    mov ebx, {to}
    {instruction}
    mov r13, rax
1:  dec r15
    jnz 1b
2:  mov rax, rdi
    out PORT_EXIT, al
"""


@pytest.mark.parametrize("instruction", ["vmcall", "vmmcall"])
def test_vcpu_that_yields_waits_while_the_other_one_runs(instruction):
    recorded = run(YIELD.format(to=2, instruction=instruction), vcpus=3)
    assert recorded.result.exit_code == 2
    assert [(one.prev, one.next, one.why) for one in recorded.of(trace.Switch)] == [
        ("idle", "vcpu0", "start"),
        ("vcpu0", "vcpu2", "yield"),
    ]
    giver, bystander, _ = recorded.result.vcpus
    assert giver.stolen_ns == bystander.stolen_ns - giver.ran_ns > 0


def test_yield_is_told_in_the_preempted_byte():
    source = "mov r8, rdi\n shl rdi, 6\n lea rbx, [rip + areas]\n add rbx, rdi\n mov rax, rbx\n or rax, 1\n"
    source += "xor edx, edx\n mov ecx, MSR_KVM_STEAL_TIME\n wrmsr\n mov rdi, r8\n" + YIELD
    areas = ".bss\n.balign 64\nareas: .skip 128\n"
    recorded = run(source.format(to=1, instruction="vmcall") + areas, vcpus=2)
    shown = [one for one in recorded.of(trace.Store) if one.step == "preempted" and one.value == 1]
    (switch,) = [one for one in recorded.of(trace.Switch) if one.why == "yield"]
    assert [(one.vcpu, one.t) for one in shown] == [(0, switch.t)]


@pytest.mark.parametrize(
    ("to", "options"),
    [(0, {}), (7, {}), (2**40, {}), (1, {"start": "bsp"}), (1, {"pcpus": 2}), (1, {"pcpus": 2, "pin": ("0=0", "1=1")})],
)
def test_yield_to_one_that_is_not_waiting_returns_0_and_does_nothing(to, options):
    recorded = run(
        "mov r15, 100\n" + YIELD.replace("ebx", "rbx").format(to=to, instruction="vmcall"), **({"vcpus": 2} | options)
    )
    assert recorded.machine.packages[0].vcpu.general("r13") == 0
    assert "yield" not in {one.why for one in recorded.of(trace.Switch)}


def test_two_vcpus_that_yield_to_each_other_for_ever_meet_the_limits():
    source = "xor edi, 1\n1: mov rbx, rdi\n mov eax, KVM_HC_SCHED_YIELD\n vmcall\n jmp 1b\n"
    recorded = run(source, vcpus=2, exit_limit=2000)
    assert recorded.result.reason == "exit-limit"
    whys = [one.why for one in recorded.of(trace.Switch)]
    assert whys.count("yield") > 1900


@pytest.mark.parametrize("instruction", ["vmcall", "vmmcall"])
@pytest.mark.parametrize("number", [0, 2, 9, 12, 77, 2**32 - 1])
def test_unknown_hypercall_is_not_implemented_by_either_instruction(instruction, number):
    recorded = run(f"mov eax, {number}\n {instruction}\n mov r13, rax\n mov al, 0\n" + EXIT)
    assert recorded.machine.packages[0].vcpu.general("r13") == -abi.KVM_ENOSYS % 2**64


@pytest.mark.parametrize("instruction", ["vmcall", "vmmcall"])
@pytest.mark.parametrize("number", [abi.KVM_HC_SCHED_YIELD, abi.KVM_HC_KICK_CPU, 77])
def test_hypercall_from_user_mode_is_not_permitted(instruction, number):
    # 32-bit code has no page tables that would keep user mode out; IOPL 3 lets it end the run.
    source = f"""
        push {abi.SELECTOR_USER_DATA}
        push esp
        push 0x3002
        push {abi.SELECTOR_USER_CODE32}
        lea eax, [user]
        push eax
        iretd
    user:
        mov eax, {number}
        {instruction}
        mov esi, eax
        mov al, 0
        out PORT_EXIT, al
    """
    recorded = run(source, bits=32)
    assert recorded.result.exit_code == 0
    assert recorded.machine.packages[0].vcpu.general("rsi") == -abi.KVM_EPERM % 2**32


PROBE = {
    "clocksource": abi.MSR_KVM_SYSTEM_TIME_NEW,
    "steal-time": abi.MSR_KVM_STEAL_TIME,
    "pv-eoi": abi.MSR_KVM_PV_EOI_EN,
    "poll-control": abi.MSR_KVM_POLL_CONTROL,
    "migration-control": abi.MSR_KVM_MIGRATION_CONTROL,
}


@pytest.mark.parametrize("name", PROBE)
def test_lax_cpuid_withholds_an_msr_in_cpuid_alone(name):
    source = CATCH_GP + f"mov ecx, {PROBE[name]}\n rdmsr\n wrmsr\n mov rax, r15\n" + EXIT
    strict, lax = run(source, without=(name,)), run(source, without=(name,), lax_cpuid=True)
    assert (strict.result.exit_code, lax.result.exit_code) == (2, 0)


def test_lax_cpuid_lets_withheld_hypercalls_and_flushes_work():
    source = "mov eax, KVM_HC_SEND_IPI\n xor ebx, ebx\n xor ecx, ecx\n xor edx, edx\n mov esi, 0x40\n vmcall\n"
    source += "mov r13, rax\n mov al, 0\n" + EXIT
    without = ("pv-unhalt", "pv-send-ipi", "pv-sched-yield", "pv-tlb-flush")
    package = run(source, without=without, lax_cpuid=True).machine.packages[0]
    assert package.vcpu.general("r13") == 0
    assert abi.KVM_FEATURE_PV_TLB_FLUSH in package.steal.features
    assert package.hypercalls.features == tuple(HYPERCALLS.values())


@pytest.mark.parametrize("without", [*((name,) for name in FEATURES), FEATURES, ("steal-time", "pv-eoi")])
def test_cpuid_is_the_same_lax_or_not(without):
    tables = [run("hlt", without=without, lax_cpuid=lax).machine.packages[0].cpuid for lax in (False, True)]
    assert tables[0]._leaves == tables[1]._leaves
    assert set(tables[0].bits) == set(tables[1].bits) != set(run("hlt").machine.packages[0].cpuid.bits)


def test_every_feature_is_hidden_by_a_name():
    assert set(UNTOLD) == set(FEATURES)


def test_migration_control_begins_ready_and_takes_one_bit():
    source = CATCH_GP + "mov ecx, MSR_KVM_MIGRATION_CONTROL\n rdmsr\n mov r13, rax\n xor eax, eax\n xor edx, edx\n"
    source += " wrmsr\n mov eax, 2\n wrmsr\n rdmsr\n mov r14, rax\n mov rax, r15\n" + EXIT
    recorded = run(source)
    vcpu = recorded.machine.packages[0].vcpu
    assert (vcpu.general("r13"), vcpu.general("r14"), recorded.result.exit_code) == (1, 0, 1)


def test_init_forgets_the_registration_and_keeps_migration_control():
    spin = "mov r14, 20000\n7: dec r14\n jnz 7b\n"
    init = f"mov ecx, APIC_ICR\n mov eax, {abi.APIC_DM_INIT | abi.APIC_INT_ASSERT}\n mov edx, 1\n wrmsr\n"
    receiver = REGISTER + "mov ecx, MSR_KVM_MIGRATION_CONTROL\n xor eax, eax\n xor edx, edx\n wrmsr\n9: jmp 9b\n" + AREA
    source = f"mov r8, rdi\n{TIMER} test r8, r8\n jnz 8f\n {2 * spin} {init} {2 * spin} mov al, 0\n{EXIT}\n8:\n"
    one = run(source + receiver, vcpus=2, quantum_ps=10**7).machine.packages[1]
    assert one.lapic.startup.waiting and one.steal.updates > 0
    assert [one.msrs.rdmsr(msr) for msr in (abi.MSR_KVM_STEAL_TIME, abi.MSR_KVM_MIGRATION_CONTROL)] == [0, 0]


def test_profile_with_kvms_defects_reaches_the_clock():
    source = REGISTER_CLOCK + "mov eax, ebx\n or eax, 0xff1\n wrmsr\n mov r13d, [rbx]\n mov al, 0\n" + EXIT
    source += ".bss\n.balign 4096\narea: .skip 8192\n.text\n"
    found = {profile: run(source, abi=profile).machine.packages[0].vcpu.general("r13") for profile in PROFILES}
    assert found == {"kvm": 2, "kvm-2011": 2, "kvm-bugs": 4}
