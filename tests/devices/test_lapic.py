"""The local APIC: what may be written where, when the timer fires, and which vector interrupts."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.lapic import Lapic
from emu.devices.tsc import Tsc
from emu.faults import GuestFault
from tests.effort import EFFORT

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100 * EFFORT, database=None)

APICBASE, DEADLINE = 0x1B, 0x6E0
ID, LVR, TPR, PPR, EOI, LDR, SPIV = 0x802, 0x803, 0x808, 0x80A, 0x80B, 0x80D, 0x80F
ISR, TMR, IRR, ESR, LVTT, LVT0, LVTERR = 0x810, 0x818, 0x820, 0x828, 0x832, 0x835, 0x837
TMICT, TMCCT, TDCR, SELF_IPI = 0x838, 0x839, 0x83E, 0x83F
ENABLED, X2APIC, BSP = 1 << 11, 1 << 10, 1 << 8
MASKED, PERIODIC, TSC_DEADLINE = 1 << 16, 1 << 17, 2 << 17
BY_1 = 0b1011
VECTOR = 0x40
BASE = 0xFEE00000
NS = 1000


class Bench:
    """An APIC with a clock that is set by hand; `ready` takes it to x2APIC mode, software-enabled, dividing by 1."""

    def __init__(self, *, ready: bool = True, apic_id: int = 0) -> None:
        self.ps = 0
        self.tsc = Tsc(lambda: self.ps, 1_000_000)
        self.apic = Lapic(lambda: self.ps, self.tsc, apic_id)
        if ready:
            self.apic.wrmsr(APICBASE, BASE | ENABLED | X2APIC)
            self.apic.wrmsr(SPIV, 0x1FF)
            self.apic.wrmsr(TDCR, BY_1)

    def at(self, ns: int) -> Lapic:
        """The APIC after the machine has served its timer up to `ns`, at the exact time of each expiry."""
        while self.apic.due_ps is not None and self.apic.due_ps <= ns * NS:
            self.ps = max(self.ps, self.apic.due_ps)
            self.apic.tick(self.ps)
        self.ps = ns * NS
        return self.apic

    def refuses(self, access: Callable[..., object], *arguments: int) -> bool:
        try:
            access(*arguments)
        except GuestFault as fault:
            assert (fault.vector, fault.error) == (13, 0)
            return True
        return False

    def registers(self) -> list[int | None]:
        return [None if self.refuses(self.apic.rdmsr, msr) else self.apic.rdmsr(msr) for msr in self.apic.msrs]


# --- modes -----------------------------------------------------------------------------------------------------------


def test_starts_in_xapic_mode_with_the_bsp_flag_on_vcpu_0_alone() -> None:
    assert Bench(ready=False).apic.rdmsr(APICBASE) == BASE | ENABLED | BSP
    assert Bench(ready=False, apic_id=1).apic.rdmsr(APICBASE) == BASE | ENABLED


def test_x2apic_msrs_raise_gp_until_the_mode_is_on() -> None:
    bench = Bench(ready=False)
    others = [msr for msr in bench.apic.msrs if msr not in (APICBASE, DEADLINE)]
    assert all(bench.refuses(bench.apic.rdmsr, msr) and bench.refuses(bench.apic.wrmsr, msr, 0) for msr in others)
    bench.apic.wrmsr(APICBASE, BASE | ENABLED | X2APIC)
    assert bench.apic.rdmsr(ID) == 0


@pytest.mark.parametrize(
    ("path", "legal"),
    [
        ((ENABLED,), True),
        ((ENABLED | X2APIC,), True),
        ((ENABLED | X2APIC, ENABLED | X2APIC), True),
        ((ENABLED | X2APIC, ENABLED), False),
        ((ENABLED | X2APIC, 0), True),
        ((ENABLED | X2APIC, 0, ENABLED, ENABLED | X2APIC), True),
        ((0, ENABLED), True),
        ((0, ENABLED | X2APIC), False),
        ((X2APIC,), False),
        ((0, X2APIC), False),
        ((ENABLED | X2APIC, X2APIC), False),
    ],
)
def test_mode_changes_follow_the_architecture(path: tuple[int, ...], legal: bool) -> None:
    bench = Bench(ready=False)
    *before, last = path
    for mode in before:
        bench.apic.wrmsr(APICBASE, BASE | mode)
    was = bench.apic.rdmsr(APICBASE)
    assert bench.refuses(bench.apic.wrmsr, APICBASE, BASE | last) != legal
    assert bench.apic.rdmsr(APICBASE) == (BASE | last | BSP if legal else was)


@pytest.mark.parametrize("bit", [*range(8), 9, *range(40, 64)])
def test_reserved_apicbase_bit_raises_gp(bit: int) -> None:
    bench = Bench(ready=False)
    assert bench.refuses(bench.apic.wrmsr, APICBASE, BASE | ENABLED | 1 << bit)
    assert bench.apic.rdmsr(APICBASE) == BASE | ENABLED | BSP


def test_disabling_forgets_everything_but_the_id() -> None:
    bench = Bench(apic_id=5)
    bench.apic.accept(VECTOR)
    bench.apic.wrmsr(TPR, 0x20)
    bench.apic.wrmsr(APICBASE, BASE)
    assert bench.apic.pending() is None
    bench.apic.wrmsr(APICBASE, BASE | ENABLED)
    bench.apic.wrmsr(APICBASE, BASE | ENABLED | X2APIC)
    assert (bench.apic.rdmsr(ID), bench.apic.rdmsr(TPR), bench.apic.rdmsr(SPIV)) == (5, 0, 0xFF)


def test_init_keeps_the_mode_and_clears_the_registers() -> None:
    bench = Bench()
    bench.apic.wrmsr(TPR, 0x20)
    bench.apic.accept(VECTOR)
    bench.apic.reset()
    assert (bench.apic.x2apic, bench.apic.rdmsr(TPR), bench.apic.rdmsr(SPIV), bench.apic.irr) == (True, 0, 0xFF, 0)


# --- registers -------------------------------------------------------------------------------------------------------


def test_identity_registers() -> None:
    apic = Bench(apic_id=0x23).apic
    assert (apic.rdmsr(ID), apic.rdmsr(LVR), apic.rdmsr(LDR)) == (0x23, 0x50014, 2 << 16 | 1 << 3)


@pytest.mark.parametrize("msr", [ID, LVR, PPR, LDR, ISR, TMR, IRR + 7, TMCCT])
def test_read_only_register_raises_gp_on_write(msr: int) -> None:
    bench = Bench()
    assert bench.refuses(bench.apic.wrmsr, msr, 0)


@pytest.mark.parametrize("msr", [EOI, SELF_IPI])
def test_write_only_register_raises_gp_on_read(msr: int) -> None:
    bench = Bench()
    assert bench.refuses(bench.apic.rdmsr, msr)


@pytest.mark.parametrize("msr", [0x800, 0x804, 0x809, 0x80E, 0x82F, 0x831, 0x83A, 0x8FF])
def test_register_that_does_not_exist_raises_gp(msr: int) -> None:
    bench = Bench()
    assert msr not in bench.apic.msrs
    assert bench.refuses(bench.apic.rdmsr, msr) and bench.refuses(bench.apic.wrmsr, msr, 0)


@pytest.mark.parametrize(
    ("msr", "value"),
    [
        (TPR, 0x100),
        (EOI, 1),
        (SPIV, 1 << 12),
        (ESR, 1),
        (LVTT, VECTOR | 1 << 8),
        (LVTT, VECTOR | 3 << 17),
        (LVTT, VECTOR | 1 << 19),
        (LVT0, 1 << 17),
        (LVTERR, 1 << 8),
        (TMICT, 1 << 32),
        (TDCR, 1 << 2),
        (TDCR, 1 << 4),
        (SELF_IPI, 0x100),
        *((msr, 1 << 32) for msr in (TPR, EOI, SPIV, ESR, LVTT, LVT0, LVTERR, TDCR, SELF_IPI)),
    ],
)
def test_reserved_bit_raises_gp_and_changes_nothing(msr: int, value: int) -> None:
    bench = Bench()
    bench.apic.accept(VECTOR)
    bench.apic.acknowledge()
    before = bench.registers()
    assert bench.refuses(bench.apic.wrmsr, msr, value)
    assert bench.registers() == before


@pytest.mark.parametrize(("msr", "value"), [(TPR, 0x2F), (SPIV, 0x3FF), (LVT0, 0x1A7FF), (LVTERR, 0xFE), (TDCR, 3)])
def test_writable_register_reads_back(msr: int, value: int) -> None:
    apic = Bench().apic
    apic.wrmsr(msr, value & ~(1 << 12 | 1 << 14))
    assert apic.rdmsr(msr) == value & ~(1 << 12 | 1 << 14)


def test_status_bits_of_an_lvt_are_written_back_without_effect() -> None:
    apic = Bench().apic
    apic.wrmsr(LVT0, VECTOR | 1 << 12 | 1 << 14)
    assert apic.rdmsr(LVT0) == VECTOR


# --- the timer -------------------------------------------------------------------------------------------------------


def test_one_shot_fires_once_when_the_count_has_run_out() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR)
    bench.apic.wrmsr(TMICT, 100)
    assert bench.apic.due_ps == 100 * NS
    assert bench.at(99).pending() is None
    assert bench.at(100).pending() == VECTOR
    bench.apic.acknowledge()
    bench.apic.wrmsr(EOI, 0)
    later = bench.at(10**6)
    assert (later.due_ps, later.pending()) == (None, None)


def test_current_count_tells_what_remains() -> None:
    bench = Bench()
    bench.apic.wrmsr(TMICT, 100)
    readings = [bench.at(ns).rdmsr(TMCCT) for ns in (0, 1, 99, 100, 1000)]
    assert readings == [100, 99, 1, 0, 0]
    bench.ps += 999
    bench.apic.wrmsr(TMICT, 5)
    bench.ps += 999
    assert bench.apic.rdmsr(TMCCT) == 5
    assert bench.apic.rdmsr(TMICT) == 5


@pytest.mark.parametrize(("bits", "divider"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
def test_divide_configuration_slows_the_count(bits: int, divider: int) -> None:
    bench = Bench()
    bench.apic.wrmsr(TDCR, bits)
    bench.apic.wrmsr(LVTT, VECTOR)
    bench.apic.wrmsr(TMICT, 10)
    assert bench.apic.due_ps == 10 * divider * NS


def test_changed_divider_goes_on_with_the_present_count() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR)
    bench.apic.wrmsr(TMICT, 100)
    bench.at(60).wrmsr(TDCR, 0)
    assert bench.apic.rdmsr(TMCCT) == 40
    assert bench.apic.due_ps == (60 + 80) * NS


def test_periodic_fires_every_period_without_drift() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | PERIODIC)
    bench.apic.wrmsr(TMICT, 100)
    fired = []
    for ns in range(0, 1000, 7):
        if bench.at(ns).pending() is not None:
            bench.apic.acknowledge()
            bench.apic.wrmsr(EOI, 0)
            fired.append(ns)
    assert fired == [-(-due // 7) * 7 for due in range(100, 1000, 100)]


def test_periods_that_passed_while_requested_are_one_interrupt() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | PERIODIC)
    bench.apic.wrmsr(TMICT, 1)
    bench.at(1)
    assert bench.apic.due_ps is None, "another expiry would change nothing"
    bench.at(10**9)
    assert bench.apic.acknowledge() == VECTOR
    bench.apic.wrmsr(EOI, 0)
    assert bench.apic.pending() is None
    assert bench.apic.due_ps == (10**9 + 1) * NS


def test_changed_divider_does_not_start_a_stopped_timer() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR)
    bench.apic.wrmsr(TDCR, 0)
    assert (bench.apic.due_ps, bench.apic.pending()) == (None, None)


@pytest.mark.parametrize(("mode", "arm"), [(0, TMICT), (PERIODIC, TMICT), (TSC_DEADLINE, DEADLINE)])
def test_new_vector_in_the_same_mode_leaves_the_timer_armed(mode: int, arm: int) -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | mode)
    bench.apic.wrmsr(arm, 500)
    bench.at(100).wrmsr(LVTT, 0x60 | mode)
    assert bench.apic.due_ps == 500 * NS
    assert bench.at(500).pending() == 0x60


def test_zero_count_stops_the_timer() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR)
    bench.apic.wrmsr(TMICT, 100)
    bench.apic.wrmsr(TMICT, 0)
    assert bench.apic.due_ps is None and bench.at(200).pending() is None


def test_masked_timer_counts_and_does_not_interrupt() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | MASKED)
    bench.apic.wrmsr(TMICT, 100)
    assert bench.apic.due_ps is None
    assert bench.at(50).rdmsr(TMCCT) == 50
    bench.at(200).wrmsr(LVTT, VECTOR)
    assert bench.apic.pending() is None, "what expired under the mask is gone"


def test_masked_periodic_timer_goes_round() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | PERIODIC | MASKED)
    bench.apic.wrmsr(TMICT, 100)
    assert [bench.at(ns).rdmsr(TMCCT) for ns in (30, 100, 130, 1070)] == [70, 100, 70, 30]


def test_masked_deadline_reads_zero_once_it_has_passed() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | TSC_DEADLINE | MASKED)
    bench.apic.wrmsr(DEADLINE, 500)
    assert [bench.at(ns).rdmsr(DEADLINE) for ns in (499, 500)] == [500, 0]


def test_unmasked_in_time_the_timer_interrupts() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | MASKED)
    bench.apic.wrmsr(TMICT, 100)
    bench.at(50).wrmsr(LVTT, VECTOR)
    assert bench.apic.due_ps == 100 * NS


def test_tsc_deadline_fires_when_the_tsc_gets_there_and_then_reads_zero() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | TSC_DEADLINE)
    bench.apic.wrmsr(DEADLINE, 500)
    assert (bench.apic.rdmsr(DEADLINE), bench.apic.due_ps) == (500, 500 * NS)
    assert bench.at(499).pending() is None
    assert bench.at(500).pending() == VECTOR
    assert bench.apic.rdmsr(DEADLINE) == 0


def test_deadline_in_the_past_fires_at_once() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | TSC_DEADLINE)
    bench.at(100).wrmsr(DEADLINE, 100)
    assert bench.apic.pending() == VECTOR


def test_deadline_zero_disarms() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | TSC_DEADLINE)
    bench.apic.wrmsr(DEADLINE, 500)
    bench.apic.wrmsr(DEADLINE, 0)
    assert bench.apic.due_ps is None and bench.at(600).pending() is None


def test_deadline_follows_a_tsc_that_the_guest_sets() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | TSC_DEADLINE)
    bench.apic.wrmsr(DEADLINE, 500)
    bench.at(100)
    bench.tsc.wrmsr(0x10, 450)
    assert bench.apic.due_ps == 150 * NS


def test_deadline_is_ignored_and_reads_zero_in_other_modes() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR)
    bench.apic.wrmsr(DEADLINE, 500)
    assert (bench.apic.rdmsr(DEADLINE), bench.apic.due_ps) == (0, None)


def test_counts_are_ignored_and_read_zero_in_deadline_mode() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | TSC_DEADLINE)
    bench.apic.wrmsr(TMICT, 500)
    assert (bench.apic.rdmsr(TMICT), bench.apic.rdmsr(TMCCT), bench.apic.due_ps) == (0, 0, None)


@pytest.mark.parametrize("count_mode", [0, PERIODIC])
def test_change_to_or_from_deadline_mode_disarms(count_mode: int) -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR | count_mode)
    bench.apic.wrmsr(TMICT, 100)
    bench.apic.wrmsr(LVTT, VECTOR | TSC_DEADLINE)
    assert bench.apic.due_ps is None
    bench.apic.wrmsr(DEADLINE, 500)
    bench.apic.wrmsr(LVTT, VECTOR | count_mode)
    assert bench.apic.rdmsr(TMICT) == 0
    assert bench.apic.due_ps is None
    bench.apic.wrmsr(LVTT, VECTOR | TSC_DEADLINE)
    assert bench.apic.rdmsr(DEADLINE) == 0


# --- vectors ---------------------------------------------------------------------------------------------------------


def test_acknowledged_vector_is_in_service_until_eoi() -> None:
    apic = Bench().apic
    apic.accept(VECTOR)
    assert apic.rdmsr(IRR + 2) == 1
    assert apic.acknowledge() == VECTOR
    assert (apic.rdmsr(IRR + 2), apic.rdmsr(ISR + 2), apic.rdmsr(PPR)) == (0, 1, VECTOR)
    apic.wrmsr(EOI, 0)
    assert (apic.rdmsr(ISR + 2), apic.rdmsr(PPR)) == (0, 0)


def test_same_class_waits_for_eoi_and_higher_class_interrupts() -> None:
    apic = Bench().apic
    apic.accept(0x41)
    apic.acknowledge()
    apic.accept(0x4F)
    assert apic.pending() is None
    apic.accept(0x50)
    assert apic.acknowledge() == 0x50
    apic.wrmsr(EOI, 0)
    assert apic.pending() is None
    apic.wrmsr(EOI, 0)
    assert apic.pending() == 0x4F


@pytest.mark.parametrize(("tpr", "ppr"), [(0x3F, 0x40), (0x45, 0x45), (0x50, 0x50)])
def test_processor_priority_is_the_higher_of_task_and_service(tpr: int, ppr: int) -> None:
    apic = Bench().apic
    apic.accept(0x4A)
    apic.acknowledge()
    apic.wrmsr(TPR, tpr)
    assert apic.rdmsr(PPR) == ppr


def test_task_priority_holds_its_own_class_and_below() -> None:
    apic = Bench().apic
    apic.accept(0x4F)
    apic.wrmsr(TPR, 0x40)
    assert apic.pending() is None
    apic.wrmsr(TPR, 0x3F)
    assert apic.pending() == 0x4F


def test_acknowledging_nothing_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no interrupt"):
        Bench().apic.acknowledge()


def test_eoi_without_interrupt_in_service_does_nothing() -> None:
    apic = Bench().apic
    apic.wrmsr(EOI, 0)
    assert apic.isr == 0


@pytest.mark.parametrize("vector", [16, VECTOR, 255])
def test_self_ipi_requests_its_vector(vector: int) -> None:
    apic = Bench().apic
    apic.wrmsr(SELF_IPI, vector)
    assert apic.pending() == vector
    apic.wrmsr(ESR, 0)
    assert apic.rdmsr(ESR) == 0


def test_software_disabled_apic_masks_its_lvts_and_accepts_nothing() -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTT, VECTOR)
    bench.apic.wrmsr(TMICT, 100)
    bench.apic.wrmsr(SPIV, 0xFF)
    assert bench.apic.rdmsr(LVTT) == VECTOR | MASKED
    bench.apic.wrmsr(LVTT, VECTOR)
    assert bench.apic.rdmsr(LVTT) == VECTOR | MASKED
    bench.apic.wrmsr(SELF_IPI, VECTOR)
    assert bench.at(200).pending() is None
    bench.apic.wrmsr(SPIV, 0x1FF)
    assert bench.apic.rdmsr(LVTT) == VECTOR | MASKED, "unmasking is the guest's to do"


@pytest.mark.parametrize("vector", [0, 15])
def test_vector_below_16_is_an_error_and_never_requested(vector: int) -> None:
    bench = Bench()
    bench.apic.wrmsr(LVTERR, 0xFE)
    bench.apic.wrmsr(LVTT, vector)
    bench.apic.wrmsr(TMICT, 1)
    assert bench.at(1).pending() == 0xFE
    assert bench.apic.irr == 1 << 0xFE
    assert bench.apic.rdmsr(ESR) == 0, "errors show after a write"
    bench.apic.wrmsr(ESR, 0)
    assert bench.apic.rdmsr(ESR) == 1 << 6
    bench.apic.wrmsr(ESR, 0)
    assert bench.apic.rdmsr(ESR) == 0


def test_illegal_self_ipi_is_an_error_of_sender_and_receiver() -> None:
    apic = Bench().apic
    apic.wrmsr(LVTERR, 3)
    apic.wrmsr(SELF_IPI, 15)
    apic.wrmsr(ESR, 0)
    assert (apic.rdmsr(ESR), apic.irr) == (1 << 5 | 1 << 6, 0)


# --- properties ------------------------------------------------------------------------------------------------------


@EXAMPLES
@given(st.sets(st.integers(16, 255), min_size=1), st.integers(0, 255))
def test_vectors_are_served_highest_first_and_only_above_the_task_priority(vectors: set[int], tpr: int) -> None:
    apic = Bench().apic
    apic.wrmsr(TPR, tpr)
    for vector in vectors:
        apic.accept(vector)
    served = []
    while apic.pending() is not None:
        served.append(apic.acknowledge())
        apic.wrmsr(EOI, 0)
    assert served == sorted((vector for vector in vectors if vector >> 4 > tpr >> 4), reverse=True)
    assert apic.isr == 0


WRITES = st.tuples(
    st.sampled_from([TPR, EOI, SPIV, ESR, LVTT, LVT0, LVTERR, TMICT, TDCR, SELF_IPI, DEADLINE, APICBASE, ID, 0x830]),
    st.one_of(
        st.integers(0, 2**20), st.sampled_from([0, 0x1FF, VECTOR, VECTOR | PERIODIC, VECTOR | TSC_DEADLINE, 2**63])
    ),
    st.integers(0, 5000),
)


@EXAMPLES
@given(st.lists(WRITES, max_size=30))
def test_no_guest_write_breaks_the_apic(writes: list[tuple[int, int, int]]) -> None:
    bench = Bench()
    apic = bench.apic
    for msr, value, ns in writes:
        bench.ps += ns * NS
        before = bench.registers()
        if bench.refuses(apic.wrmsr, msr, value):
            assert bench.registers() == before
        assert 0 <= apic.irr < 2**256 and apic.irr % 2**16 == 0
        due = apic.due_ps
        if due is not None:
            bench.ps = max(bench.ps, due)
            apic.tick(bench.ps)
            later = apic.due_ps
            assert later is None or later > bench.ps, "a served timer is due later or not at all"
        if apic.pending() is not None:
            assert apic.acknowledge() > 15
