"""The rooms keep to their import rules, and the public names are the ones promised."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import emu

ROOT = Path(emu.__file__).parent
BASE = {"abi", "exits", "faults", "state", "stateful", "clock"}
SHARED = BASE | {"ram", "trace"}
PARTS = {"vcpu", "bus", "devices", "host", "boot", "code"}
MACHINE = (
    SHARED
    | PARTS
    | {
        "machine",
        "package",
        "result",
        "host_model",
        "recorder",
        "completion",
        "interconnect",
        "absent_pages",
        "build_host",
        "scenario",
        "guest",
        "diagnosis",
        "data",
        "toolchain",
    }
)

# Room -> the rooms it may import besides itself. Change a wall here and in tutorials/house.md in the same commit.
MAY_IMPORT = {
    **{key: {"abi"} for key in BASE},
    "ram": BASE,
    "trace": BASE,
    **dict.fromkeys(PARTS, SHARED),
    "code": SHARED | {"boot"},
    "abi_header": BASE,
    "data": BASE,
    "complaint": BASE,
    "own_code": BASE,
    "compiler": BASE | {"data", "complaint"},
    "toolchain": BASE | {"data", "compiler"},
    "scenario": BASE,
    "package": SHARED | PARTS | {"scenario"},
    "result": SHARED | PARTS,
    "host_model": SHARED | PARTS | {"scenario", "package"},
    "recorder": SHARED | PARTS | {"scenario", "package", "result"},
    "interconnect": SHARED | PARTS | {"scenario", "package", "result", "recorder"},
    "absent_pages": SHARED | PARTS | {"scenario", "package", "result", "recorder"},
    "completion": SHARED
    | PARTS
    | {"scenario", "package", "result", "host_model", "recorder", "interconnect", "absent_pages"},
    "build_host": SHARED | PARTS | {"scenario"},
    "machine": SHARED
    | PARTS
    | {"scenario", "package", "result", "host_model", "recorder", "interconnect", "absent_pages", "completion"}
    | {"build_host"},
    "guest": MACHINE,
    "diagnosis": MACHINE,
    "kvm": SHARED | {"boot", "bus", "devices"},
    "history": MACHINE,
    "explain": MACHINE | {"history"},
    "view": MACHINE | {"history", "explain"},
    "teach": MACHINE | {"history", "explain", "view"},
    "conform": MACHINE | {"kvm"},
    "explore": MACHINE | {"history"},
    "fuzz": MACHINE | {"history", "explore", "conform", "kvm", "own_code"},
    "sandbox": BASE,
    "classroom": MACHINE | {"history", "explain", "explore", "sandbox", "compiler", "complaint"},
    "gdb": MACHINE | {"history", "explain", "view"},
    "report": MACHINE | {"history", "explain", "view"},
    "commands": MACHINE
    | {"history", "explain", "explore", "gdb", "report", "teach", "view", "abi_header", "compiler", "kvm", "conform"}
    | {"classroom", "sandbox", "fuzz", "own_code"},
}
LAZY = {"__init__", "__main__"}  # these alone may name any room


def sources() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "_data" not in path.parts)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@functools.cache
def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            if node.module == "emu":
                names.update(f"emu.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_room_imports_only_what_its_rule_allows(path):
    room = room_of(path)
    if room in LAZY:
        return
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("emu.")}
    assert room in MAY_IMPORT, f"no rule for {room}"
    assert rooms - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize(
    ("module", "rooms"),
    [("unicorn", {"vcpu"}), ("capstone", {"code", "vcpu"}), ("elftools", {"boot", "code"}), ("textual", {"view"})],
)
def test_library_is_imported_in_its_room_alone(module, rooms):
    users = {room_of(path) for path in sources() if any(name.split(".")[0] == module for name in imported(path))}
    assert users <= rooms


@pytest.mark.parametrize("module", ["time", "datetime", "random", "secrets", "uuid"])
def test_core_reads_no_wall_clock_and_draws_nothing_unseeded(module):
    users = {str(path.relative_to(ROOT)) for path in sources() if module in imported(path)}
    allowed = {
        "random": {"host/draws.py", "conform/generate.py", "classroom/operations.py", "fuzz/worker.py"},
        "time": {
            *("commands/conform.py", "commands/progress.py", "kvm/runner.py", "kvm/thread.py"),
            *("commands/check.py", "commands/grade.py", "sandbox/confined.py"),
            *("fuzz/worker.py", "fuzz/campaign.py"),
        },
        # When something is due, and when it was handed in; nobody asks what time it is now.
        "datetime": {f"classroom/{name}.py" for name in ("assignment", "fields", "people", "submissions")},
    }
    assert users <= allowed.get(module, set())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "no module docstring"


def test_public_names_are_the_ones_promised():
    assert sorted(emu.__all__) == [
        "Area",
        "Config",
        "GuestFault",
        "History",
        "HostError",
        "Image",
        "Machine",
        "Recording",
        "Result",
        "VcpuResult",
        "load_guest",
        "load_recording",
        "load_scenario",
    ]
    for name in emu.__all__:
        assert getattr(emu, name).__doc__


@pytest.mark.parametrize(
    "statement",
    ["import emu", "import emu.abi", "from emu import HostError", "import emu.host.scheduler", "import emu.kvm.runner"],
)
def test_light_imports_load_no_engine(statement):
    code = f"{statement}\nimport sys\nassert not {{'unicorn', 'capstone', 'rich', 'textual'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_run_command_loads_no_library_it_does_not_need():
    code = (
        "import sys\nfrom emu.__main__ import main\nassert main(['run', 'hello', '--quiet']) == 0\n"
        "assert not {'capstone', 'rich', 'textual', 'dataclasses', 'tomllib'} & sys.modules.keys(), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
