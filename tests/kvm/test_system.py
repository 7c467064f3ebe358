"""Where there is no usable /dev/kvm, one sentence says so; the numbers are those of the kernel's headers."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emu import machine, scenario
from emu import result as emulator_result
from emu.faults import HostError
from emu.kvm import cpuid, ioctls, result, runner, system
from tests.programs import assembled

HEADER = Path("/usr/include/linux/kvm.h")


def test_missing_device_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "PATH", str(tmp_path / "kvm"))
    with pytest.raises(HostError, match="there is no /dev/kvm"):
        system.System()
    assert "\n" not in (system.missing() or "\n")


def test_forbidden_device_is_one_sentence(monkeypatch):
    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(system.os, "open", forbidden)
    with pytest.raises(HostError, match="may not open"):
        system.System()


def test_something_else_at_its_place_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(system, "PATH", str(path))
    with pytest.raises(HostError, match="is not KVM"):
        system.System()


def test_room_imports_without_fcntl():
    modules = sorted(path.stem for path in Path(runner.__file__).parent.glob("*.py") if path.stem != "__init__")
    code = (
        "import sys\nsys.modules['fcntl'] = None\n"
        f"import importlib\nfor name in {modules!r}: importlib.import_module('emu.kvm.' + name)\n"
        "from emu.kvm.system import missing\nassert 'KVM needs Linux' in missing()\n"
        "assert not {'unicorn', 'capstone', 'rich', 'textual', 'dataclasses', 'elftools'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reasons_are_the_emulators():
    names = [name for name in vars(result) if name.isupper()]
    assert {name: getattr(result, name) for name in names} == {name: getattr(emulator_result, name) for name in names}
    assert len(names) == 7


@pytest.mark.parametrize("kind", ["Result", "VcpuResult"])
def test_result_has_the_emulators_fields(kind):
    ours, theirs = getattr(result, kind)._fields, getattr(emulator_result, kind)._fields
    assert [name for name in ours if name != "wall_ns"] == list(theirs)


@pytest.mark.parametrize("without", [(), ("steal-time",)])
def test_cpuid_is_the_default_machines(without):
    image = assembled("hlt")
    emulator = machine.Machine(image, scenario.Config(vcpus=2, without=without))
    for number, package in enumerate(emulator.packages):
        ours = cpuid.emulator_cpuid(number, 2, without)
        assert cpuid.leaves(ours) == cpuid.leaves(package.cpuid)
        assert {bit[:3] for bit in ours.bits} == {bit[:3] for bit in package.cpuid.bits}


def test_every_leaf_is_handed_over():
    table = cpuid.emulator_cpuid(0, 1)
    handed = cpuid.leaves(table)
    for leaf in (*range(32), *range(0x40000000, 0x40000020), *range(0x80000000, 0x80000020)):
        assert handed.get((leaf, 0), (0, 0, 0, 0)) == table.query(leaf)


@pytest.mark.skipif(not HEADER.exists() or not shutil.which("cc"), reason="needs a C compiler and linux/kvm.h")
def test_requests_are_the_headers(tmp_path):
    names = [name for name in vars(ioctls) if re.match("KVM_[A-Z]", name)]
    lines = "\n".join(f'#ifdef {name}\nprintf("{name} %lu\\n", (unsigned long)({name}));\n#endif' for name in names)
    source = tmp_path / "print.c"
    source.write_text(f"#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {{\n{lines}\nreturn 0; }}\n")
    subprocess.run(["cc", source, "-o", tmp_path / "print"], check=True)
    found = subprocess.run([tmp_path / "print"], check=True, capture_output=True, text=True).stdout.split()
    known = dict(zip(found[::2], map(int, found[1::2]), strict=True))
    assert known == {name: getattr(ioctls, name) for name in known}
    assert len(known) >= len(names) - 2
