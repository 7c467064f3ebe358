"""The local APIC's window in memory: the registers of the MSRs, and a guest that errs is ignored, never refused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.lapic import Lapic
from emu.devices.tsc import Tsc
from tests.effort import EFFORT

from .promises import Promise, Promises

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100 * EFFORT, database=None)
BASE, ENABLED, X2APIC, APICBASE = 0xFEE00000, 1 << 11, 1 << 10, 0x1B
ID, LVR, TPR, APR, PPR, EOI, LDR, DFR, SPIV = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR2, LVTT, LVT0, LVTERR = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310, 0x320, 0x350, 0x370
TMICT, TMCCT, TDCR, SELF_IPI = 0x380, 0x390, 0x3E0, 0x3F0
READABLE = (ID, LVR, TPR, APR, PPR, LDR, DFR, SPIV, ESR, ICR, ICR2, LVTT, LVT0, LVTERR, TMICT, TMCCT, TDCR)
ILLEGAL = (0x00, 0x10, 0x40, 0x70, 0xC0, 0x290, 0x2F0, 0x3A0, 0x3F0, 0x400, 0xFF0)
NS = 1000

promises = Promises()


class Bench:
    def __init__(self, lapic: Any = Lapic, *, enabled: bool = True, apic_id: int = 0) -> None:
        self.ps = 0
        self.apic = lapic(lambda: self.ps, Tsc(lambda: self.ps, 1_000_000), apic_id)
        if enabled:
            self.write(SPIV, 0x1FF)

    def read(self, offset: int, size: int = 4) -> int:
        value: int = self.apic.mmio_read(offset, size)
        return value

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.apic.mmio_write(offset, size, value)

    def errors(self) -> int:
        self.write(ESR, 0)
        return self.read(ESR)


@promises.add
def registers_after_reset(lapic: Any) -> None:
    bench = Bench(lapic, enabled=False, apic_id=3)
    expected = {ID: 3 << 24, LVR: 0x50014, DFR: 0xFFFFFFFF, SPIV: 0xFF, LVTT: 1 << 16, LVT0: 1 << 16, LVTERR: 1 << 16}
    assert {offset: bench.read(offset) for offset in READABLE} == {
        offset: expected.get(offset, 0) for offset in READABLE
    }
    assert bench.errors() == 0


@promises.add
def window_is_there_in_xapic_mode_alone_and_moves(lapic: Any) -> None:
    apic = Bench(lapic).apic
    assert apic.window_gpa == BASE
    apic.wrmsr(APICBASE, 0x12345000 | ENABLED)
    assert apic.window_gpa == 0x12345000
    apic.wrmsr(APICBASE, BASE | ENABLED | X2APIC)
    assert apic.window_gpa is None
    apic.wrmsr(APICBASE, BASE)
    assert apic.window_gpa is None


@promises.add
def bits_that_are_not_there_are_ignored(lapic: Any) -> None:
    bench = Bench(lapic, apic_id=1)
    kept = {
        ID: 0xFF000000,
        TPR: 0xFF,
        LDR: 0xFF000000,
        SPIV: 0x3FF,
        LVT0: 0x1A7FF,
        LVTERR: 0x100FF,
        TMICT: 0xFFFFFFFF,
        TDCR: 0xB,
        ICR2: 0xFF000000,
    }
    for offset, bits in kept.items():
        bench.write(offset, 0xFFFFFFFF)
        assert bench.read(offset) == bits, hex(offset)
    assert bench.errors() == 0


@promises.add
def model_is_all_that_can_be_chosen_in_the_dfr(lapic: Any) -> None:
    bench = Bench(lapic)
    for written, read in ((0, 0x0FFFFFFF), (0xF0000000, 0xFFFFFFFF), (0x70000001, 0x7FFFFFFF)):
        bench.write(DFR, written)
        assert bench.read(DFR) == read


@promises.add
def only_32_bit_stores_at_a_register_count(lapic: Any) -> None:
    bench = Bench(lapic)
    for offset, size in ((TPR, 1), (TPR, 2), (TPR, 8), (TPR + 1, 4), (TPR + 4, 4), (TPR + 8, 4)):
        bench.write(offset, 0x20, size)
        assert bench.read(TPR) == 0, (offset, size)
    bench.write(TPR, 0x20)
    assert bench.read(TPR) == 0x20


@promises.add
def loads_find_the_bytes_of_a_register_and_zero_beyond(lapic: Any) -> None:
    bench = Bench(lapic)
    assert [bench.read(LVR + at, 1) for at in range(6)] == [0x14, 0x00, 0x05, 0x00, 0, 0]
    assert (bench.read(LVR, 2), bench.read(LVR + 2, 2), bench.read(LVR + 3, 2), bench.read(LVR, 8)) == (0x14, 5, 0, 0)
    assert bench.errors() == 0


@promises.add
def register_that_does_not_exist_is_an_error_to_be_asked_for(lapic: Any) -> None:
    for offset in ILLEGAL:
        bench = Bench(lapic)
        assert bench.read(offset) == 0, hex(offset)
        assert bench.errors() == 1 << 7, hex(offset)
        bench.write(offset, 0x40)
        assert bench.errors() == 1 << 7, hex(offset)
        assert bench.apic.irr == 0, "there is no self-IPI register in this mode"


@promises.add
def eoi_takes_any_value_and_ends_the_highest(lapic: Any) -> None:
    bench = Bench(lapic)
    for vector in (0x41, 0x61):
        bench.apic.accept(vector)
        bench.apic.acknowledge()
    assert (bench.read(ISR + 0x20), bench.read(ISR + 0x30), bench.read(PPR)) == (2, 2, 0x60)
    bench.write(EOI, 0xFFFFFFFF)
    assert (bench.read(ISR + 0x20), bench.read(ISR + 0x30), bench.read(PPR)) == (2, 0, 0x40)
    assert bench.read(TMR) == 0 and bench.read(IRR) == 0


@promises.add
def timer_runs_by_the_window_too(lapic: Any) -> None:
    bench = Bench(lapic)
    bench.write(TDCR, 0xB)
    bench.write(LVTT, 0x40 | 1 << 17)
    bench.write(TMICT, 100)
    bench.ps = 30 * NS
    assert bench.read(TMCCT) == 70 and bench.apic.due_ps == 100 * NS
    bench.ps = 100 * NS
    assert bench.read(IRR + 0x20) == 1


@promises.add
def reserved_timer_mode_is_one_shot(lapic: Any) -> None:
    bench = Bench(lapic)
    bench.write(LVTT, 0x40 | 3 << 17)
    assert bench.read(LVTT) == 0x40


@promises.add
def software_disabled_apic_keeps_its_lvts_masked(lapic: Any) -> None:
    bench = Bench(lapic, enabled=False)
    bench.write(LVTT, 0x40)
    assert bench.read(LVTT) == 0x40 | 1 << 16


@promises.add
def command_register_keeps_its_halves_and_loses_the_busy_bit(lapic: Any) -> None:
    bench = Bench(lapic)
    bench.write(ICR2, 0x5A << 24)
    assert bench.apic.take_ipis() == (), "the lower half sends"
    bench.write(ICR, 1 << 12 | 0x4040)
    assert (bench.read(ICR), bench.read(ICR2)) == (0x4040, 0x5A << 24)
    (message,) = bench.apic.take_ipis()
    assert (message.destination, message.vector, message.source) == (0x5A, 0x40, 0)


@promises.add
def init_keeps_the_id_and_forgets_the_rest(lapic: Any) -> None:
    bench = Bench(lapic)
    for offset, value in ((ID, 7 << 24), (LDR, 1 << 24), (DFR, 0), (ICR2, 1 << 24), (TPR, 0x30)):
        bench.write(offset, value)
    bench.apic.reset()
    assert [bench.read(offset) for offset in (ID, LDR, DFR, ICR2, TPR)] == [7 << 24, 0, 0xFFFFFFFF, 0, 0]


@promises.add
def modes_share_no_identity(lapic: Any) -> None:
    bench = Bench(lapic, apic_id=0x123)
    assert bench.read(ID) == 0x23 << 24, "an xAPIC has 8 bits for it"
    bench.write(ICR2, 7 << 24)
    bench.apic.wrmsr(APICBASE, BASE | ENABLED | X2APIC)
    assert (bench.apic.rdmsr(0x802), bench.apic.rdmsr(0x80D), bench.apic.rdmsr(0x830)) == (0x123, 0x12 << 16 | 8, 0)
    bench.apic.wrmsr(APICBASE, BASE)
    bench.apic.wrmsr(APICBASE, BASE | ENABLED)
    assert (bench.read(ID), bench.read(LDR)) == (0x23 << 24, 0)


@promises.add
def spurious_vector_is_the_low_byte_of_its_register(lapic: Any) -> None:
    bench = Bench(lapic)
    bench.write(SPIV, 0x1EF)
    assert bench.apic.spurious_vector == 0xEF and bench.apic.software_enabled


@pytest.mark.parametrize("promise", promises.values(), ids=promises)
def test_promise(promise: Promise) -> None:
    promise(Lapic)


class StoresOfAnySize(Lapic):
    def mmio_write(self, offset: int, size: int, value: int) -> None:
        super().mmio_write(offset, 4, value)


class LoadsWholeRegister(Lapic):
    def mmio_read(self, offset: int, size: int) -> int:
        return super().mmio_read(offset & ~15, 4)


class ErrorsForgotten(Lapic):
    def _raise_error(self, error: int) -> None:
        pass


class WindowAlways(Lapic):
    @property
    def window_gpa(self) -> int | None:
        return self._base & ~0xFFF


class HighHalfSends(Lapic):
    def mmio_write(self, offset: int, size: int, value: int) -> None:
        super().mmio_write(offset, size, value)
        if offset == ICR2:
            super().mmio_write(ICR, 4, super().mmio_read(ICR, 4))


class InitForgetsTheId(Lapic):
    def reset(self) -> None:
        super().reset()
        self._address.enable()


class ModeKeepsTheDestination(Lapic):
    def _write_base(self, value: int) -> None:
        icr = self._icr
        super()._write_base(value)
        self._icr = icr


class EoiEndsTheLowest(Lapic):
    def eoi(self) -> None:
        self.isr &= self.isr - 1


SLIPS: dict[Any, str] = {
    StoresOfAnySize: "only_32_bit_stores_at_a_register_count",
    LoadsWholeRegister: "loads_find_the_bytes_of_a_register_and_zero_beyond",
    ErrorsForgotten: "register_that_does_not_exist_is_an_error_to_be_asked_for",
    WindowAlways: "window_is_there_in_xapic_mode_alone_and_moves",
    HighHalfSends: "command_register_keeps_its_halves_and_loses_the_busy_bit",
    InitForgetsTheId: "init_keeps_the_id_and_forgets_the_rest",
    ModeKeepsTheDestination: "modes_share_no_identity",
    EoiEndsTheLowest: "eoi_takes_any_value_and_ends_the_highest",
}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: Any) -> None:
    assert SLIPS[slip] in promises.violations(slip)


ACCESS = st.tuples(
    st.one_of(st.sampled_from([*READABLE, *ILLEGAL, EOI, SELF_IPI, TMR]), st.integers(0, 0xFFF)),
    st.sampled_from([1, 2, 4, 4, 4, 8]),
    st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0x1FF, 0x40, 0x20040, 0x60040, 0])),
    st.booleans(),
)


@EXAMPLES
@given(st.lists(ACCESS, max_size=40))
def test_no_access_of_a_guest_breaks_the_apic(accesses: list[tuple[int, int, int, bool]]) -> None:
    bench = Bench()
    for offset, size, value, store in accesses:
        bench.ps += 700
        if store:
            bench.write(offset, value % (1 << 8 * size), size)
        else:
            assert 0 <= bench.read(offset, size) < 1 << 8 * size
        assert 0 <= bench.apic.irr < 2**256 and bench.apic.irr % 2**16 == 0
        bench.apic.take_ipis()
        if bench.apic.pending() is not None:
            assert bench.apic.acknowledge() > 15
