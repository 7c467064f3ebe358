"""Sequences as text: what is printed can be typed."""

import pytest

from emu.conform import generate
from emu.conform.shrink import shrink
from emu.conform.text import format_sequence, parse_sequence
from emu.faults import HostError
from emu.kvm.operations import Rdmsr, Reenter, Store, Wrmsr


def test_every_random_sequence_survives_being_printed():
    for index in range(2000):
        sequence = generate.sequence(11, index)
        assert parse_sequence(format_sequence(sequence)) == sequence


@pytest.mark.parametrize(
    "text",
    [
        "", " ; ", "jump 1", "wrmsr", "wrmsr STEAL_TIME", "wrmsr NOBODY 1", "wrmsr STEAL_TIME -1", "load 0 3",
        "wrmsr STEAL_TIME 0x10000000000000000", "rdmsr 0x100000000", "memory 0x7fffff 2", "reenter 1", "load x",
        "reenter;" * 33,
    ],
)  # fmt: skip
def test_text_that_cannot_be_used_is_refused(text: str):
    with pytest.raises(HostError):
        parse_sequence(text)


def test_names_and_numbers_mean_the_same():
    assert parse_sequence("wrmsr MSR_KVM_STEAL_TIME 1") == parse_sequence("wrmsr 0x4b564d03 1")


def test_shrinking_leaves_what_matters():
    noise = [Rdmsr(1), Store(0, 0xFFFF, 2), Reenter(), Wrmsr(2, 0x200041), Rdmsr(1), Wrmsr(3, 0xFF), Reenter()]
    found = shrink(noise, lambda one: any(isinstance(op, Wrmsr) and op.msr == 3 and op.value & 0x10 for op in one))
    assert found == [Wrmsr(3, 0x10)]


def test_shrinking_ends_where_everything_fails():
    assert len(shrink([Wrmsr(2, (1 << 64) - 1)] * 8, lambda one: True)) == 1
