"""Hypercalls: who may call, what is offered, and what each argument means. Each promise can fail."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.hypercalls import Answer, Hypercalls, Kick, Request, SendIpi, Yield, returned
from tests.effort import EFFORT

from .promises import Promise, Promises

EXAMPLES = settings(derandomize=True, deadline=None, max_examples=100 * EFFORT, database=None)
POLL, KICK, SEND_IPI, YIELD = 1, 5, 10, 11
ENOSYS, EPERM, EINVAL = Answer(-1000), Answer(-1), Answer(-22)
HIGH = 0xABCD << 32

promises = Promises()


def call(device: Any, number: int, *arguments: int, cpl: int = 0, long_mode: bool = True) -> Request:
    registers = (number, *arguments, *(0,) * (4 - len(arguments)))
    answer: Request = device.decode(registers, cpl=cpl, long_mode=long_mode)
    return answer


@promises.add
def user_mode_is_refused_before_the_number_is_looked_at(device_class: Any) -> None:
    for number in (POLL, KICK, SEND_IPI, YIELD, 0, 99):
        for cpl in (1, 2, 3):
            assert call(device_class(), number, cpl=cpl) == EPERM, number


@promises.add
def unknown_number_is_not_implemented(device_class: Any) -> None:
    for number in (0, 2, 3, 4, 6, 7, 8, 9, 12, 13, 99, HIGH | KICK, 2**64 - 1):
        assert call(device_class(), number) == ENOSYS, number


@promises.add
def call_without_its_feature_is_not_implemented(device_class: Any) -> None:
    for feature, number in ((7, KICK), (11, SEND_IPI), (13, YIELD)):
        others = tuple({7, 11, 13} - {feature})
        assert call(device_class(others), number) == ENOSYS
        assert call(device_class((feature,)), number) != ENOSYS
    assert call(device_class(()), POLL) == Answer(0)


@promises.add
def kick_takes_its_second_argument_and_yield_its_first(device_class: Any) -> None:
    assert call(device_class(), KICK, 1, 2, 3, 4) == Kick(2)
    assert call(device_class(), YIELD, 1, 2, 3, 4) == Yield(1)


@promises.add
def upper_halves_count_in_64_bit_code_alone(device_class: Any) -> None:
    device = device_class()
    assert call(device, HIGH | KICK, HIGH, HIGH | 2, long_mode=False) == Kick(2)
    assert call(device, YIELD, HIGH | 1, long_mode=False) == Yield(1)
    assert call(device, YIELD, HIGH | 1) == Yield(HIGH | 1)
    assert call(device, SEND_IPI, HIGH | 1, HIGH | 1, 0, HIGH | 0x40, long_mode=False) == SendIpi((0, 32), 0, 0x40)


@promises.add
def bitmap_names_apic_ids_from_the_lowest_on(device_class: Any) -> None:
    device = device_class()
    assert call(device, SEND_IPI, 0b101, 0b11, 3, 0xF0) == SendIpi((3, 5, 67, 68), 0, 0xF0)
    assert call(device, SEND_IPI, 1 << 63, 1 << 63, 0, 0xF0) == SendIpi((63, 127), 0, 0xF0)
    assert call(device, SEND_IPI, 1 << 31, 1 << 31, 0, 0xF0, long_mode=False) == SendIpi((31, 63), 0, 0xF0)
    assert call(device, SEND_IPI, 0, 0, 0, 0xF0) == SendIpi((), 0, 0xF0)


@promises.add
def lowest_id_counts_in_32_bits(device_class: Any) -> None:
    device = device_class()
    assert call(device, SEND_IPI, 0, 1, 2**32 - 64, 0xF0) == SendIpi((0,), 0, 0xF0)
    assert call(device, SEND_IPI, 3, 0, 2**32 - 1, 0xF0) == SendIpi((2**32 - 1,), 0, 0xF0)
    assert call(device, SEND_IPI, 1, 0, HIGH | 2, 0xF0) == SendIpi((2,), 0, 0xF0)


@promises.add
def delivery_mode_passes_and_destinations_of_the_icr_do_not(device_class: Any) -> None:
    device = device_class()
    for mode in (0x100, 0x400, 0x500, 0x600):
        assert call(device, SEND_IPI, 1, 0, 0, mode | 0x42) == SendIpi((0,), mode, 0x42)
    for bits in (0x800, 0x40000, 0x80000, 0xC0000):
        assert call(device, SEND_IPI, 1, 0, 0, bits | 0x42) == EINVAL


@promises.add
def level_that_goes_away_interrupts_nobody(device_class: Any) -> None:
    device = device_class()
    assert call(device, SEND_IPI, 1, 0, 0, 0x8042) == SendIpi((), 0, 0x42)
    assert call(device, SEND_IPI, 1, 0, 0, 0xC042) == SendIpi((0,), 0, 0x42)
    assert call(device, SEND_IPI, 1, 0, 0, 0x8400) == SendIpi((0,), 0x400, 0), "an NMI has no level"


@pytest.mark.parametrize("promise", promises.values(), ids=promises)
def test_promise(promise: Promise) -> None:
    promise(Hypercalls)


class Truncates(Hypercalls):
    def decode(self, registers: Any, *, cpl: int, long_mode: bool) -> Request:
        return super().decode(tuple(value % 2**32 for value in registers), cpl=cpl, long_mode=long_mode)


class NeverTruncates(Hypercalls):
    def decode(self, registers: Any, *, cpl: int, long_mode: bool) -> Request:
        return super().decode(registers, cpl=cpl, long_mode=True)


class UserModeMayKick(Hypercalls):
    def decode(self, registers: Any, *, cpl: int, long_mode: bool) -> Request:
        return super().decode(registers, cpl=0 if registers[0] == KICK else cpl, long_mode=long_mode)


class OffersEverything(Hypercalls):
    def __init__(self, features: tuple[int, ...] = ()) -> None:
        super().__init__()


class KicksItsFirstArgument(Hypercalls):
    def decode(self, registers: Any, *, cpl: int, long_mode: bool) -> Request:
        answer = super().decode(registers, cpl=cpl, long_mode=long_mode)
        return Kick(registers[1]) if isinstance(answer, Kick) else answer


class HighBitmapFrom32(Hypercalls):
    def decode(self, registers: Any, *, cpl: int, long_mode: bool) -> Request:
        number, low, high, lowest, icr = registers
        if number == SEND_IPI and long_mode:
            registers = (number, low | high << 32, 0, lowest, icr)
        return super().decode(registers, cpl=cpl, long_mode=long_mode)


SLIPS: dict[Any, str] = {
    Truncates: "upper_halves_count_in_64_bit_code_alone",
    NeverTruncates: "upper_halves_count_in_64_bit_code_alone",
    UserModeMayKick: "user_mode_is_refused_before_the_number_is_looked_at",
    OffersEverything: "call_without_its_feature_is_not_implemented",
    KicksItsFirstArgument: "kick_takes_its_second_argument_and_yield_its_first",
    HighBitmapFrom32: "bitmap_names_apic_ids_from_the_lowest_on",
}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.__name__)
def test_planted_slip_is_caught_by_its_promise(slip: Any) -> None:
    assert SLIPS[slip] in promises.violations(slip)


@pytest.mark.parametrize(("value", "rax", "eax"), [(0, 0, 0), (-1000, 2**64 - 1000, 2**32 - 1000), (3, 3, 3)])
def test_returned_value_fills_64_or_32_bits(value: int, rax: int, eax: int) -> None:
    assert (returned(value, long_mode=True), returned(value, long_mode=False)) == (rax, eax)


WORD = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, POLL, KICK, SEND_IPI, YIELD, 2**32 - 1, 2**64 - 1]))


@EXAMPLES
@given(st.tuples(WORD, WORD, WORD, WORD, WORD), st.integers(0, 3), st.booleans())
def test_whatever_a_guest_asks_has_an_answer_of_bounded_size(
    registers: tuple[int, int, int, int, int], cpl: int, long_mode: bool
) -> None:
    answer = Hypercalls().decode(registers, cpl=cpl, long_mode=long_mode)
    if isinstance(answer, SendIpi):
        assert len(answer.destinations) <= 128 and all(0 <= one < 2**32 for one in answer.destinations)
        assert answer.vector < 256
