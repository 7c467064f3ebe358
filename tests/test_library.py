"""The library as its documentation shows it."""

import io
import subprocess
import sys
import typing

import pytest

import emu


def test_ten_lines_of_python_are_a_run():
    image = emu.load_guest("clock")
    printed = io.BytesIO()
    machine = emu.Machine(
        image, emu.Config(vcpus=2, tasks=("busy",)), console=lambda byte: printed.write(bytes((byte,)))
    )
    result = machine.run()
    assert (result.reason, result.exit_code) == ("exit", 0)
    for vcpu in result.vcpus:
        assert vcpu.ran_ns + vcpu.stolen_ns + vcpu.idle_ns == vcpu.elapsed_ns == result.virtual_ns
        assert vcpu.area is not None and vcpu.area.version == 2 * vcpu.updates
    assert printed.getvalue() == result.console


def test_scenario_is_a_run_too():
    from emu import data

    scenario = emu.load_scenario(data.guests_dir() / "demo.toml")
    assert emu.Machine(emu.load_guest(scenario.guest), scenario.config).run().exit_code == 0


def test_bad_input_is_one_exception_with_its_place():
    with pytest.raises(emu.HostError) as caught:
        emu.load_guest("no_such_guest")
    assert caught.value.message and caught.value.remedy


@pytest.mark.parametrize("program", ["clock", None, b"\x0f\x0b", emu.Config()])
def test_what_is_no_program_is_refused_with_the_call_that_makes_one(program):
    with pytest.raises(emu.HostError, match="needs a program") as caught:
        emu.Machine(program)
    assert 'emu.load_guest("clock")' in caught.value.remedy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("vcpus", value) for value in ("2", 2.0, None, True, 0, -1)),
        *(("weight", value) for value in ({0: 2}, "0=2", ("0",), (2,), ["0=2"])),
        *(("script", value) for value in ("s.txt", ("s.txt",), ("s.txt", None))),
        *(("tasks", value) for value in ("busy", ["busy"], (1,), None)),
        *(("policy", value) for value in (None, [], "lottery")),
        *(("quantum_ps", value) for value in ("100us", 1e6, 0)),
        *(("store_gap", value) for value in (4, "4", (-1,))),
        *(("ram", value) for value in ("16M", 5)),
    ],
)
def test_configuration_of_a_wrong_type_is_refused_with_its_field(field, value):
    with pytest.raises(emu.HostError) as caught:
        emu.Machine(emu.load_guest("hello"), emu.Config(**{field: value}))
    assert caught.value.where == f"Config.{field}" and caught.value.remedy


def test_what_is_no_configuration_is_refused():
    with pytest.raises(emu.HostError, match="is no configuration"):
        emu.Machine(emu.load_guest("hello"), {"vcpus": 2})


def test_every_public_name_is_documented_and_its_annotations_resolve():
    for name in emu.__all__:
        thing = getattr(emu, name)
        assert thing.__doc__ and len(thing.__doc__) > 20, name
        typing.get_type_hints(thing.__init__ if isinstance(thing, type) else thing)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = emu.no_such_name


POSIX_ONLY = ("fcntl", "termios", "resource", "pwd", "grp", "pty", "tty")


@pytest.mark.parametrize("module", ["emu.machine", "emu.commands.run", "emu.commands.build", "emu.diagnosis"])
def test_nothing_posix_only_is_needed_by_an_import(module):
    # A None in sys.modules makes an import of that name fail: as on Windows.
    code = (
        "import sys, unicorn, capstone, tempfile, subprocess\n"
        f"for name in {POSIX_ONLY!r}: sys.modules[name] = None\n"
        "import os, signal\n"
        "for name in ('getuid', 'geteuid', 'fork', 'mkfifo'): os.__dict__.pop(name, None)\n"
        "for name in ('SIGPIPE', 'SIGHUP', 'SIGKILL'): signal.__dict__.pop(name, None)\n"
        f"import {module}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
