"""Where run delay meets steal time: the books, the area, and the two host models."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import abi, clock, trace
from emu.devices.steal_time import decode
from emu.host_model import HostModel
from emu.machine import Machine
from emu.package import Package
from emu.scenario import Config
from tests.programs import AREA, EXIT, REGISTER, assembled, run, run_guest

SPIN = "mov rcx, {loops}\n1: dec rcx\n jnz 1b\n"
REGISTER_AND_SPIN = REGISTER + SPIN.format(loops=200_000) + "xor eax, eax\n" + EXIT + AREA
CONTENDED = {"vcpus": 2, "tasks": ("busy",), "quantum_ps": 50 * clock.UNITS["us"]}


def area_of(machine: Machine, number: int):
    gpa = machine.packages[number].steal.area_gpa
    return decode(machine.ram.read(gpa, abi.KVM_STEAL_TIME_SIZE))


# --- the bar of the first issue ---


def test_last_reading_of_the_clock_guest_is_the_run_delay_of_that_update():
    recorded = run_guest("clock", vcpus=2, tasks=("busy",))
    for one in recorded.result.vcpus:
        stores = [event for event in recorded.of(trace.Store) if event.vcpu == one.id]
        published = [event.value for event in stores if event.step == "steal"]
        finals = [line for line in recorded.console.splitlines() if line.startswith(f"vcpu{one.id}: final steal")]
        last = finals[-1].replace(",", "").split()
        reading, version = int(last[3]), int(last[6])
        assert reading in published
        # The same number comes from the host's side: its switches alone, without the device.
        at = published.index(reading)
        when = [event.t for event in stores if event.step == "steal"][at]
        assert reading == waited_ns(recorded.of(trace.Switch), f"vcpu{one.id}", when)
        assert version == 2 * (at + 1)
        assert one.area.version == 2 * one.updates


def waited_ns(switches, who, until):
    """Run delay by the switches alone: the time `who` was neither on a pCPU nor blocked, from 0 to `until`."""
    waited, since = 0, 0  # runnable and waiting from time 0
    for event in switches:
        if event.t > until:
            break
        if event.next == who and since is not None:
            waited, since = waited + event.t - since, None
        elif event.prev == who and event.why in ("quantum", "preempted"):
            since = event.t
    return waited


@pytest.mark.parametrize("policy", ["round-robin", "fair", "random"])
@pytest.mark.parametrize("pcpus", [1, 2])
def test_ran_stolen_and_idle_add_up_at_every_turn(policy, pcpus):
    seen = []

    def check(machine: Machine) -> None:
        for one in machine.result().vcpus:
            assert one.ran_ns + one.stolen_ns + one.idle_ns == one.elapsed_ns
            seen.append(one.elapsed_ns)

    tasks = ("busy:weight=2", "periodic:period=300us,run=70us")
    recorded = run_guest("smp", each=check, vcpus=3, pcpus=pcpus, tasks=tasks, policy=policy, seed=7)
    assert recorded.result.exit_code == 0
    assert len(seen) > 50


def test_instructions_times_their_duration_is_the_time_ran():
    recorded = run(REGISTER_AND_SPIN, ps_per_insn=1500, **CONTENDED)
    assert recorded.result.reason == "exit"
    for one in recorded.result.vcpus:
        # Each switch floors one timestamp, so at most a nanosecond per switch is lost or gained.
        switches = [event for event in recorded.of(trace.Switch) if f"vcpu{one.id}" in (event.prev, event.next)]
        assert abs(one.ran_ns - one.instructions * 1500 // 1000) <= len(switches)


# --- the update ---


def test_first_update_is_there_before_the_instruction_after_wrmsr():
    recorded = run(REGISTER + "mov eax, [rbx + KVM_STEAL_TIME_VERSION]\n" + EXIT + AREA)
    assert recorded.result.exit_code == 2


def test_first_update_publishes_the_wait_before_registration():
    recorded = run("nop\n" * 8 + REGISTER_AND_SPIN, **CONTENDED)
    first = next(event for event in recorded.of(trace.Store) if event.vcpu == 1 and event.step == "steal")
    assert first.value >= 50_000  # vcpu0 had the first quantum


def test_steal_is_added_to_what_the_guest_left_there():
    source = "lea rbx, [rip + area]\n mov rax, 0x1000000000\n mov [rbx], rax\n" + REGISTER_AND_SPIN
    recorded = run(source)
    assert recorded.result.vcpus[0].area.steal == 0x1000000000


def test_flags_and_padding_are_not_touched():
    source = """
        lea rdi, [rip + area]
        mov rcx, 64
        mov al, 0xa5
        rep stosb
        mov dword ptr [rip + area + 8], 0
    """
    recorded = run(source + REGISTER_AND_SPIN, **CONTENDED)
    memory = recorded.machine.ram.read(recorded.machine.packages[0].steal.area_gpa, 64)
    assert memory[12:16] == b"\xa5" * 4
    assert memory[17:64] == b"\xa5" * 47
    assert decode(memory).version > 2


def test_no_update_follows_a_disable():
    source = REGISTER + "xor eax, eax\n xor edx, edx\n wrmsr\n mov r14d, [rbx + 8]\n" + SPIN.format(loops=300_000)
    recorded = run(source + "mov eax, [rbx + 8]\n sub eax, r14d\n" + EXIT + AREA, tasks=("busy",))
    assert recorded.result.exit_code == 0
    assert len([event for event in recorded.of(trace.Switch) if event.next == "vcpu0"]) > 3


def test_time_waited_while_disabled_is_delivered_at_the_next_enable():
    disable = "xor eax, eax\n xor edx, edx\n mov ecx, MSR_KVM_STEAL_TIME\n wrmsr\n"
    recorded = run(
        REGISTER + disable + SPIN.format(loops=300_000) + REGISTER + "xor eax, eax\n" + EXIT + AREA, tasks=("busy",)
    )
    one = recorded.result.vcpus[0]
    assert one.area.steal == one.stolen_ns > 300_000


def test_reregistration_freezes_the_old_area_and_starts_the_new_one_from_its_own_content():
    move = "lea rbx, [rip + area + 64]\n mov eax, ebx\n or eax, 1\n xor edx, edx\n wrmsr\n"
    source = REGISTER + SPIN.format(loops=100_000) + "mov ecx, MSR_KVM_STEAL_TIME\n" + move
    source += SPIN.format(loops=100_000) + "xor eax, eax\n" + EXIT + AREA.replace("64\n.text", "128\n.text")
    recorded = run(source, tasks=("busy",), quantum_ps=20 * clock.UNITS["us"])
    stores = recorded.of(trace.Store)
    areas = sorted({event.gpa & ~63 for event in stores})
    assert len(areas) == 2
    order = [event.gpa & ~63 for event in stores]
    assert order == sorted(order)  # never back to the old one
    new = [event.value for event in stores if event.gpa == areas[1]]
    assert new[-1] < recorded.result.vcpus[0].stolen_ns
    old_steal = [event.value for event in stores if event.gpa == areas[0]][-1]
    assert old_steal + new[-1] <= recorded.result.vcpus[0].stolen_ns


def test_area_outside_ram_is_accepted_and_never_written():
    source = "mov eax, 0x10000001\n xor edx, edx\n mov ecx, MSR_KVM_STEAL_TIME\n wrmsr\n rdmsr\n"
    recorded = run(source + "cmp eax, 0x10000001\n setne al\n" + EXIT, tasks=("busy",))
    assert recorded.result.exit_code == 0
    assert recorded.of(trace.Store) == []
    assert recorded.result.vcpus[0].area is None


def test_alone_on_its_pcpu_a_guest_sees_one_update():
    recorded = run(REGISTER_AND_SPIN, quantum_ps=10 * clock.UNITS["us"])
    assert (recorded.result.vcpus[0].updates, recorded.result.vcpus[0].area.version) == (1, 2)


def test_exits_bring_no_update():
    recorded = run(REGISTER + "mov r12, 1000\n1: cpuid\n dec r12\n jnz 1b\n xor eax, eax\n" + EXIT + AREA)
    assert recorded.result.vcpus[0].updates == 1


def test_update_goes_to_the_physical_address_whatever_the_guest_maps_there():
    # The page of `area` is remapped to another frame; the host knows physical addresses only.
    source = """
        lea rdi, [rip + area]
        mov r8, rdi
        mov rax, cr3
        mov rax, [rax]
        and rax, ~0xfff
        mov rax, [rax]
        and rax, ~0xfff
        mov rdx, rdi
        shr rdx, 21
        mov rax, [rax + rdx * 8]
        and rax, ~0xfff
        mov rdx, rdi
        shr rdx, 12
        and edx, 511
        lea rsi, [rax + rdx * 8]
        mov rcx, [rsi]
        mov rdx, rcx
        add rcx, 0x200000
        mov [rsi], rcx
        invlpg [rdi]
    """
    recorded = run(source + REGISTER_AND_SPIN, **CONTENDED | {"vcpus": 1})
    machine = recorded.machine
    gpa = machine.packages[0].steal.area_gpa
    assert decode(machine.ram.read(gpa, 64)).version == 2 * machine.packages[0].steal.updates > 2
    assert machine.ram.read(gpa + 0x200000, 64) == bytes(64)


def test_host_stores_of_a_kvm_update_are_never_seen_half_done_by_their_own_vcpu():
    recorded = run(WATCH_OWN, host_model="kvm", **CONTENDED)
    assert recorded.result.exit_code == 0


def test_other_cpu_stores_are_seen_half_done():
    recorded = run(WATCH_OWN, host_model="other-cpu", store_gap=(5,), **CONTENDED)
    assert recorded.result.exit_code == 1


WATCH_OWN = (
    REGISTER
    + """
    mov r12, 100000
    xor eax, eax
