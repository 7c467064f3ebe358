"""The guests that judge from inside: all pass on the emulator, and each notices a host that answers wrongly.

tests/kvm/test_runner.py runs the same guests on real KVM.
"""

import pytest

from emu import data
from emu.guest import load_guest
from emu.machine import Machine
from emu.scenario import Config

GUESTS = [name for name in data.guest_names() if name.startswith(f"{data.CONFORMANCE}/")]


@pytest.mark.parametrize("name", GUESTS)
def test_passes_on_the_emulator(name: str) -> None:
    result = Machine(load_guest(name), Config()).run()
    assert result.exit_code == 0, result.console.decode()
    passed, cases = result.console.split()[1::2]
    assert passed == cases and int(cases) > 0
