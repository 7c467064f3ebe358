"""The profile `kvm-bugs` is the specification with the quirks that real KVM has, and the default has none of them."""

import pytest

from emu.conform import generate
from emu.conform.compare import difference
from emu.conform.emulator import Emulator
from emu.conform.expect import RunDelay, expect
from emu.conform.model import K1, K4
from emu.conform.text import parse_sequence
from emu.kvm.operations import Operation

SEQUENCES = 6000
REMEMBERED = parse_sequence("wrmsr ASYNC_PF_EN 0x800009; rdmsr ASYNC_PF_EN; save-restore; rdmsr ASYNC_PF_EN")
CROSSING = parse_sequence("wrmsr SYSTEM_TIME 0x200101; wrmsr SYSTEM_TIME 0x200ff1; reenter; load 0x200100 4")


def agrees(emulator: Emulator, sequence: list[Operation], *quirks: str) -> bool:
    expected = expect(sequence, RunDelay(), quirks=frozenset(quirks))
    return difference(sequence, expected, emulator.sequence(sequence)) is None


def test_devices_of_kvm_bugs_do_what_the_model_does_with_its_quirks() -> None:
    emulator = Emulator("kvm-bugs")
    met = [0, 0]
    for index in range(SEQUENCES):
        sequence = generate.sequence(11, index)
        assert agrees(emulator, sequence, K1, K4), sequence
        met[0] += not agrees(emulator, sequence, K4)
        met[1] += not agrees(emulator, sequence, K1)
    assert min(met) > 3, "each quirk made a difference, so that each was compared"


@pytest.mark.parametrize(
    ("profile", "quirks"), [("kvm", ()), ("kvm-bugs", (K1, K4))], ids=lambda one: one if isinstance(one, str) else ""
)
@pytest.mark.parametrize("sequence", [REMEMBERED, CROSSING], ids=["remembered", "crossing"])
def test_each_profile_has_its_own_quirks_and_no_other(
    profile: str, quirks: tuple[str, ...], sequence: list[Operation]
) -> None:
    emulator = Emulator(profile)
    others = {frozenset(some) for some in ((), (K1,), (K4,), (K1, K4))} - {frozenset(quirks)}
    assert agrees(emulator, sequence, *quirks)
    mine = K1 if sequence is REMEMBERED else K4
    for other in others:
        assert agrees(emulator, sequence, *other) == ((mine in other) == (mine in quirks))