1:  mov edx, [rbx + KVM_STEAL_TIME_VERSION]
    and edx, 1
    or eax, edx
    dec r12
    jnz 1b
"""
    + EXIT
    + AREA
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(gaps=st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_other_cpu_stores_fall_exactly_the_given_instructions_apart(gaps):
    nops = "nop\n" * 60
    recorded = run(REGISTER + nops + "xor eax, eax\n" + EXIT + AREA, host_model="other-cpu", store_gap=tuple(gaps))
    stores = [event for event in recorded.of(trace.Store) if event.step != "preempted"]
    source = itertools.cycle(gaps)
    first = next(event.t for event in recorded.of(trace.MsrWrite)) + 1  # WRMSR itself
    expected = list(itertools.accumulate((next(source) for _ in range(3)), initial=first))[1:]
    assert [event.step for event in stores] == ["odd", "steal", "even"]
    assert [event.t for event in stores] == expected


def test_preempted_byte_is_seen_by_another_vcpu_and_cleared_on_return():
    # vcpu0 spins; vcpu1, on a pCPU of its own, samples vcpu0's byte and counts what it sees.
    source = """
        test edi, edi
        jnz watcher
    """
    source += REGISTER + SPIN.format(loops=300_000)
    source += """
        cli
        hlt
    watcher:
        lea rbx, [rip + area]
        xor r14d, r14d
        xor r13d, r13d
        mov r12, 150000
    2:  movzx eax, byte ptr [rbx + KVM_STEAL_TIME_PREEMPTED]
        test eax, eax
        jz 3f
        inc r14
        jmp 4f
    3:  inc r13
    4:  dec r12
        jnz 2b
        mov al, 0
    """
    recorded = run(source + EXIT + AREA, vcpus=2, pcpus=2, pin=("0=0", "1=1"), tasks=("busy:pcpu=0",))
    watcher = recorded.machine.packages[1].vcpu
    assert watcher.general("r14") > 1000
    assert watcher.general("r13") > 1000


def test_2011_profile_shows_no_preempted_byte():
    recorded = run(REGISTER_AND_SPIN, abi="kvm-2011", **CONTENDED)
    assert {event.step for event in recorded.of(trace.Store)} == {"odd", "steal", "even"}


def test_2011_profile_refuses_an_area_outside_ram():
    recorded = run("mov eax, 0x10000001\n xor edx, edx\n mov ecx, MSR_KVM_STEAL_TIME\n wrmsr\n" + EXIT, abi="kvm-2011")
    assert recorded.machine.shutdown[1].vector == abi.GP_VECTOR


# --- planted slips that only the machine could make ---


def test_a_machine_that_counts_sleep_as_steal_is_caught(monkeypatch):
    class Slip:
        def __init__(self, entity):
            self._entity = entity

        def __getattr__(self, name):
            return getattr(self._entity, name)

        def run_delay_ns(self, at_ps):
            books = self._entity.books(at_ps)
            return books.stolen_ns + books.idle_ns

    build = Machine._package

    def planted(self: Machine, engine: object, number: int) -> Package:
        package = build(self, engine, number)
        package.entity = Slip(package.entity)
        return package

    assert idle_guest_publishes_only_run_delay()
    monkeypatch.setattr(Machine, "_package", planted)
    assert not idle_guest_publishes_only_run_delay()


def idle_guest_publishes_only_run_delay() -> bool:
    recorded = run_guest("idle", tasks=("periodic:period=500us,run=100us",))
    published = [event.value for event in recorded.of(trace.Store) if event.step == "steal"]
    return recorded.result.vcpus[0].idle_ns > 10**6 and max(published) <= recorded.result.vcpus[0].stolen_ns


def test_a_host_that_writes_through_a_virtual_address_is_caught(monkeypatch):
    def store(self, package, area, step):
        gpa = package.vcpu.translate(step.gpa)
        self._ram.store(step.gpa if gpa is None else gpa, step.size, step.value)
        self._stored(package, area, step)

    test_update_goes_to_the_physical_address_whatever_the_guest_maps_there()
    monkeypatch.setattr(HostModel, "_store", store)
    with pytest.raises(AssertionError):
        test_update_goes_to_the_physical_address_whatever_the_guest_maps_there()


def test_assembled_programs_are_the_same_image_twice():
    assert assembled("hlt") is assembled("hlt")


# --- between an exit and its completion ---


def test_preempted_byte_is_not_shown_while_an_exit_waits_to_be_completed():
    # On two pCPUs an exit is completed only when nobody is behind. The switch is made by hand: which wake-up finds a
    # vCPU in that state is a matter of the policy.
    machine = Machine(assembled(REGISTER + "1: cpuid\n jmp 1b" + AREA), Config(vcpus=2, pcpus=2))
    package = machine.packages[0]

    def preempted_in_this_state(waits: bool) -> int:
        while package.steal.updates == 0 or (package.exit is not None) != waits:
            machine.turn()
        machine.switched(0, machine.host.pcpu_ps(0), package.entity, None, "preempted", True)
        return area_of(machine, 0).preempted

    assert preempted_in_this_state(waits=True) == 0
    assert preempted_in_this_state(waits=False) == 1


def test_update_under_way_is_finished_before_its_registration_changes():
    disable = "xor eax, eax\n xor edx, edx\n wrmsr\n"
    source = REGISTER + disable + "nop\n" * 400 + "mov eax, [rbx + KVM_STEAL_TIME_VERSION]\n" + EXIT + AREA
    recorded = run(source, host_model="other-cpu", store_gap=(100,))
    registered, disabled = recorded.of(trace.MsrWrite)
    stores = recorded.of(trace.Store)
    assert recorded.result.exit_code == 2
    assert [event.step for event in stores] == ["preempted", "odd", "steal", "even"]
    assert all(registered.t < event.t <= disabled.t for event in stores)
