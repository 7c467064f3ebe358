"""What a user names as a guest: files of all kinds, sources, bare names."""

import os
import sys

import pytest

from emu import data
from emu.boot.entry import LONG, PROTECTED
from emu.faults import HostError
from emu.guest import find_guest, load_guest
from tests.boot.elf_bytes import elf_bytes

SOURCE = '#include "guest.h"\nint main(uint32_t cpu, uint32_t ncpus) { (void)cpu; return (int)ncpus + 4; }\n'


def refusal(guest, mode: str = "auto") -> HostError:
    with pytest.raises(HostError) as caught:
        load_guest(guest, mode)
    assert "\n" not in str(caught.value)
    return caught.value


def test_bare_name_is_a_shipped_guest():
    assert load_guest("hello").source == data.guest_path("hello").read_bytes()


def test_file_in_the_way_of_a_bare_name_wins_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clock").mkdir()
    assert find_guest("clock") == data.guest_path("clock")
    (tmp_path / "hello").write_bytes(elf_bytes())
    assert load_guest("hello").source == elf_bytes()


def test_unknown_bare_name_is_answered_with_the_guests_there_are():
    assert "clock" in refusal("clok").remedy


@pytest.mark.parametrize("name", ["nowhere/x.elf", "x.elf", "", ".", "..", "\0", "a\0.elf", "x" * 5000, "x/" * 3000])
def test_name_of_no_file_is_refused(name):
    refusal(name)


def test_empty_file_is_refused_in_every_mode(tmp_path):
    (tmp_path / "empty").touch()
    for mode in ("auto", "long", "pm32", "real"):
        assert "empty" in refusal(tmp_path / "empty", mode).message


def test_text_is_refused_with_a_word_on_flat_images(tmp_path):
    (tmp_path / "readme").write_text("hello")
    assert "--mode" in refusal(tmp_path / "readme").remedy


def test_elf_file_is_no_flat_image(tmp_path):
    (tmp_path / "x.elf").write_bytes(elf_bytes())
    assert "--mode real" in refusal(tmp_path / "x.elf", "real").remedy


def test_unknown_mode_is_refused(tmp_path):
    assert "real" in refusal("hello", "unreal").remedy


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "secret.elf"
    path.write_bytes(elf_bytes())
    path.chmod(0)
    assert "cannot be read" in refusal(path).message


def test_file_that_fails_while_being_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.elf"
    path.write_bytes(elf_bytes())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    assert "cannot be read (Permission denied)" in refusal(path).message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipe_and_device_are_refused_without_waiting_for_them(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in refusal(tmp_path / "pipe").message
    assert "device" in refusal("/dev/zero").message


@pytest.mark.parametrize(("name", "mode"), [("mine.c", LONG), ("mine32.c", PROTECTED)])
def test_c_source_is_built_first_in_the_word_size_of_its_name(tmp_path, name, mode):
    (tmp_path / name).write_text(SOURCE)
    assert load_guest(tmp_path / name).entry.mode == mode
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_assembler_source_is_built_first(tmp_path):
    path = tmp_path / "mine.S"
    path.write_text('.intel_syntax noprefix\n#include "abi.h"\n.globl _start\n_start: mov al, 3\n out PORT_EXIT, al\n')
    assert load_guest(path).entry.mode == LONG


def test_source_that_does_not_compile_is_refused_with_its_line(tmp_path):
    path = tmp_path / "wrong.c"
    path.write_text("int main(void) {\n  return nothing;\n}\n")
    assert "wrong.c:2" in str(refusal(path))
