"""Pages that the host takes away: who is told, who sleeps, and how it ends; on the real engine, in virtual time."""

import pytest

from emu import abi, trace
from emu.clock import UNITS
from emu.exits import NestedFault
from emu.faults import HostError
from emu.machine import Machine
from emu.scenario import Config
from tests.programs import EXIT, Recorded, assembled, gate, run, run_guest

US = UNITS["us"]
SWAP = "page:at=20us,in=100us"
DONE = "mov al, 0\n" + EXIT
DATA = """
.bss
.balign 4096
.globl page
page: .skip 4096
.balign 4096
idt: .skip 4096
apf: .skip 64
stack_end_marker: .skip 8
.data
pointer: .word 4095
    .quad idt
.text
"""
SPIN = "mov ecx, 30000\n7: dec ecx\n jnz 7b\n"  # 60 us: the page is away by then
TOUCH = "lea rbx, [rip + page]\n mov byte ptr [rbx + 5], 7\n"


def register(low: int) -> str:
    return f"""
    lea rax, [rip + apf]
    or rax, {low}
    mov rdx, rax
    shr rdx, 32
    mov ecx, MSR_KVM_ASYNC_PF_EN
    wrmsr
"""


def waited(recorded: Recorded) -> list[str]:
    return [event.action for event in recorded.of(trace.PageMissing)]


# --- a guest that knows nothing of it sleeps ---


def test_vcpu_that_is_not_told_sleeps_until_the_page_is_back_and_that_is_idle() -> None:
    recorded = run(SPIN + TOUCH + "mov r8b, [rbx + 5]\n" + DONE + DATA, swap=(SWAP,))
    (books,) = recorded.result.vcpus
    assert recorded.result.reason == "exit" and recorded.machine.packages[0].vcpu.general("r8") == 7
    assert waited(recorded) == ["wait"]
    assert (books.idle_ns, books.stolen_ns) == (100_000, 0)


def test_page_that_is_back_before_the_exit_is_completed_is_not_waited_for() -> None:
    early = []

    def bring_back(machine: Machine) -> None:
        exit_ = machine.packages[0].exit
        if isinstance(exit_, NestedFault) and machine._absent.any:
            early.append(exit_.gpa)
            machine._absent.host_needs(exit_.gpa, 1)

    # On two pCPUs an exit is completed when nobody is behind, which is another turn.
    recorded = run(SPIN + TOUCH + DONE + DATA, each=bring_back, swap=(SWAP,), pcpus=2)
    assert len(early) == 1 and recorded.result.reason == "exit"
    assert waited(recorded) == [] and recorded.result.vcpus[0].idle_ns == 0


def test_wait_after_the_page_is_back_is_steal() -> None:
    recorded = run(SPIN + TOUCH + DONE + DATA, swap=("page:at=20us,in=130us",), tasks=("busy",), quantum_ps=100 * US)
    (books,) = recorded.result.vcpus
    assert books.idle_ns == 130_000
    assert books.stolen_ns > 0 and books.ran_ns + books.stolen_ns + books.idle_ns == books.elapsed_ns


def test_page_that_nobody_touches_costs_nothing() -> None:
    with_swap, without = (run("lea rbx, [rip + page]\n" + SPIN + DONE + DATA, swap=swap) for swap in ((SWAP,), ()))
    assert with_swap.result.virtual_ns == without.result.virtual_ns
    assert [event.way for event in with_swap.of(trace.Swapped)] == ["out"]


def test_page_is_taken_again_and_again() -> None:
    loop = "mov r9d, 8\n5:\n" + SPIN + TOUCH + "dec r9d\n jnz 5b\n"
    recorded = run(loop + DONE + DATA, swap=("page:at=20us,in=10us,every=100us",))
    ways = [event.way for event in recorded.of(trace.Swapped)]
    assert ways.count("in") == recorded.result.vcpus[0].idle_ns // 10_000 >= 3


