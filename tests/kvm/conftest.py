"""Real KVM where it is; elsewhere every test here that needs it is skipped, and says why."""

from collections.abc import Iterator

import pytest

from emu.kvm.system import missing


@pytest.fixture(scope="session")
def kvm() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(f"needs KVM: {reason}")


@pytest.fixture(scope="module")
def judge(kvm: None) -> Iterator[object]:
    from emu.kvm.judge import Judge

    with Judge() as judge:
        yield judge
