"""The guests that judge from inside: all pass on the emulator, and each notices a host that answers wrongly.

tests/kvm/test_runner.py runs the same guests on real KVM.
"""

import pytest

from emu import abi, data
from emu.bus.cpuid import CpuidTable
from emu.devices.apic_timer import ApicTimer
from emu.devices.interrupts import Interrupts
from emu.devices.kvmclock import SystemTime
from emu.devices.pv_eoi import PvEoi
from emu.devices.steal_time import Load, StealTime, Step
from emu.guest import load_guest
from emu.machine import Machine
from emu.result import Result
from emu.scenario import Config
from emu.vcpu import delivery
from tests.conform.test_slips import SLIPS, Plant, patched

PF_ERROR_USER = 1 << 2
GUESTS = [name for name in data.guest_names() if name.startswith(f"{data.CONFORMANCE}/")]


def run(guest: str) -> Result:
    return Machine(load_guest(guest), Config()).run()


@pytest.mark.parametrize("name", GUESTS)
def test_passes_on_the_emulator(name: str) -> None:
    result = run(name)
    assert result.exit_code == 0, result.console.decode()
    passed, cases = result.console.split()[1::2]
    assert passed == cases and int(cases) > 0


def _offers_what_is_not_there(self: CpuidTable, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    eax, ebx, ecx, edx = QUERY(self, leaf, subleaf)
    return eax ^ (1 << abi.KVM_FEATURE_PV_EOI if leaf == abi.KVM_CPUID_FEATURES else 0), ebx, ecx, edx


def _the_first_ever(self: StealTime) -> int:
    self.first = getattr(self, "first", 0) or AREA_GPA.fget(self)
    return self.first


def _never_takes_the_bit_back(self: PvEoi, load: Load) -> tuple[bool, tuple[Step, ...]]:
    ended, stores = LEAVE(self, load)
    self.pending = self.pending or bool(stores)
    return ended, ()


def _without_the_user_bit(vcpu: object, engine: object, vector: int, error: int | None) -> object:
    return PUSH_ERROR(vcpu, engine, vector, error and error & ~PF_ERROR_USER)


AREA_GPA, QUERY, LEAVE, ENTER, PUSH_ERROR = (
    StealTime.area_gpa,
    CpuidTable.query,
    PvEoi.leave,
    PvEoi.enter,
    delivery._push_error,
)

# Guest, what is wrong with its host, how to make it so, and a case that must be named.
BROKEN: list[tuple[str, Plant, str]] = [
    ("msr", SLIPS["STEAL_TIME reserves one bit less"], "steal time, bit 5"),
    ("msr", SLIPS["POLL_CONTROL takes any bit"], "poll control, bit 1"),
    ("msr", SLIPS["MIGRATION_CONTROL takes any bit"], "migration control, bit 1"),
    ("msr", SLIPS["ASYNC_PF_ACK can be read"], "async PF acknowledgement, zero"),
    ("msr", SLIPS["PV_EOI_EN takes any alignment"], "PV EOI, bit 1"),
    ("msr", SLIPS["SYSTEM_TIME answers its address"], "system time, an address"),
    ("steal", SLIPS["STEAL_TIME does not step over junk"], "version 3 becomes 6"),
    ("steal", patched(StealTime, "area_gpa", property(_the_first_ever)), "a registration leads to an update"),
    ("clock", SLIPS["SYSTEM_TIME_NEW does without an odd version"], "an odd version found there becomes even"),
    ("clock", SLIPS["SYSTEM_TIME leaves its padding as it was"], "padding"),
    ("clock", SLIPS["WALL_CLOCK_NEW is never stored"], "wall clock: each write is one update"),
    ("clock", patched(SystemTime, "update", lambda self, load: iter(())), "version is even and not 0"),
    ("cpuid", patched(CpuidTable, "query", _offers_what_is_not_there), "PV EOI"),
    ("apic", patched(Interrupts, "ppr", property(lambda self: self.tpr)), "the processor priority follows"),
    ("apic", patched(Interrupts, "pending", lambda self: None if not self.irr else self.irr.bit_length() - 1), "held"),
    ("apic", patched(Interrupts, "eoi", lambda self: None), "after EOI nothing is in service"),
    ("apic", patched(ApicTimer, "deadline", property(lambda self: 0, lambda self, value: None)), "deadline reads back"),
    ("eoi", patched(PvEoi, "leave", _never_takes_the_bit_back), "afterwards the bit is clear"),
    ("eoi", patched(PvEoi, "enter", lambda self, requested: ENTER(self, False)), "the offer is taken back"),
    ("paging", patched(delivery, "_push_error", _without_the_user_bit), "user"),
]


@pytest.mark.parametrize(("name", "plant", "case"), BROKEN)
def test_broken_host_is_noticed(name: str, plant: Plant, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    result = run(f"{data.CONFORMANCE}/{name}")
    assert result.exit_code != 0  # some end in a sleep from which nothing wakes them
    assert case in result.console.decode()
