"""Shipped guests are found, in a checkout and in an installed wheel."""

import shutil
from pathlib import Path

import pytest

from emu import data
from emu.faults import HostError

GUESTS = {
    "bad_msr", "clock", "detect", "hello", "hog", "idle", "register", "shutdown", "smp", "torn", "torn32",
}  # fmt: skip


def test_every_promised_guest_is_there() -> None:
    assert set(data.guest_names()) >= GUESTS


def test_start_code_is_no_guest() -> None:
    assert not {"start", "start32", "trap"} & set(data.guest_names())


def test_names_are_sorted() -> None:
    assert data.guest_names() == sorted(data.guest_names())


def test_unknown_guest_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(HostError) as refusal:
        data.guest_path("no_such_guest")
    assert "clock" in refusal.value.remedy


@pytest.mark.parametrize("name", ["", "../guests/hello", "hello.S", "start", "/etc/passwd"])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(HostError):
        data.guest_path(name)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder as a wheel leaves it: sources and reference ELFs inside, no checkout around."""
    folder = tmp_path / "emu" / "_data" / "guests"
    shutil.copytree(data.guests_dir(), folder, ignore=shutil.ignore_patterns("build"))
    (folder / "build" / "reference").mkdir(parents=True)
    (folder / "build" / "reference" / "hello.elf").touch()
    monkeypatch.setattr(data, "__file__", str(tmp_path / "emu" / "data.py"))
    return folder


def test_installed_wheel_gives_its_own_guests(installed: Path) -> None:
    assert data.guests_dir() == installed
    assert data.guest_path("hello") == installed / "build" / "reference" / "hello.elf"


def test_own_build_comes_before_the_reference_build(installed: Path) -> None:
    (installed / "build" / "hello.elf").touch()
    assert data.guest_path("hello") == installed / "build" / "hello.elf"
    assert data.guest_path("hello", reference=True) == installed / "build" / "reference" / "hello.elf"


def test_guest_that_was_never_built_says_how_to_build_it(installed: Path) -> None:
    with pytest.raises(HostError, match="make guests"):
        data.guest_path("clock")


def test_installation_without_guests_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "__file__", str(tmp_path / "emu" / "data.py"))
    with pytest.raises(HostError, match="missing"):
        data.guests_dir()
