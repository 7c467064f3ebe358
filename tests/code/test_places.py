"""Addresses become symbols and source lines; what is not known is left out."""

from emu import abi
from emu.code.places import Place, linear, places
from tests.programs import run


def test_place_has_symbol_and_line():
    machine = run("nop\n here: nop\n cli\n hlt").machine
    first, second = places(machine.image.source, [abi.GUEST_GPA + 1, abi.GUEST_GPA + 2])
    assert (first.symbol, second.symbol) == ("here", "here+0x1")
    assert first.named.startswith("here (") and int(second.line.rpartition(":")[2]) == 1 + int(
        first.line.rpartition(":")[2]
    )


def test_place_of_an_unknown_address_is_empty():
    assert places(b"no ELF file", [7]) == [Place(7, "", "")]
    assert Place(7, "", "").named == "" and Place(7, "a", "").named == "a" and Place(7, "", "b:1").named == "(b:1)"


def test_real_mode_addresses_are_relative_to_the_code_segment():
    from emu.boot.image import flat_image
    from emu.machine import Machine
    from emu.scenario import Config

    machine = Machine(flat_image(b"\xea\x05\x00\xc0\x07\xfa\xf4", "flat.bin", "real"), Config())  # ljmp 0x7c0:5
    machine.run()
    state = machine.packages[0].vcpu.state()
    assert linear(state, state.rip) == 0x7C00 + state.rip == 0x7C07
