"""Asynchronous page faults keep their promises, each of which can fail; and no page is lost or told twice."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.async_pf import HALT, INJECT, PROFILES, AsyncPf, Missing, Ready
from emu.devices.steal_time import Load
from emu.faults import HostError
from tests.effort import EFFORT

from .async_pf_promises import ACK, EN, ON, WAKE_ALL, Bench, promises
from .promises import AREA, Promise

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100 * EFFORT, database=None)


@pytest.mark.parametrize("promise", promises.values(), ids=promises)
def test_promise(promise: Promise) -> None:
    promise(AsyncPf)


def test_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(HostError) as error:
        AsyncPf(lambda gpa, size: True, profile="kvm-1999")
    assert all(profile in str(error.value) for profile in PROFILES)


class ReservedMaskWithoutBit5(AsyncPf):
    @property
    def reserved_mask(self) -> int:
        return super().reserved_mask & ~0x20


class FeaturesIgnored(AsyncPf):
    @property
    def reserved_mask(self) -> int:
        return 0x30


class RefusalStoresFirst(AsyncPf):
    def _write_enable(self, value: int) -> None:
        self.msr_value = value
        super()._write_enable(value)


class BugsForgotten(AsyncPf):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._remembers_refused = False


class EnableBitAlone(AsyncPf):
    def _enables(self, value: int) -> bool:
        return value & 1 == 1


class VectorIn16Bits(AsyncPf):
    def wrmsr(self, msr: int, value: int) -> None:
        super().wrmsr(msr, value & ~0xFF00 if msr == 0x4B564D06 else value)


class AcknowledgementReadsBack(AsyncPf):
    def rdmsr(self, msr: int) -> int:
        return 1 if msr == ACK else super().rdmsr(msr)


class AnyAcknowledgement(AsyncPf):
    def wrmsr(self, msr: int, value: int) -> None:
        super().wrmsr(msr, value | (msr == ACK))


class PrivilegeIgnored(AsyncPf):
    def _can_tell(self, cpl: int, paging: bool) -> bool:
        return super()._can_tell(3, paging)


class PagingIgnored(AsyncPf):
    def _can_tell(self, cpl: int, paging: bool) -> bool:
        return super()._can_tell(cpl, True)


class SlotIgnored(AsyncPf):
    def _slot_free(self, load: Load) -> bool:
        return True


class TellsWhoWasNeverTold(AsyncPf):
    def page_ready(self, token: int) -> None:
        if token in self._away:
            self._away[token] = True
        super().page_ready(token)


class LastInFirstOut(AsyncPf):
    def page_ready(self, token: int) -> None:
        super().page_ready(token)
        self._back.rotate(1)


class RemembersAfterDisable(AsyncPf):
    def _forget(self) -> None:
        self._requested = False


class NoWakeAll(AsyncPf):
    def _write_enable(self, value: int) -> None:
        super()._write_enable(value)
        self._back.clear()


class WakesAllTwice(AsyncPf):
    def _write_enable(self, value: int) -> None:
        super()._write_enable(value)
        self._back.append(WAKE_ALL)


class InterruptOf2011(AsyncPf):
    def deliver(self, load: Load, **conditions: Any) -> Ready | None:
        answer = super().deliver(load, **conditions)
        return answer._replace(fault=False) if answer is not None else None


class TokensOfOneVcpu(AsyncPf):
    def new_token(self) -> int:
        return super().new_token() & ~0xFFF


class InjectsWithoutReason(AsyncPf):
    def page_not_present(self, token: int, **conditions: Any) -> Missing:
        return super().page_not_present(token, **conditions)._replace(steps=())


SLIPS: dict[Any, str] = {
    ReservedMaskWithoutBit5: "enable_register_refuses_what_kvm_refuses",
    FeaturesIgnored: "bit_without_its_feature_is_refused",
    RefusalStoresFirst: "enable_register_refuses_what_kvm_refuses",
    BugsForgotten: "kvm_bugs_remembers_the_value_that_it_refused_for_its_address_alone",
    EnableBitAlone: "who_cannot_be_told_halts_and_who_cannot_be_woken_waits",
    VectorIn16Bits: "vector_has_8_bits_and_acknowledgement_reads_0",
    AcknowledgementReadsBack: "vector_has_8_bits_and_acknowledgement_reads_0",
    AnyAcknowledgement: "next_page_waits_for_token_taken_and_acknowledged",
    PrivilegeIgnored: "cpl_0_is_told_only_where_it_wants_to_be",
    PagingIgnored: "who_cannot_be_told_halts_and_who_cannot_be_woken_waits",
    SlotIgnored: "next_page_waits_for_token_taken_and_acknowledged",
    TellsWhoWasNeverTold: "halted_vcpu_is_only_woken",
    LastInFirstOut: "next_page_waits_for_token_taken_and_acknowledged",
    RemembersAfterDisable: "disabled_guest_is_told_nothing_and_its_pages_are_forgotten",
    NoWakeAll: "registration_wakes_all",
    WakesAllTwice: "registration_again_keeps_what_waits_and_adds_no_second_message",
    InterruptOf2011: "form_of_2011_tells_both_by_page_fault",
    TokensOfOneVcpu: "tokens_are_unique_and_never_0_and_carry_the_vcpu",
    InjectsWithoutReason: "missing_page_is_told_by_flags_and_token",
}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: Any) -> None:
    assert SLIPS[slip] in promises.violations(slip)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["away", "away at cpl 0", "back", "take", "look"]), st.integers(0, 9)), max_size=60
)


@EXAMPLES
@given(EVENTS, st.booleans())
def test_every_page_that_was_told_away_is_told_back_once_in_order(events: list[tuple[str, int]], of_2011: bool) -> None:
    bench = Bench(AsyncPf, AREA | 1 if of_2011 else AREA | 9, "kvm-2011" if of_2011 else "kvm")
    away: list[int] = []
    told: set[int] = set()
    expected: list[int] = []
    heard: list[int] = []

    def look() -> None:
        answer = bench.deliver()
        while answer is not None:
            if answer.vector is not None or (answer.fault and answer.token in told):
                heard.append(answer.token)
            answer = bench.deliver() if bench.device.due else None

    for event, which in events:
        if event.startswith("away"):
            token = bench.device.new_token()
            action = bench.away(token, cpl=0 if event.endswith("0") else 3).action
            assert action == (HALT if event.endswith("0") else INJECT)
            away.append(token)
            told |= {token} if action == INJECT else set()
        elif event == "back" and away:
            token = away.pop(which % len(away))
            bench.device.page_ready(token)
            expected += [token] if token in told else []
        elif event == "take":
            bench.take()
        elif event == "look" and bench.device.due:
            look()
        assert heard == expected[: len(heard)]
    for _ in range(2 * len(expected) + 2):
        bench.take()
        look()
    assert heard == expected and not bench.device.wakes


def test_value_of_the_example_is_what_linux_writes() -> None:
    bench = Bench(AsyncPf)
    assert bench.device.rdmsr(EN) == ON and bench.device.enabled
