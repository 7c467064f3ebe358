"""The documents agree with the code: links, commands, references, and every table that the machine could answer for."""

import ast
import contextlib
import functools
import importlib
import re
import shlex
from pathlib import Path

import pytest

from emu import abi, toolchain
from emu.__main__ import COMMANDS, main
from emu.commands import fuzz as fuzz_command
from emu.commands import run as run_command
from emu.commands.flags import config_from
from emu.devices.hypercalls import Answer, Hypercalls
from emu.machine import Machine
from emu.scenario import Config
from tests import shown, test_house
from tests.programs import assembled

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "tutorials").glob("*.md"))]
HOUSE, ENGINE, GUEST_ABI, GLOSSARY = (
    (ROOT / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("house", "engine", "guest-abi", "glossary")
)


def pairs(pattern: str, flags: int = 0) -> list[tuple[Path, str]]:
    """Every match of `pattern` in any document, each once, with its document."""
    found = [
        (path, match) for path in DOCUMENTS for match in re.findall(pattern, path.read_text(encoding="utf-8"), flags)
    ]
    return list(dict.fromkeys(found))


def rows(text: str, comment: str) -> list[list[str]]:
    """The cells of the table that follows `comment`, without its heading."""
    table = text.partition(f"<!-- {comment}")[2].partition("-->\n")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len(lines) > 2, comment
    return lines[2:]


# --- links ---


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    ("path", "target"), pairs(r"\]\(([^)\s]+)\)"), ids=lambda one: one.name if isinstance(one, Path) else one
)
def test_link_leads_somewhere(path: Path, target: str):
    if target.startswith("https://"):
        return
    file, _, fragment = target.partition("#")
    aim = (path.parent / file) if file else path
    assert aim.exists(), f"{path.name}: {target}"
    assert ROOT in aim.resolve().parents
    if fragment:
        assert fragment in map(anchor, re.findall(r"^#+ (.*)$", aim.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_document_is_in_the_map():
    index = (ROOT / "tutorials" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in DOCUMENTS[1:] if path.name != "README.md" and f"]({path.name})" not in index] == []


# --- command lines ---

BLOCKS = [block for _, block in pairs(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)]
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith("emu ")]
SPANS = [command for _, command in pairs(r"`(emu [a-z][^`\n]*)`")]


@pytest.mark.parametrize("command", sorted({*LINES, *SPANS}))
def test_command_line_shown_is_understood(command, tmp_path, monkeypatch, capsys):
    words = shlex.split(command, comments=True)[1:]
    words = words[: words.index("|")] if "|" in words else words
    assert words[0] in COMMANDS
    if words[1:] == ["--help"]:
        with contextlib.suppress(SystemExit):
            main(words)
        assert f"usage: emu {words[0]}" in capsys.readouterr().out
        return
    monkeypatch.chdir(tmp_path)
    for path in shown.RUN_DOCUMENTS:
        for step in shown.steps(path.read_text(encoding="utf-8")):
            if step.kind == "file":
                Path(step.name).write_text(step.text, encoding="utf-8")
    if words[0] in ("explore", "replay", "step", "gdb", "report", "lesson", "check", "assignment", "grade"):
        # What they do is shown in history.md, and run there; a command may be named without its words.
        module = importlib.import_module(f"emu.commands.{words[0]}")
        if words[1:]:
            module._parser().parse(words[1:])
        return
    if words[0] == "fuzz":
        if words[2:] and words[2:] != ["--help"]:
            fuzz_command.WAYS[words[1]].parser().parse(words[2:])
        return
    if words[0] != "run":
        # These do their work while they read: let them, on files that are there, with nothing to be built.
        monkeypatch.setattr(toolchain, "build", lambda *_, **__: None)
        if "--random" in words:  # how many it tries is not what is asked here
            words[words.index("--random") + 1] = "100"
        for word in words[1:]:
            if word.endswith((".c", ".S")):
                Path(word).touch()
        assert main(words) == 0
        return
    parsed = run_command._parser().parse_args(words[1:])
    config_from(parsed, Config())
    assert parsed.guest is None or not parsed.guest.startswith("-")


def test_command_lines_are_found():
    assert len(LINES) > 5 and len(SPANS) > 2


# --- references to the source ---


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return frozenset(found)


REFERENCES = sorted({text for _, text in pairs(r"`(emu/[^`\s]*\.py: [\w.]+)`")})


def test_references_are_found():
    assert len(REFERENCES) > 15


@pytest.mark.parametrize("reference", REFERENCES)
def test_reference_names_what_is_there(reference):
    path, _, name = reference.partition(": ")
    assert name in names_in(ROOT / path)


@pytest.mark.parametrize("path", sorted({text for _, text in pairs(r"`((?:emu|guests|tests)/[\w./]+)")}))
def test_path_named_exists(path):
    assert (ROOT / path.rstrip(".")).exists()


def test_reading_order_names_no_file_twice():
    order = re.findall(r"^\d+\. `([^`]+)`: \S.*$", HOUSE, re.MULTILINE)
    assert len(order) > 15
    assert len(set(order)) == len(order)


def test_documents_name_nothing_of_the_machine_they_were_written_on():
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(work|tmp|home|root)/", text), path.name


def test_list_of_known_limits_names_each_of_their_tests():
    listed = ENGINE.partition("## What this CPU does not do\n")[2].partition("\n## ")[0]
    tests = {name for name in names_in(ROOT / "tests/vcpu/test_known_limits.py") if name.startswith("test_")}
    assert re.findall(r"`(test_\w+)`", listed) and set(re.findall(r"`(test_\w+)`", listed)) == tests


# --- the import table ---


def expanded(cell: str, lists: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    for word in cell.split(", "):
        bold = re.fullmatch(r"\*\*(.+)\*\*", word)
        found |= lists[bold[1]] if bold else {word}
    return found


def test_import_table_is_the_rule():
    lists: dict[str, set[str]] = {}
    for name, members in re.findall(r"^- \*\*([a-z ]+)\*\*: ((?:.+\n)(?:  .+\n)*)", HOUSE, re.MULTILINE):
        if name not in ("base", "shared", "parts", "engine room"):
            continue
        lists[name] = set()
        for word in " ".join(members.split()).split(", "):
            lists[name] |= lists.get(word, {word})
    assert lists == {
        "base": test_house.BASE,
        "shared": test_house.SHARED,
        "parts": test_house.PARTS,
        "engine room": test_house.MACHINE,
    }
    table: dict[str, set[str]] = {}
    for rooms, allowed in rows(HOUSE, "the import table"):
        for room in rooms.split(", "):
            assert room not in table
            table[room] = expanded(allowed, lists)
    assert table == test_house.MAY_IMPORT


# --- what a guest finds ---


def default_machine() -> Machine:
    return Machine(assembled("hlt"), Config())


@pytest.fixture(scope="module")
def machine() -> Machine:
    return default_machine()


def name_of(value: int, *prefixes: str) -> str:
    """The constant of abi.py with one of these prefixes and this value, `?` where there is none."""
    names = [name for prefix in prefixes for name, one in vars(abi).items() if name.startswith(prefix) and one == value]
    return names[0] if names else "?"


def cpuid_leaves(machine: Machine) -> list[list[str]]:
    cpuid = machine.packages[0].cpuid
    return [[f"{leaf:#x}", *(f"{value:#x}" for value in cpuid.query(leaf))] for leaf in sorted(cpuid._leaves)]


def cpuid_bits(machine: Machine) -> list[list[str]]:
    found = []
    for leaf, register, mask, behind in sorted(machine.packages[0].cpuid.bits):
        bit = mask.bit_length() - 1
        if leaf == abi.KVM_CPUID_FEATURES and register == "eax":
            name = name_of(bit, "KVM_FEATURE_")
        else:
            name = name_of(mask, f"CPUID_{leaf:X}_{register.upper()}_")
        found.append([f"{leaf:#x}", register, str(bit), name, behind])
    return found


def msrs(machine: Machine) -> list[list[str]]:
    """Number or range, name, owner; a register that continues the one before it has no name of its own."""
    bus = machine.packages[0].msrs
    found: list[tuple[int, int, str, str]] = []
    for number in bus.numbers():
        name, owner = name_of(number, "MSR_", "APIC_"), type(bus._owners[number]).__name__
        if name == "?" and found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number, *found[-1][2:])
        else:
            found.append((number, number, name, owner))
    numbers = [f"{first:#x}" if first == last else f"{first:#x} to {last:#x}" for first, last, _, _ in found]
    return [[number, *rest] for number, (_, _, *rest) in zip(numbers, found, strict=True)]


# The comment before each table; what the machine says it is; how many columns the machine can answer for.
MACHINE_TABLES = (("the CPUID leaves", cpuid_leaves, 5), ("the CPUID bits", cpuid_bits, 5), ("the MSRs", msrs, 3))


@pytest.mark.parametrize(("comment", "true", "columns"), MACHINE_TABLES, ids=[row[0] for row in MACHINE_TABLES])
def test_table_is_what_the_machine_offers(machine, comment, true, columns):
    table = rows(GUEST_ABI, comment)
    assert [row[:columns] for row in table] == true(machine), "write it anew: python -m tests.test_documents"
    assert not any("?" in row or "" in row for row in table), "a name or a description is missing"


def test_memory_map_is_that_of_the_machine():
    for address, name, _ in rows(GUEST_ABI, "the memory map"):
        assert getattr(abi, name) == int(address, 16), name


def test_hypercalls_are_those_of_the_machine():
    for number, name, feature, _ in rows(GUEST_ABI, "the hypercalls"):
        assert getattr(abi, name) == int(number), name
        registers = (int(number), 0, 0, 0, 0)
        needed = (getattr(abi, feature),) if feature else ()
        refused = Answer(-abi.KVM_ENOSYS)
        assert Hypercalls(needed).decode(registers, cpl=0, long_mode=True) != refused
        assert (Hypercalls(()).decode(registers, cpl=0, long_mode=True) == refused) is bool(feature), name
    listed = {name for _, name, *_ in rows(GUEST_ABI, "the hypercalls")}
    assert listed == {name for name in vars(abi) if name.startswith("KVM_HC_")}


def test_ports_are_those_of_the_machine(machine):
    listed = re.findall(r"^\| (0x\w+) \| (PORT_\w+) \|", GUEST_ABI, re.MULTILINE)
    table = {getattr(abi, name): int(number, 16) for number, name in listed}
    assert all(port == number for port, number in table.items())
    bases = {base for device in (machine.console, machine.exit_port) for base, _ in device.ports} | {abi.PORT_MARK}
    assert set(table) == bases


def test_programs_shown_for_guests_run(tmp_path, capsys):
    programs = re.findall(r"^```(c|asm)\n(.*?)^```$", GUEST_ABI, re.MULTILINE | re.DOTALL)
    printed = []
    for number, (language, text) in enumerate(programs):
        path = tmp_path / f"guest{number}.{'c' if language == 'c' else 'S'}"
        path.write_text(text, encoding="utf-8")
        assert main(["run", str(path), "--vcpus", "2", "--quiet"]) == 0
        printed.append(capsys.readouterr().out.split("\n"))
    assert sorted(printed[0]) == ["", "vcpu0: one of 2", "vcpu1: one of 2"]
    assert printed[1][0] == "x"


def test_glossary_is_in_order_and_defines_each_term_once():
    terms = [term.lower() for term in re.findall(r"^\*\*(.+?)\.\*\* \S", GLOSSARY, re.MULTILINE)]
    assert len(terms) > 40
    assert terms == sorted(set(terms), key=lambda term: term.replace(",", ""))


def rewritten(text: str, machine: Machine) -> str:
    """The guest ABI document with its tables as the machine has them; descriptions are kept, new ones are `?`."""
    for comment, true, columns in MACHINE_TABLES:
        old = rows(text, comment)
        descriptions = {row[0]: row[columns:] for row in old}
        blank = ["?"] * (len(old[0]) - columns)
        new = [row + descriptions.get(row[0], blank) for row in true(machine)]
        before, mark, after = text.partition(f"<!-- {comment}")
        head, _, rest = after.partition("|\n|---")
        rule, _, rest = rest.partition("\n")
        tail = rest.partition("\n\n")[2]
        body = "\n".join(f"| {' | '.join(row)} |" for row in new)
        text = f"{before}{mark}{head}|\n|---{rule}\n{body}\n\n{tail}"
    return text


def test_rewriting_the_tables_changes_nothing_while_they_are_true(machine):
    assert rewritten(GUEST_ABI, machine) == GUEST_ABI


if __name__ == "__main__":
    document = ROOT / "tutorials" / "guest-abi.md"
    document.write_text(rewritten(GUEST_ABI, default_machine()), encoding="utf-8")
