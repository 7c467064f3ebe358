"""Flat images, and where programs may lie."""

import pytest

from emu import abi
from emu.boot.image import flat_image
from emu.faults import HostError
from emu.machine import Machine
from emu.scenario import Config

EXIT_WITH_SEVEN = b"\xb0\x07\xe6\xf4"  # mov al, 7; out 0xf4, al: the same bytes in all three modes


@pytest.mark.parametrize("mode", ["long", "pm32", "real"])
def test_flat_image_enters_in_the_mode_asked_for(mode):
    machine = Machine(flat_image(EXIT_WITH_SEVEN, "flat.bin", mode), Config(mode=mode))
    assert machine.run().exit_code == 7


@pytest.mark.parametrize(
    ("mode", "gpa"), [("long", abi.GUEST_GPA), ("pm32", abi.GUEST_GPA), ("real", abi.REAL_MODE_GPA)]
)
def test_flat_image_lies_where_its_mode_begins(mode, gpa):
    machine = Machine(flat_image(EXIT_WITH_SEVEN, "flat.bin", mode), Config())
    assert machine.ram.read(gpa, 4) == EXIT_WITH_SEVEN


@pytest.mark.parametrize("mode", ["long", "pm32", "real"])
def test_flat_image_larger_than_ram_is_refused(mode):
    with pytest.raises(HostError, match="outside the memory for programs"):
        Machine(flat_image(bytes(abi.MIN_RAM), "flat.bin", mode), Config(ram=abi.MIN_RAM))


def test_empty_flat_image_is_refused():
    with pytest.raises(HostError, match="empty"):
        flat_image(b"", "flat.bin", "long")


@pytest.mark.parametrize("mode", ["long", "pm32", "real"])
def test_every_mode_enters_with_the_vcpu_number_and_the_count(mode):
    machine = Machine(flat_image(b"\xfa\xf4", "flat.bin", mode), Config(vcpus=2))
    machine.run()
    generals = [package.vcpu.general for package in machine.packages]
    assert [(general("rdi"), general("rsi")) for general in generals] == [(0, 2), (1, 2)]


def test_identity_of_an_image_is_its_bytes_and_not_its_place():
    one, other = flat_image(b"\xf4", "a", "long"), flat_image(b"\xf4", "b", "long")
    assert one.sha256 == other.sha256 != flat_image(b"\x90", "a", "long").sha256