@pytest.mark.parametrize(
    ("what", "source"),
    [
        ("code", "jmp far_code\n.balign 4096\n.globl page\npage:\nfar_code: mov r8d, 7\n"),
        ("the stack", "lea rsp, [rip + page + 2048]\n" + SPIN + "mov r8d, 7\n push r8\n pop r8\n"),
    ],
)
def test_page_of_code_or_stack_may_be_away(what: str, source: str) -> None:
    head = SPIN if what == "code" else ""
    tail = DONE if what == "code" else DONE + DATA
    recorded = run(head + source + tail, swap=(SWAP,))
    assert recorded.result.reason == "exit" and recorded.machine.packages[0].vcpu.general("r8") == 7
    assert waited(recorded) == ["wait"] and recorded.result.vcpus[0].idle_ns == 100_000


def test_page_tables_may_be_away() -> None:
    tables_away = f"{_pml4():#x}:at=20us,in=50us"
    recorded = run(SPIN + "mov rax, cr3\n mov cr3, rax\n" + TOUCH + DONE + DATA, swap=(tables_away,))
    assert recorded.result.reason == "exit"
    assert [event.access for event in recorded.of(trace.PageMissing)] == ["write"]
    assert recorded.result.vcpus[0].idle_ns == 50_000


def _pml4() -> int:
    return Machine(assembled(DONE)).packages[0].vcpu.state().cr3


def test_stack_that_is_away_puts_an_exception_off_until_it_is_back() -> None:
    source = gate(abi.UD_VECTOR, "handler") + "lidt [rip + pointer]\n lea rsp, [rip + page + 2048]\n" + SPIN + "ud2\n"
    recorded = run(source + "handler: mov r8d, 7\n" + DONE + DATA, swap=(SWAP,))
    assert recorded.result.reason == "exit" and recorded.machine.packages[0].vcpu.general("r8") == 7
    assert waited(recorded) == ["wait"]
    assert [event.vector for event in recorded.of(trace.Trap)] == [abi.UD_VECTOR]
    assert recorded.result.vcpus[0].idle_ns == 100_000


def test_interrupt_whose_stack_is_away_is_pending_again_and_comes_later() -> None:
    source = (
        gate(0x40, "handler")
        + """
        lidt [rip + pointer]
        lea rsp, [rip + page + 2048]
        mov ecx, MSR_IA32_APICBASE
        rdmsr
        or eax, APICBASE_X2APIC
        wrmsr
        mov ecx, APIC_SPIV
        mov eax, 0x1ff
        xor edx, edx
        wrmsr
        """
        + SPIN
        + """
        mov ecx, APIC_SELF_IPI
        mov eax, 0x40
        xor edx, edx
        wrmsr
        sti
        nop
    3:  jmp 3b
    handler: mov r8d, 7
        """
    )
    recorded = run(source + DONE + DATA, swap=(SWAP,))
    assert recorded.result.reason == "exit"
    assert [event.vector for event in recorded.of(trace.Trap)] == [0x40]
    assert recorded.result.vcpus[0].idle_ns == 100_000
    assert recorded.machine.packages[0].lapic.isr == 1 << 0x40


# --- a guest that asked to be told ---


def test_guest_is_told_by_a_page_fault_whose_cr2_is_a_token() -> None:
    source = gate(abi.PF_VECTOR, "handler") + "lidt [rip + pointer]\n" + register(0xB) + "sti\n" + SPIN + TOUCH + DONE
    recorded = run(source + "handler: mov r8, cr2\n mov r9d, [rip + apf]\n" + DONE + DATA, swap=(SWAP,))
    vcpu = recorded.machine.packages[0].vcpu
    (missing,) = recorded.of(trace.PageMissing)
    assert (missing.action, missing.access) == ("inject", "write")
    assert vcpu.general("r8") == missing.token and vcpu.general("r9") == abi.KVM_PV_REASON_PAGE_NOT_PRESENT
    (trap,) = recorded.of(trace.Trap)
    assert (trap.vector, trap.error, trap.address) == (abi.PF_VECTOR, 0, missing.token)
    assert recorded.result.vcpus[0].idle_ns == 0


