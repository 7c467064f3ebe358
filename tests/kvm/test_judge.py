"""What real KVM does with its paravirtual MSRs, asked by sequences of operations."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import abi
from emu.faults import HostError
from emu.kvm import cpuid, stub
from emu.kvm.judge import Judge
from emu.kvm.operations import (
    ARENA_GPA,
    ARENA_SIZE,
    MAX_OPERATIONS,
    PAGES,
    RAM_SIZE,
    Content,
    Cpuid,
    Done,
    Leaf,
    Load,
    Memory,
    Rdmsr,
    Reenter,
    Refused,
    Reset,
    SaveRestore,
    Store,
    Value,
    Wrmsr,
)
from tests.effort import EFFORT

pytestmark = pytest.mark.usefixtures("kvm")

A = ARENA_GPA
STEAL = abi.MSR_KVM_STEAL_TIME
GP = Refused(abi.GP_VECTOR, 0)
REGISTERED = A | abi.KVM_MSR_ENABLED
EVERY_PAGE = tuple(Memory(gpa, size) for gpa, size in PAGES)


def version(content: Content) -> int:
    at = abi.KVM_STEAL_TIME_VERSION
    return int.from_bytes(content.data[at : at + 4], "little")


# --- STEAL_TIME: which values are taken, and what is written then ---


@pytest.mark.parametrize("value", [A | 1, A + 0x41, RAM_SIZE - 64 | 1, 1], ids=hex)
def test_area_in_ram_is_accepted_and_updated(judge: Judge, value: int):
    gpa = value & ~1
    wrmsr, rdmsr, _, area = judge.sequence([Wrmsr(STEAL, value), Rdmsr(STEAL), Reenter(), Memory(gpa, 64)])
    assert (wrmsr, rdmsr) == (Done(), Value(value))
    assert version(area) >= 2 and version(area) % 2 == 0
    assert not any(area.data[abi.KVM_STEAL_TIME_FLAGS :])


REFUSED = [A | bits for bits in (3, 5, 9, 0x11, 0x21, 0x3E, 0x3F)] + [0x3E, 2, 0x20, (1 << 64) - 1]


@pytest.mark.parametrize("value", REFUSED, ids=hex)
def test_reserved_bit_raises_gp_and_the_old_registration_lives(judge: Judge, value: int):
    found = judge.sequence(
        [
            Wrmsr(STEAL, REGISTERED),
            Reenter(),
            Memory(A, 64),
            Wrmsr(STEAL, value),
            Rdmsr(STEAL),
            Reenter(),
            Memory(A, 64),
        ]
    )
    assert found[3:5] == [GP, Value(REGISTERED)]
    assert version(found[6]) > version(found[2])


@pytest.mark.parametrize("value", [A, 0x40, 0], ids=hex)
def test_clear_enable_bit_ends_the_updates_at_once(judge: Judge, value: int):
    found = judge.sequence(
        [
            Wrmsr(STEAL, REGISTERED),
            Reenter(),
            Wrmsr(STEAL, value),
            Rdmsr(STEAL),
            Memory(A, 64),
            Reenter(),
            Memory(A, 64),
        ]
    )
    assert found[2:4] == [Done(), Value(value)]
    assert found[6] == found[4]


OUTSIDE = [RAM_SIZE | 1, 0x10000001, 0x10000000200001, 0x8000000000200001, 0xFFFFFFFFFFFFFFC1]


@pytest.mark.parametrize("value", OUTSIDE, ids=hex)
def test_area_outside_ram_is_accepted_and_never_written(judge: Judge, value: int):
    found = judge.sequence([Wrmsr(STEAL, value), Rdmsr(STEAL), Reenter(), *EVERY_PAGE])
    assert found[:2] == [Done(), Value(value)]
    assert not any(any(content.data) for content in found[3:])


@settings(max_examples=80 * EFFORT, deadline=None, derandomize=True, database=None)
@given(value=st.integers(0, (1 << 64) - 1) | st.integers(0, ARENA_SIZE - 1).map(lambda at: A + at))
def test_only_the_reserved_bits_decide(module_judge: Judge, value: int):
    refused = bool(value & abi.KVM_STEAL_RESERVED_MASK)
    found = module_judge.sequence([Wrmsr(STEAL, value), Rdmsr(STEAL)])
    assert found == ([GP, Value(0)] if refused else [Done(), Value(value)])


@pytest.mark.parametrize(("before", "after"), [(0, 2), (1, 4), (0xFFFFFFFD, 0), (0xFFFFFFFF, 2)])
def test_odd_version_is_stepped_over_and_wraps(judge: Judge, before: int, after: int):
    at = A + abi.KVM_STEAL_TIME_VERSION
    found = judge.sequence([Store(at, before, 4), Wrmsr(STEAL, REGISTERED), Reenter(), Memory(A, 64)])
    late = (version(found[3]) - after) % (1 << 32)
    assert late % 2 == 0 and late < 1000  # a reschedule in between brings one update more


def test_flags_and_pad_survive_an_update(judge: Judge):
    stores = [Store(A + at, 0xA5A5A5A5A5A5A5A5, 8) for at in range(16, 64, 8)] + [Store(A + 12, 0xDEADBEEF, 4)]
    found = judge.sequence([*stores, Wrmsr(STEAL, REGISTERED), Reenter(), Memory(A, 64)])[-1]
    assert found.data[12:16] == 0xDEADBEEF.to_bytes(4, "little")
    assert found.data[16] == 0 and set(found.data[17:]) == {0xA5}


# --- The other MSRs ---

INIT_CLEARS = {
    abi.MSR_KVM_STEAL_TIME: REGISTERED,
    abi.MSR_KVM_ASYNC_PF_EN: A + 0x40 | 1,
    abi.MSR_KVM_ASYNC_PF_INT: 0x40,
    abi.MSR_KVM_PV_EOI_EN: A + 0x80 | 1,
    abi.MSR_KVM_SYSTEM_TIME: A + 0xC0 | 1,
    abi.MSR_KVM_SYSTEM_TIME_NEW: A + 0xC0 | 1,
}
INIT_KEEPS = {
    abi.MSR_KVM_WALL_CLOCK: A + 0x100,
    abi.MSR_KVM_WALL_CLOCK_NEW: A + 0x100,
    abi.MSR_KVM_POLL_CONTROL: 0,
    abi.MSR_KVM_MIGRATION_CONTROL: 0,
}
BEGIN_AS_1 = (abi.MSR_KVM_POLL_CONTROL, abi.MSR_KVM_MIGRATION_CONTROL)
ALL = INIT_CLEARS | INIT_KEEPS


@pytest.mark.parametrize(("msr", "value"), ALL.items(), ids=lambda number: hex(number))
def test_init_forgets_what_belongs_to_the_vcpu(judge: Judge, msr: int, value: int):
    found = judge.sequence([Wrmsr(msr, value), Rdmsr(msr), Reset(), Rdmsr(msr), Cpuid(abi.KVM_CPUID_FEATURES)])
    assert found[:2] == [Done(), Value(value)]
    assert found[3] == Value(value if msr in INIT_KEEPS else 0)
    assert type(found[4]) is Leaf and found[4].eax >> abi.KVM_FEATURE_STEAL_TIME & 1


def test_migration_control_is_served_outside_of_kvm(judge: Judge):
    msr = abi.MSR_KVM_MIGRATION_CONTROL
    found = judge.sequence([Wrmsr(msr, 2), Rdmsr(msr), Wrmsr(msr, 0), Wrmsr(msr, 1 << 63), Rdmsr(msr), Rdmsr(msr + 1)])
    assert found == [GP, Value(1), Done(), GP, Value(0), GP]


def test_each_access_to_migration_control_leaves_and_so_brings_an_update(judge: Judge):
    at = Load(A + abi.KVM_STEAL_TIME_VERSION, 4)
    for access in (Rdmsr(abi.MSR_KVM_MIGRATION_CONTROL), Wrmsr(abi.MSR_KVM_MIGRATION_CONTROL, 2)):
        found = judge.sequence([Wrmsr(STEAL, REGISTERED), Reenter(), at, access, at])
        assert found[4].value - found[2].value in range(2, 1000, 2)


def test_migration_control_that_is_not_offered_raises_gp():
    without = [feature for feature in cpuid.FEATURES if feature != abi.KVM_FEATURE_MIGRATION_CONTROL]
    with Judge(cpuid.judge_cpuid(without)) as judge:
        assert judge.sequence([Rdmsr(abi.MSR_KVM_MIGRATION_CONTROL), Wrmsr(abi.MSR_KVM_MIGRATION_CONTROL, 1)]) == [
            GP,
            GP,
        ]


def test_init_ends_the_updates(judge: Judge):
    found = judge.sequence([Wrmsr(STEAL, REGISTERED), Reenter(), Reset(), Memory(A, 64), Reenter(), Memory(A, 64)])
    assert version(found[3]) >= 2 and found[5] == found[3]


def test_save_and_restore_keeps_every_msr(judge: Judge):
    writes = [Wrmsr(msr, value) for msr, value in ALL.items()]
    found = judge.sequence([*writes, SaveRestore(), *(Rdmsr(msr) for msr in ALL)])
    assert found[len(writes) + 1 :] == [Value(value) for value in ALL.values()]


def test_value_that_cannot_be_restored_does_not_hold_up_the_others(judge: Judge):
    refused = Wrmsr(abi.MSR_KVM_ASYNC_PF_EN, RAM_SIZE | 9)  # real KVM has been seen to keep the value all the same
    found = judge.sequence(
        [refused, Wrmsr(abi.MSR_KVM_POLL_CONTROL, 0), SaveRestore(), Rdmsr(abi.MSR_KVM_POLL_CONTROL)]
    )
    assert found[0] == GP and found[3] == Value(0)


def test_wall_clock_is_stored_at_once_and_again_on_restore(judge: Judge):
    found = judge.sequence([Wrmsr(abi.MSR_KVM_WALL_CLOCK, A), Memory(A, 12), SaveRestore(), Memory(A, 12)])
    assert [int.from_bytes(found[at].data[:4], "little") for at in (1, 3)] == [2, 4]


def test_restored_vcpu_publishes_its_whole_run_delay_again(judge: Judge):
    found = judge.sequence([Wrmsr(STEAL, REGISTERED), Reenter(), SaveRestore(), Store(A, 0), Reenter(), Memory(A, 8)])
    steal = int.from_bytes(found[-1].data, "little")
    # last_steal of a new vCPU is 0. The first update may come before the guest has zeroed the field, hence the bound.
    assert steal <= judge.conditions.run_delay_after_ns
    fresh = judge.sequence([SaveRestore(), Wrmsr(STEAL, REGISTERED), Reenter(), Memory(A, 8)])[-1]
    books = judge.conditions
    assert books.run_delay_before_ns <= int.from_bytes(fresh.data, "little") <= books.run_delay_after_ns


def test_sequences_begin_clean(judge: Judge):
    dirty = [*(Wrmsr(msr, value) for msr, value in ALL.items()), Reenter(), Store(0, 1), Store(RAM_SIZE - 8, 1)]
    judge.sequence(dirty)
    found = judge.sequence([*(Rdmsr(msr) for msr in ALL), Reenter(), *EVERY_PAGE])
    assert found[: len(ALL)] == [Value(int(msr in BEGIN_AS_1)) for msr in ALL]
    assert not any(any(content.data) for content in found[len(ALL) + 1 :])


# --- The judge itself ---


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_loads_and_stores_have_their_size(judge: Judge, size: int):
    value = 0x8877665544332211
    found = judge.sequence([Store(A, (1 << 64) - 1), Store(A, value, size), Load(A), Load(A, size)])
    kept = (1 << 64) - (1 << 8 * size) if size < 8 else 0
    low = value % (1 << 8 * size)
    assert found == [Done(), Done(), Value(kept | low), Value(low)]


def test_unmapped_load_and_store_raise_page_faults(judge: Judge):
    found = judge.sequence([Load(RAM_SIZE + abi.LARGE_PAGE_SIZE), Store(RAM_SIZE + abi.LARGE_PAGE_SIZE, 1), Load(A)])
    assert found == [Refused(abi.PF_VECTOR, 0), Refused(abi.PF_VECTOR, 2), Value(0)]


def test_unknown_msr_raises_gp_and_the_sequence_goes_on(judge: Judge):
    unknown = abi.MSR_KVM_WALL_CLOCK_NEW + 0xFF
    assert judge.sequence([Rdmsr(unknown), Wrmsr(unknown, 0), Rdmsr(STEAL)]) == [GP, GP, Value(0)]


def test_cpuid_is_what_was_offered(judge: Judge):
    found = judge.sequence([Cpuid(abi.KVM_CPUID_SIGNATURE), Cpuid(abi.KVM_CPUID_FEATURES)])
    assert found == [
        Leaf(*cpuid.judge_cpuid().query(leaf)) for leaf in (abi.KVM_CPUID_SIGNATURE, abi.KVM_CPUID_FEATURES)
    ]


def test_feature_that_is_not_offered_takes_its_msr_along(kvm: None):
    features = [bit for bit in cpuid.FEATURES if bit != abi.KVM_FEATURE_STEAL_TIME]
    with Judge(cpuid.judge_cpuid(features)) as judge:
        for _ in range(2):  # the second one shows that cleaning does not stop at an MSR that is missing
            found = judge.sequence([Rdmsr(STEAL), Wrmsr(STEAL, 0), Rdmsr(abi.MSR_KVM_POLL_CONTROL)])
            assert found == [GP, GP, Value(1)]
            judge.sequence([Wrmsr(abi.MSR_KVM_POLL_CONTROL, 0)])


def test_longest_sequence_fits(judge: Judge):
    assert judge.sequence([Load(A)] * MAX_OPERATIONS) == [Value(0)] * MAX_OPERATIONS
    with pytest.raises(ValueError, match="at most"):
        judge.sequence([Load(A)] * (MAX_OPERATIONS + 1))


def test_damaged_stub_is_noticed_and_replaced(judge: Judge):
    with pytest.raises(HostError, match="program that executes"):
        judge.sequence([Store(stub.STUB_GPA + stub.IDT_OFFSET - 64, 1)])
    assert judge.sequence([Load(A)]) == [Value(0)] and judge.renewed
    judge.sequence([])
    assert not judge.renewed


def test_guest_that_kills_itself_costs_one_vm(judge: Judge):
    with pytest.raises(HostError):
        judge.sequence([Store(stub.STUB_GPA + stub.IDT_OFFSET + 16 * abi.GP_VECTOR, 0), Wrmsr(STEAL, 2)])
    assert judge.sequence([Wrmsr(STEAL, 2)]) == [GP]


def test_guest_that_never_comes_back_is_called_back(kvm: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("emu.kvm.watchdog.STUCK_SECONDS", 0.1)
    jump_to_itself = int.from_bytes(b"\xeb\xfe", "little")
    routine = stub.ROUTINES["load1"]
    with Judge() as judge:
        with pytest.raises(HostError, match="did not come back"):
            judge.sequence([Store(routine, jump_to_itself, 2), Load(A, 1)])
        assert judge.sequence([Load(A, 1)]) == [Value(0)]


def test_many_migrations_do_not_exhaust_the_vm(judge: Judge):
    for _ in range(30):
        found = judge.sequence([Wrmsr(STEAL, REGISTERED), *[SaveRestore()] * 5, Rdmsr(STEAL)])
        assert found[-1] == Value(REGISTERED)


# --- Steal is run delay ---


@pytest.fixture(scope="module")
def module_judge(kvm: None) -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


@pytest.fixture
def competitor(kvm: None) -> Iterator[None]:
    """A process that computes on the one CPU on which this thread may run, too."""
    before = os.sched_getaffinity(0)
    cpu = min(before)
    busy = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    os.sched_setaffinity(0, {cpu})
    process = subprocess.Popen([sys.executable, "-c", busy])
    try:
        yield
    finally:
        process.kill()
        process.wait()
        os.sched_setaffinity(0, before)


def test_steal_is_the_threads_run_delay_to_the_nanosecond(competitor: None):
    published = exact = waited = 0
    deadline = time.monotonic_ns() + 2_000_000_000
    with Judge() as judge:
        while time.monotonic_ns() < deadline:
            judge.sequence([Wrmsr(STEAL, REGISTERED), Reenter()])
            published += judge.ram.load(A, 8)  # each sequence begins with zero there
            books = judge.conditions
            waited += books.run_delay_after_ns - books.run_delay_before_ns
            # Where the thread lost its CPU in between, the last wait may not be published yet.
            if books.arrivals_before == books.arrivals_after:
                assert published == books.run_delay_after_ns
                exact += 1
            if exact >= 1000 and waited > 100_000_000:
                break
    assert exact >= 100 and waited > 20_000_000
