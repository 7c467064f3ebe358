"""Messages between local APICs: whom a destination means, what arrives, and how one vCPU starts another."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.ipi import Ipi, route
from emu.devices.lapic import Lapic
from emu.devices.startup import Init, Sipi, Startup
from emu.devices.tsc import Tsc
from tests.effort import EFFORT

from .promises import Promise, Promises

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100 * EFFORT, database=None)
ENABLED, X2APIC, BASE = 1 << 11, 1 << 10, 0xFEE00000
APICBASE, SPIV, EOI, TPR, ICR, SELF_IPI, ESR, IRR = 0x1B, 0x80F, 0x80B, 0x808, 0x830, 0x83F, 0x828, 0x820
FIXED, LOWEST, SMI, NMI, INIT, STARTUP, EXTINT = 0, 1 << 8, 2 << 8, 4 << 8, 5 << 8, 6 << 8, 7 << 8
LOGICAL, ASSERT, LEVEL = 1 << 11, 1 << 14, 1 << 15
SELF, ALL, OTHERS = 1 << 18, 2 << 18, 3 << 18
BROADCAST = 0xFFFFFFFF
MMIO_ID, MMIO_LDR, MMIO_DFR, MMIO_ICR, MMIO_ICR2, MMIO_SPIV = 0x20, 0xD0, 0xE0, 0x300, 0x310, 0xF0

promises = Promises()


class Board:
    """Several APICs and the machine's part in carrying messages; `x2apic` says in which mode they all are."""

    def __init__(self, lapic: Any = Lapic, count: int = 4, *, x2apic: bool = True, waiting: bool = False) -> None:
        tsc = Tsc(lambda: 0, 1_000_000)
        self.apics = [lapic(lambda: 0, tsc, n, waiting=waiting and n > 0) for n in range(count)]
        for apic in self.apics:
            if x2apic:
                apic.wrmsr(APICBASE, BASE | ENABLED | X2APIC)
                apic.wrmsr(SPIV, 0x1FF)
            else:
                apic.mmio_write(MMIO_SPIV, 4, 0x1FF)

    def carry(self) -> None:
        for sender in self.apics:
            for message in sender.take_ipis():
                for target in route(message, self.apics):
                    target.receive(message)

    def send(self, icr: int, destination: int = 0, source: int = 0) -> list[int]:
        """Write the x2APIC ICR; the vCPUs that then have the vector requested."""
        self.apics[source].wrmsr(ICR, destination << 32 | icr)
        return self.took(icr & 0xFF)

    def post(self, icr: int, destination: int = 0, source: int = 0) -> list[int]:
        """The same through an xAPIC's window."""
        self.apics[source].mmio_write(MMIO_ICR2, 4, destination << 24)
        self.apics[source].mmio_write(MMIO_ICR, 4, icr)
        return self.took(icr & 0xFF)

    def took(self, vector: int) -> list[int]:
        self.carry()
        took = [n for n, apic in enumerate(self.apics) if apic.irr >> vector & 1]
        for apic in self.apics:
            apic.irr = 0
        return took


@promises.add
def physical_destination_is_one_apic_or_all(lapic: Any) -> None:
    board = Board(lapic)
    assert [board.send(0x40, destination) for destination in (0, 1, 3, 4, 255)] == [[0], [1], [3], [], []]
    assert board.send(0x40, BROADCAST) == [0, 1, 2, 3]
    board = Board(lapic, x2apic=False)
    assert [board.post(0x40, destination) for destination in (0, 1, 3, 4)] == [[0], [1], [3], []]
    assert board.post(0x40, 255) == [0, 1, 2, 3]


@promises.add
def shorthands_name_self_all_and_the_others(lapic: Any) -> None:
    for x2apic in (True, False):
        board = Board(lapic, x2apic=x2apic)
        send = board.send if x2apic else board.post
        assert [send(0x40 | shorthand, 2, 1) for shorthand in (SELF, ALL, OTHERS)] == [[1], [0, 1, 2, 3], [0, 2, 3]]


