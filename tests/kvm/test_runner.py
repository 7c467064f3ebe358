"""The same guest on the emulator and on real KVM: same console, same end; and whatever a guest does, the run ends."""

import re
import time

import pytest

from emu import abi, data
from emu.boot.entry import initial_state
from emu.boot.image import flat_image
from emu.faults import HostError
from emu.guest import load_guest
from emu.kvm import result
from emu.kvm.runner import Runner, Settings, run
from emu.machine import Machine
from emu.scenario import Config
from tests.programs import EXIT, assembled
from tests.test_family import PROBE
from tests.test_machine import CATCH_GP

pytestmark = pytest.mark.usefixtures("kvm")
MINUTE_NS = 60 * 10**9
BRIEF = Settings(limit_ns=10 * 10**9)
ENDLESS = ("hog",)

# Amounts of time and what follows from them: on real KVM nobody can say how many there are.
AMOUNTS = re.compile(
    r"(?<=steal )\d+|(?<=waiting )\d+|(?<=version )\d+|(?<=after )\d+|\d+(?= ns passed)|\d+(?= stolen)"
    r"|\d+(?= (?:unchecked|torn|inside))|; for example \w+"
)


def judgements(console: bytes) -> list[str]:
    """The lines without amounts, and each of several equal ones in a row once."""
    lines = [AMOUNTS.sub("", line) for line in console.decode().splitlines()]
    return [line for number, line in enumerate(lines) if lines[number - 1 : number] != [line]]


@pytest.mark.parametrize("name", [name for name in data.guest_names() if name not in ENDLESS])
def test_guest_says_and_ends_the_same_on_both(name):
    image = load_guest(name)
    ours, real = Machine(image, Config()).run(), run(image, Settings(limit_ns=MINUTE_NS))
    assert judgements(real.console) == judgements(ours.console)
    assert (real.reason, real.exit_code) == (ours.reason, ours.exit_code)


@pytest.mark.parametrize("name", ["smp", "idle", "detect"])
def test_several_vcpus_say_the_same_each_for_itself(name):
    image = load_guest(name)
    ours, real = Machine(image, Config(vcpus=2)).run(), run(image, Settings(vcpus=2, limit_ns=MINUTE_NS))
    for who in ("vcpu0", "vcpu1", ""):
        mine, its = ([line for line in judgements(one.console) if line.startswith(who)] for one in (ours, real))
        assert sorted(set(its)) == sorted(set(mine))
    assert (real.reason, real.exit_code) == (ours.reason, ours.exit_code)


def test_withheld_feature_is_withheld_here_too():
    image = load_guest("register")
    ours = Machine(image, Config(without=("steal-time",))).run()
    real = run(image, BRIEF._replace(without=("steal-time",)))
    assert (real.exit_code, real.console) == (ours.exit_code, ours.console)


@pytest.mark.parametrize("name", ["steal-time", "clocksource", "pv-eoi", "poll-control", "migration-control"])
def test_lax_cpuid_is_kvms_own_default(name):
    image = assembled(CATCH_GP + f"mov ecx, {PROBE[name]}\n rdmsr\n wrmsr\n mov rax, r15\n" + EXIT)
    for lax, refused in ((False, 2), (True, 0)):
        ours = Machine(image, Config(without=(name,), lax_cpuid=lax)).run()
        real = run(image, BRIEF._replace(without=(name,), lax_cpuid=lax))
        assert (ours.exit_code, real.exit_code) == (refused, refused)


def test_cpuid_is_told_less_of_under_lax_cpuid_too():
    image = load_guest("detect")
    without = ("steal-time", "pv-sched-yield", "migration-control")
    ours = Machine(image, Config(without=without, lax_cpuid=True)).run()
    real = run(image, BRIEF._replace(without=without, lax_cpuid=True))
    assert ours.console == real.console and b"migration" not in real.console


def test_migration_control_is_served_by_the_same_device():
    source = CATCH_GP + "mov ecx, MSR_KVM_MIGRATION_CONTROL\n rdmsr\n mov r13, rax\n xor eax, eax\n wrmsr\n"
    source += "mov eax, 2\n wrmsr\n xor eax, eax\n mov edx, 1\n wrmsr\n rdmsr\n add rax, rax\n add rax, rdx\n"
    image = assembled(source + "shl rax, 2\n or rax, r15\n shl r13, 6\n or rax, r13\n" + EXIT)
    ours, real = Machine(image, Config()).run(), run(image, BRIEF)
    assert ours.exit_code == real.exit_code == 1 << 6 | 2  # began as 1, took 0, refused two values, reads 0