def test_at_cpl_0_without_send_always_the_vcpu_halts_and_interrupts_reach_it() -> None:
    # The timer of 40 us comes while the page is away, and is served meanwhile.
    source = (
        gate(0x40, "handler")
        + """
        lidt [rip + pointer]
        mov ecx, MSR_IA32_APICBASE
        rdmsr
        or eax, APICBASE_X2APIC
        wrmsr
        mov ecx, APIC_SPIV
        mov eax, 0x1ff
        xor edx, edx
        wrmsr
        """
        + register(0x9)
        + SPIN
        + """
        mov ecx, APIC_TDCR
        mov eax, 0xb
        xor edx, edx
        wrmsr
        mov ecx, APIC_LVTT
        mov eax, 0x40
        wrmsr
        mov ecx, APIC_TMICT
        mov eax, 40000
        wrmsr
        sti
        """
        + TOUCH
        + DONE
        + "handler: inc r15d\n mov ecx, APIC_EOI\n xor eax, eax\n xor edx, edx\n wrmsr\n iretq\n"
    )
    recorded = run(source + DATA, swap=(SWAP,))
    assert recorded.result.reason == "exit"
    assert recorded.machine.packages[0].vcpu.general("r15") == 1
    assert waited(recorded)[0] == "halt" and set(waited(recorded)) == {"halt"}
    trap = next(event for event in recorded.of(trace.Trap) if event.vector == 0x40)
    back = next(event for event in recorded.of(trace.Swapped) if event.way == "in")
    assert trap.t < back.t


@pytest.mark.parametrize("options", [{}, {"abi": "kvm-2011"}], ids=["by interrupt", "by #PF"])
def test_the_guest_that_shows_it_works_meanwhile(options: dict[str, object]) -> None:
    recorded = run_guest("async_pf", swap=("page:at=50us,in=200us,every=500us",), **options)
    told = recorded.of(trace.PageMissing)
    assert recorded.result.exit_code == 0 and len(told) >= 4
    assert all(event.action == "inject" for event in told)
    assert recorded.result.vcpus[0].idle_ns == 0
    kind = "by #PF" if options else "by interrupt"
    assert f"told <{len(told)}> times" in recorded.console and kind in recorded.console


def test_ready_tokens_are_those_that_were_told_one_at_a_time() -> None:
    recorded = run_guest("async_pf", swap=("page:at=50us,in=200us,every=500us",))
    told = [event.token for event in recorded.of(trace.PageMissing)]
    ready = [event.value for event in recorded.of(trace.Store) if event.step == "apf-token"]
    assert ready == [abi.KVM_APF_WAKE_ALL, *told]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("pcpus", [1, 2])
def test_same_run_gives_the_same_trace(pcpus: int) -> None:
    options = {
        "swap": (
            "page:at=50us,in=70us,every=100us",
            "main:at=31us,in=3us,every=770us",
            "areas:at=40us,in=9us,every=510us",
        ),
        "tasks": ("busy",),
        "vcpus": 2,
        "pcpus": pcpus,
        "host_model": "other-cpu",
    }
    one, other = (run_guest("async_pf", **options) for _ in range(2))
    assert one.result.exit_code == 0
    assert one.events == other.events


def test_area_that_is_away_is_brought_back_by_the_hosts_own_store() -> None:
    recorded = run_guest("clock", tasks=("busy",), swap=("steal_areas:at=150us,in=1ms",))
    places = [type(event).__name__ for event in recorded.events if type(event) in (trace.Swapped, trace.Store)]
    out = places.index("Swapped")
    assert places[out + 1] in ("Swapped", "Store")
    assert recorded.result.exit_code == 0


# --- what cannot be ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("page", "does not say what is taken"),
        ("page:at=1ms", "does not say what is taken"),
        ("page:at=1ms,in=0ns", "does not say what is taken"),
        ("page:at=1ms,in=2", "'in=2' cannot be used"),
        ("page:at=1ms,in=1ms,at=2ms", "'at=2ms' cannot be used"),
        ("nowhere:at=1ms,in=1ms", "no symbol 'nowhere'"),
        ("0x10000000:at=1ms,in=1ms", "outside the guest's"),
        (":at=1ms,in=1ms", "does not say what is taken"),
    ],
)
def test_swap_that_cannot_be_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(HostError, match=says) as caught:
        Machine(assembled(DONE + DATA), Config(swap=(text,)))
    assert caught.value.where == f"--swap {text}"