@promises.add
def x2apic_clusters_have_16_members(lapic: Any) -> None:
    board = Board(lapic, 34)
    assert board.send(0x40 | LOGICAL, 0b101) == [0, 2]
    assert board.send(0x40 | LOGICAL, 1 << 16 | 0x8001) == [16, 31]
    assert board.send(0x40 | LOGICAL, 2 << 16 | 0xFFFF) == [32, 33]
    assert board.send(0x40 | LOGICAL, 3 << 16 | 0xFFFF) == board.send(0x40 | LOGICAL, 1 << 16) == []
    assert board.send(0x40 | LOGICAL, BROADCAST) == list(range(34))


@promises.add
def flat_model_has_one_bit_for_each_of_8(lapic: Any) -> None:
    board = Board(lapic, x2apic=False)
    for n, apic in enumerate(board.apics):
        apic.mmio_write(MMIO_LDR, 4, 1 << 24 + n)
    assert [board.post(0x40 | LOGICAL, mask) for mask in (1, 0b1010, 0, 0x70)] == [[0], [1, 3], [], []]


@promises.add
def cluster_model_has_a_number_and_4_bits(lapic: Any) -> None:
    board = Board(lapic, x2apic=False)
    for n, apic in enumerate(board.apics):
        apic.mmio_write(MMIO_DFR, 4, 0)
        apic.mmio_write(MMIO_LDR, 4, (n // 2 << 4 | 1 << n % 2) << 24)
    assert [board.post(0x40 | LOGICAL, mask) for mask in (0x01, 0x03, 0x12, 0x13, 0x20)] == [
        [0],
        [0, 1],
        [3],
        [2, 3],
        [],
    ]
    for apic in board.apics:
        apic.mmio_write(MMIO_DFR, 4, 0x70000000)
    assert board.post(0x40 | LOGICAL, 0x03) == [], "a model that is not there matches nobody"


@promises.add
def xapic_answers_to_the_id_that_the_guest_gave_it(lapic: Any) -> None:
    board = Board(lapic, x2apic=False)
    board.apics[2].mmio_write(MMIO_ID, 4, 0x55 << 24 | 0xFFFFFF)
    assert board.apics[2].mmio_read(MMIO_ID, 4) == 0x55 << 24
    assert [board.post(0x40, destination) for destination in (2, 0x55)] == [[], [2]]
    board.apics[2].wrmsr(APICBASE, BASE | ENABLED | X2APIC)
    assert board.apics[2].rdmsr(0x802) == 2


@promises.add
def lowest_priority_goes_to_one_enabled_apic_chosen_by_vector(lapic: Any) -> None:
    board = Board(lapic)
    assert [board.send(vector | LOWEST | LOGICAL, 0b1110) for vector in (0x30, 0x31, 0x32)] == [[1], [2], [3]]
    board.apics[2].wrmsr(SPIV, 0xFF)
    assert [board.send(vector | LOWEST | LOGICAL, 0b1110) for vector in (0x30, 0x31, 0x32)] == [[1], [3], [1]]
    assert board.send(0x30 | LOWEST, 2) == []


@promises.add
def software_disabled_apic_takes_no_vector_but_nmi_and_init(lapic: Any) -> None:
    board = Board(lapic, 2)
    board.apics[1].wrmsr(SPIV, 0xFF)
    assert board.send(0x40, 1) == []
    board.send(NMI, 1)
    board.send(INIT | ASSERT, 1)
    assert board.apics[1].nmi and board.apics[1].startup.pending
    board.apics[1].wrmsr(APICBASE, BASE)
    assert not board.apics[1].addressed(Ipi(0, NMI, 0, 1)), "switched off it hears nothing"


@promises.add
def level_that_goes_away_is_no_interrupt_and_no_init(lapic: Any) -> None:
    board = Board(lapic, 2)
    assert board.send(0x40 | LEVEL, 1) == []
    board.send(INIT | LEVEL, 1)
    assert not board.apics[1].startup.pending
    assert board.send(0x40 | LEVEL | ASSERT, 1) == [1]


@promises.add
def smi_and_extint_do_nothing(lapic: Any) -> None:
    board = Board(lapic, 2)
    for mode in (SMI, EXTINT):
        assert board.send(0x40 | mode, 1) == []
    assert not board.apics[1].nmi and not board.apics[1].startup.pending


@promises.add
def illegal_vector_is_an_error_at_both_ends(lapic: Any) -> None:
    board = Board(lapic, 2)
    assert board.send(15, 1) == []
    for apic, error in zip(board.apics, (1 << 5, 1 << 6), strict=True):
        apic.wrmsr(ESR, 0)
        assert apic.rdmsr(ESR) == error


@promises.add
def icr_reads_back_without_its_busy_bit_and_refuses_reserved_ones(lapic: Any) -> None:
    apic = Board(lapic, 2).apics[0]
    apic.wrmsr(ICR, 1 << 32 | 1 << 12 | 0x4040)
    assert apic.rdmsr(ICR) == 1 << 32 | 0x4040
    for bit in (13, 16, 17, *range(20, 32)):
        apic.take_ipis()
        try:
            apic.wrmsr(ICR, 1 << bit | 0x40)
        except Exception as fault:
            assert getattr(fault, "vector", None) == 13
        else:
            raise AssertionError(f"bit {bit} was accepted")
        assert apic.take_ipis() == () and apic.rdmsr(ICR) == 1 << 32 | 0x4040


@promises.add
def init_and_two_startup_ipis_start_a_vcpu_once(lapic: Any) -> None:
    board = Board(lapic, 2)
    target = board.apics[1].startup
    board.send(STARTUP | 0x9A, 1)
    assert target.take() is None, "lost on a vCPU that does not wait"
    board.send(INIT | ASSERT, 1)
    assert target.take() == Init(waits=True) and target.waiting and target.take() is None
    board.send(STARTUP | 0x9A, 1)
    assert target.take() == Sipi(0x9A) and not target.waiting
    board.send(STARTUP | 0x9B, 1)
    assert target.take() is None


@promises.add
def waiting_vcpu_needs_no_init(lapic: Any) -> None:
    board = Board(lapic, 2, waiting=True)
    assert [apic.startup.waiting for apic in board.apics] == [False, True]
    board.send(STARTUP | 8, 1)
    assert board.apics[1].startup.take() == Sipi(8)


@promises.add
def bootstrap_processor_does_not_wait_after_init(lapic: Any) -> None:
    board = Board(lapic, 2)
    board.send(INIT | ASSERT, 0, 1)
    assert board.apics[0].startup.take() == Init(waits=False) and not board.apics[0].startup.waiting


@promises.add
def init_voids_the_startup_ipi_before_it(lapic: Any) -> None:
    startup = Board(lapic, 2, waiting=True).apics[1].startup
    startup.sipi(1)
    startup.init()
    assert startup.take() == Init(waits=True) and startup.take() is None


@pytest.mark.parametrize("promise", promises.values(), ids=promises)
def test_promise(promise: Promise) -> None:
    promise(Lapic)


class BroadcastMissed(Lapic):
    def addressed(self, ipi: Ipi) -> bool:
        return ipi.destination not in (255, BROADCAST) and super().addressed(ipi)


class OthersIncludeSelf(Lapic):
    def addressed(self, ipi: Ipi) -> bool:
        return super().addressed(ipi._replace(shorthand=ALL) if ipi.shorthand == OTHERS else ipi)


class LogicalAsPhysical(Lapic):
    def addressed(self, ipi: Ipi) -> bool:
        return super().addressed(ipi._replace(logical=False))


class ClusterAsFlat(Lapic):
    def mmio_write(self, offset: int, size: int, value: int) -> None:
        super().mmio_write(offset, size, 0xFFFFFFFF if offset == MMIO_DFR else value)


class XapicIdFixed(Lapic):
    def mmio_write(self, offset: int, size: int, value: int) -> None:
        super().mmio_write(offset, size, self.apic_id << 24 if offset == MMIO_ID else value)


class DisabledTakesVectors(Lapic):
    @property
    def software_enabled(self) -> bool:
        return True


class LevelIgnored(Lapic):
    def receive(self, ipi: Ipi) -> None:
        super().receive(ipi._replace(asserted=True))


class NmiAsVector(Lapic):
    def receive(self, ipi: Ipi) -> None:
        super().receive(ipi._replace(mode=FIXED) if ipi.mode == NMI else ipi)


class BusyStays(Lapic):
    def rdmsr(self, msr: int) -> int:
        return super().rdmsr(msr) | (1 << 12 if msr == ICR else 0)


class StartsWithoutWaiting(Lapic):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)

        class Eager(Startup):
            def sipi(self, vector: int) -> None:
                self.waiting = True
                super().sipi(vector)

        self.startup = Eager(self.apic_id == 0, self.startup.waiting)


class BootWaits(Lapic):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.startup = Startup(False, self.startup.waiting)


class SipiOutlivesInit(Lapic):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)

        class Keeps(Startup):
            def init(self) -> None:
                vector = self._vector
                super().init()
                self._vector = vector

        self.startup = Keeps(self.apic_id == 0, self.startup.waiting)