def test_msr_that_nobody_has_is_not_ours_to_serve():
    image = assembled(CATCH_GP + "mov ecx, 0x4b564d09\n rdmsr\n wrmsr\n mov rax, r15\n" + EXIT)
    runner = Runner(image, BRIEF)
    assert runner.run().exit_code == 2 and runner.exits == 1


@pytest.mark.parametrize("without", [(), ("pv-sched-yield",)])
@pytest.mark.parametrize("number", [abi.KVM_HC_SCHED_YIELD, 77])
def test_yield_and_unknown_hypercalls_return_the_same(number, without):
    image = assembled(f"mov eax, {number}\n mov ebx, 5\n vmcall\n neg rax\n shr rax, 3\n" + EXIT)
    ours = Machine(image, Config(without=without)).run()
    real = run(image, BRIEF._replace(without=without, limit_ns=10**9))
    if real.exit_code is None:
        pytest.skip("this KVM serves VMCALL to no guest that is not made for it")
    offered = number == abi.KVM_HC_SCHED_YIELD and not without
    assert ours.exit_code == real.exit_code == (0 if offered else abi.KVM_ENOSYS >> 3)


DUMP_LONG = """
    mov [rip + dump], rsp
    lea rsp, [rip + dump + 512]
    pushfq
    push rdi
    push rsi
    push rax
    push rbx
    push rbp
    push r8
    push r15
    mov rax, cr0
    push rax
    mov rax, cr3
    push rax
    mov rax, cr4
    push rax
    mov rax, cr8
    push rax
    mov ecx, MSR_EFER
    rdmsr
    push rax
    mov ecx, MSR_IA32_CR_PAT
    rdmsr
    push rax
    push rdx
    mov rax, ds
    push rax
    mov rax, ss
    push rax
    mov rax, cs
    push rax
    mov rax, fs
    push rax
    str rax
    push rax
    sub rsp, 16
    sgdt [rsp]
    sub rsp, 16
    sidt [rsp]
    fnstcw [rip + dump + 8]
    mov ecx, 512
    lea rsi, [rip + dump]
    mov dx, PORT_CONSOLE
    rep outsb
    mov al, 7
    out PORT_EXIT, al
.data
.balign 16
dump: .skip 512
"""


@pytest.mark.parametrize("vcpu", [0, 1])
def test_guest_enters_in_the_same_state_on_both(vcpu):
    image = assembled(f"cmp edi, {vcpu}\nje 1f\ncli\nhlt\n1:" + DUMP_LONG)
    ours, real = Machine(image, Config(vcpus=2)).run(), run(image, BRIEF._replace(vcpus=2))
    assert len(ours.console) == 512 and ours.exit_code == 7
    assert real.exit_code == 7
    assert real.console.hex(" ", 8).split() == ours.console.hex(" ", 8).split()


# The values of CS, SS, SP as bytes: `mov ax, X; out 0xe9, al; mov al, ah; out 0xe9, al` for each
REAL_MODE = bytes.fromhex("8cc8 e6e9 88e0 e6e9 8cd0 e6e9 88e0 e6e9 89e0 e6e9 88e0 e6e9 b005 e6f4".replace(" ", ""))


@pytest.mark.parametrize("mode", ["real", "pm32"])
def test_flat_image_enters_in_the_same_state_on_both(mode):
    image = flat_image(REAL_MODE, "test", mode)
    ours, real = Machine(image, Config()).run(), run(image, BRIEF)
    assert (real.console, real.exit_code) == (ours.console, ours.exit_code) and real.exit_code == 5


@pytest.mark.parametrize("control", [0x27F, 0x37F, 0xF7F])
def test_fpu_control_word_arrives(control):
    dump = (
        "fnstcw [rip + saved]\nmov ecx, 2\nlea rsi, [rip + saved]\nmov edx, PORT_CONSOLE\nrep outsb\nout PORT_EXIT, al"
    )
    image = assembled(dump + "\n.data\nsaved: .word 0")
    runner = Runner(image, BRIEF)
    runner.vcpus[0].set_state(initial_state(runner.ram, image.entry, 0, 1)._replace(fpcw=control))
    assert int.from_bytes(runner.run().console, "little") == control


def test_ports_answer_as_the_emulators():
    ports = ("PORT_CONSOLE", "PORT_UART", "PORT_UART_LSR", "PORT_EXIT", "PORT_MARK", "0x20", "0x60", "0x1234")
    reads = "".join(
        f"mov edx, {port}\nxor eax, eax\nin {register}, dx\nmov [rip + found], eax\nmov edx, PORT_CONSOLE\n"
        "lea rsi, [rip + found]\nmov ecx, 4\nrep outsb\n"
        for port in ports
        for register in ("al", "ax", "eax")
    )
    image = assembled(reads + "mov eax, 0x1203\nout PORT_EXIT, eax\n.data\nfound: .long 0")
    ours, real = Machine(image, Config()).run(), run(image, BRIEF)
    assert real.console.hex(" ", 4) == ours.console.hex(" ", 4) and real.exit_code == ours.exit_code == 3


