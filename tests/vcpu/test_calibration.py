"""Where the engine is not the one that was measured, it is refused at start, in one sentence."""

from collections.abc import Callable
from typing import Any

import pytest

from emu.faults import HostError
from emu.ram import Ram
from emu.vcpu import calibration
from emu.vcpu.engine import Engine
from tests.vcpu.board import SPAN


def refused() -> str:
    with pytest.raises(HostError) as caught:
        Engine(Ram(SPAN))
    text = str(caught.value)
    assert "install unicorn" in text and text.count("\n") == 0 and ". " not in text
    return text


def test_the_installed_engine_passes() -> None:
    Engine(Ram(SPAN))


@pytest.mark.parametrize(
    ("name", "wrong", "complaint"),
    [
        ("_HIDDEN_FLAGS", 180, "hidden state"),
        ("_SEGMENT_CACHES", 208, "hidden state"),
        ("_LDT_CACHE", 304, "hidden state"),
        ("_ERROR_BEFORE_DR0", 24, "hidden state"),
        ("_FLAGS_SOURCE", 144, "flags"),
        ("_FLAG_SHADOW", 1 << 4, "hidden state"),
        ("_COUNT_MAGIC", 1, "counter"),
    ],
)
def test_a_hidden_part_in_another_place_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: int, complaint: str
) -> None:
    monkeypatch.setattr(calibration, name, wrong)
    assert complaint in refused()


def test_a_counter_that_is_not_there_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_STRUCTURE_SEARCHED", 64)
    assert "counter" in refused()


def test_a_context_without_debug_registers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[[Engine], Any] = Engine.read_blob
    monkeypatch.setattr(Engine, "read_blob", lambda self: bytes(len(bytes(read(self)))))
    assert "context blob" in refused()


def test_an_exit_that_is_counted_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    vmrun = Engine.vmrun
    monkeypatch.setattr(Engine, "vmrun", lambda self, insns, **options: vmrun(self, insns, **options) + 1)
    assert "stop the guest exactly" in refused()


@pytest.mark.parametrize("version", ["2.0.1", "2.1.3", "2.2.0", "3.0", "1.0.3"])
def test_another_unicorn_is_refused_by_its_version(version):
    with pytest.raises(HostError, match=version):
        calibration.check_version(version)


@pytest.mark.parametrize("version", ["2.1.4", "2.1.5", "2.1.4.post1"])
def test_unicorn_from_2_1_4_on_is_tried(version):
    calibration.check_version(version)