SLIPS: dict[Any, str] = {
    BroadcastMissed: "physical_destination_is_one_apic_or_all",
    OthersIncludeSelf: "shorthands_name_self_all_and_the_others",
    LogicalAsPhysical: "x2apic_clusters_have_16_members",
    ClusterAsFlat: "cluster_model_has_a_number_and_4_bits",
    XapicIdFixed: "xapic_answers_to_the_id_that_the_guest_gave_it",
    DisabledTakesVectors: "lowest_priority_goes_to_one_enabled_apic_chosen_by_vector",
    LevelIgnored: "level_that_goes_away_is_no_interrupt_and_no_init",
    NmiAsVector: "software_disabled_apic_takes_no_vector_but_nmi_and_init",
    BusyStays: "icr_reads_back_without_its_busy_bit_and_refuses_reserved_ones",
    StartsWithoutWaiting: "init_and_two_startup_ipis_start_a_vcpu_once",
    BootWaits: "bootstrap_processor_does_not_wait_after_init",
    SipiOutlivesInit: "init_voids_the_startup_ipi_before_it",
}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: Any) -> None:
    assert SLIPS[slip] in promises.violations(slip)


def test_startup_vector_is_a_page_in_real_mode() -> None:
    assert (Sipi(0x9A).selector, Sipi(0x9A).base) == (0x9A00, 0x9A000)


@EXAMPLES
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**20 - 1), st.integers(0, 3), st.booleans())
def test_message_reaches_each_apic_at_most_once_and_only_those_it_names(
    destination: int, icr: int, source: int, x2apic: bool
) -> None:
    board = Board(x2apic=x2apic)
    icr = icr & 0xCFFFF & ~(1 << 13) & ~0x30000
    sender = board.apics[source]
    if x2apic:
        sender.wrmsr(ICR, destination << 32 | icr)
    else:
        sender.mmio_write(MMIO_ICR2, 4, destination)
        sender.mmio_write(MMIO_ICR, 4, icr)
    for message in sender.take_ipis():
        targets = route(message, board.apics)
        assert len(targets) == len({id(one) for one in targets}) <= 4
        assert all(target.addressed(message) for target in targets)
        assert message.mode != LOWEST or len(targets) <= 1
        if message.shorthand == OTHERS:
            assert sender not in targets
