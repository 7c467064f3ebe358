"""A guest with page tables of its own, linked for the upper half: whatever it calls its area, it is the same memory."""

import pytest

from emu.boot.image import Image
from emu.compiler import find_compiler
from emu.explore import runner
from emu.explore.evidence import evidence
from emu.explore.instance import Instance, read_of
from emu.explore.properties import CURRENT
from emu.explore.search import PROVED, REFUTED, Report, Search
from emu.guest import load_guest
from emu.history.memory import Memory
from emu.vcpu.written import Written
from tests import upper_half
from tests.explore.readers import ALL
from tests.explore.test_moves import Compared


@pytest.fixture(scope="module", params=["read declared", "read marked"])
def kernels(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[bool, Image]:
    folder, compiler, marks = tmp_path_factory.mktemp("kernel"), find_compiler(), request.param == "read marked"
    return {
        checks: load_guest(upper_half.build(compiler, folder, checks=checks, marks=marks)) for checks in (True, False)
    }


def instance(image: Image) -> Instance:
    read = None if "marked" in image.where else read_of(image, "steal_clock")
    return Instance(image, updates=1, read=read, properties=ALL)


def explored(image: Image, jobs: int = 1) -> Report:
    return Search(instance(image), jobs=jobs).run()


def test_right_kernel_is_proved_and_the_one_that_does_not_look_again_is_refuted(kernels: dict[bool, Image]) -> None:
    good, bad = explored(kernels[True]), explored(kernels[False])
    assert good.verdict == PROVED and good.judged[CURRENT] > 10
    assert bad.verdict == REFUTED and bad.found is not None and bad.found.violation.property == CURRENT
    assert explored(kernels[True], 2) == good
    told = "\n".join(evidence(instance(kernels[False]), bad.found, "bad", lambda name: None).story)
    assert "reads steal = 0x100000001" in told and "bad" in told and ".c:" in told


def test_accessed_and_dirty_bits_belong_to_a_state(kernels: dict[bool, Image], monkeypatch: pytest.MonkeyPatch) -> None:
    found = explored(kernels[True])
    compared = Compared(monkeypatch)
    assert explored(kernels[True]) == found
    assert compared.moves and compared.steps > 10 and not compared.differing
    monkeypatch.undo()
    monkeypatch.setattr(runner, "Memory", lambda ram, written=None: Memory(ram))
    assert explored(kernels[True]) == found


def test_pages_that_nobody_is_told_of_would_be_missed(
    kernels: dict[bool, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the guest still had the tables that it was given: the bits that the processor sets in its own are not seen.
    right, missed = Memory._look, []

    def look(memory: Memory) -> None:
        right(memory)
        before = dict(memory._now)
        memory._compare(0, memory.size)
        missed.append(before != memory._now)

    monkeypatch.setattr(Memory, "_look", look)
    explored(kernels[True])
    assert not any(missed)
    take = Written.take

    def forgetful(written: Written) -> set[int] | None:
        written._engine.own_tables = False
        return take(written)

    monkeypatch.setattr(Written, "take", forgetful)
    explored(kernels[True])
    assert any(missed)