@pytest.mark.parametrize(("program", "vcpus"), [("cli\nhlt", 1), ("sti\nhlt", 1), ("1: hlt\njmp 1b", 2)])
def test_sleeping_for_ever_is_halted(program, vcpus):
    found = run(assembled(program), BRIEF._replace(vcpus=vcpus))
    assert (found.reason, found.exit_code) == (result.HALTED, None)


def test_vcpus_that_wait_for_a_start_are_asleep():
    assert run(assembled("hlt"), BRIEF._replace(vcpus=3, start="bsp")).reason == result.HALTED


def test_sleep_with_a_timer_armed_is_not_the_end():
    armed = """
    mov ecx, MSR_IA32_APICBASE
    rdmsr
    or eax, APICBASE_X2APIC
    wrmsr
    mov ecx, APIC_SPIV
    mov eax, APIC_SPIV_ENABLED | 0xff
    xor edx, edx
    wrmsr
    mov ecx, APIC_LVTT
    mov eax, APIC_LVT_TIMER_TSCDEADLINE | 0x40
    wrmsr
    rdtsc
    add eax, 1000000000
    adc edx, 0
    mov ecx, MSR_IA32_TSC_DEADLINE
    wrmsr
    sti
    hlt
    """
    begin = time.monotonic_ns()
    found = run(assembled(armed), BRIEF)
    # There is no IDT, so what wakes the vCPU kills it: had it been taken for asleep for ever, the run had ended before.
    assert found.reason == result.TRIPLE_FAULT
    assert time.monotonic_ns() - begin > 150_000_000


def test_triple_fault_is_told_with_its_place():
    image = assembled("nop\nud2")
    runner = Runner(image, BRIEF)
    found = runner.run()
    assert (found.reason, found.exit_code) == (result.TRIPLE_FAULT, None)
    assert runner.shutdown is not None and runner.shutdown[0] == 0


@pytest.mark.parametrize("vcpus", [1, 2])
def test_endless_guest_ends_at_the_wall_clock_limit(vcpus):
    found = run(assembled("1: jmp 1b"), Settings(vcpus=vcpus, limit_ns=300_000_000))
    assert found.reason == result.TIME_LIMIT
    assert 300_000_000 <= found.wall_ns < 5_000_000_000


def test_endless_printing_ends_at_the_output_limit():
    found = run(assembled("1: out PORT_CONSOLE, al\njmp 1b"), BRIEF._replace(output_limit=1000))
    assert (found.reason, len(found.console)) == (result.OUTPUT_LIMIT, 1000)


def test_endless_exits_end_at_their_limit():
    assert run(assembled("1: in al, PORT_MARK\njmp 1b"), BRIEF._replace(exit_limit=1000)).reason == result.EXIT_LIMIT


def test_interrupt_ends_the_run():
    runner = Runner(assembled("1: jmp 1b"), BRIEF)
    assert runner.run(lambda each: each.interrupt()).reason == result.INTERRUPTED


def test_first_exit_is_the_end_for_all_vcpus():
    found = run(assembled("mov eax, edi\n1: out PORT_EXIT, al\ninc al\njmp 1b"), BRIEF._replace(vcpus=2))
    assert found.reason == result.EXIT and found.exit_code in (0, 1)


def test_memory_beyond_ram_floats():
    image = assembled("mov edx, 0x30000000\nmov eax, [edx]\nmov [edx], eax\nxor al, 0xa5\nout PORT_EXIT, al", bits=32)
    assert run(image, BRIEF).exit_code == 0xFF ^ 0xA5


def test_books_add_up_and_area_is_read():
    image = load_guest("register")
    begin = time.monotonic_ns()
    found = run(image, BRIEF)
    (one,) = found.vcpus
    assert one.ran_ns + one.stolen_ns + one.idle_ns == one.elapsed_ns
    assert 0 < one.ran_ns <= time.monotonic_ns() - begin
    assert one.msr & 1 and one.area is not None and one.area.version % 2 == 0 and one.area.version > 0
    assert one.area.steal <= one.stolen_ns


def test_image_that_does_not_fit_is_refused():
    with pytest.raises(HostError, match="outside the memory"):
        Runner(flat_image(bytes(8 << 20), "test", "long"), Settings(ram=4 << 20))
