"""What README.md and the tutorials show is what happens: Python, commands, statuses, files and outputs."""

import functools
import re
import tomllib
from pathlib import Path

import pytest

from emu import scenario, trace
from emu.commands.flags import shown as as_typed
from emu.faults import HostError
from emu.machine import Machine
from emu.result import TripleFault, Whereabouts
from emu.scenario import BY_NAME, OPTIONS, Config
from emu.view import summary
from tests import shown
from tests.programs import assembled
from tests.shown import RUN_DOCUMENTS, Played, Shown

README, RUNNING, FIRST_HOUR = RUN_DOCUMENTS[:3]
DEMONSTRATION = "emu run clock --vcpus 2 --task busy"
STEPS = [
    pytest.param(path, number, id=f"{path.relative_to(shown.ROOT)}: {step.label}")
    for path in RUN_DOCUMENTS
    for number, step in enumerate(shown.steps(path.read_text(encoding="utf-8")))
    if step.kind in ("command", "output")
]


def played(path: Path) -> tuple[Played, ...]:
    try:
        return shown.played(path)
    except HostError as missing:
        if "reference" not in str(missing) and "zig" not in str(missing):
            raise
        pytest.skip(f"the reference guests cannot be built here: {missing}")


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "number"), STEPS)
def test_what_is_shown_is_what_happens(path, number):
    step, status, output = played(path)[number]
    if shown.needs_kvm(step):
        pytest.skip("this is about the real /dev/kvm; tests/kvm runs it")
    if step.kind == "command":
        assert status == step.status
    else:
        assert output == step.text, "write it anew: python -m tests.shown"


def test_documents_show_much():
    kinds = [step.kind for path in RUN_DOCUMENTS for step in shown.steps(text_of(path))]
    assert kinds.count("output") > 30 and kinds.count("command") > 40


def test_make_run_is_the_demonstration_shown():
    makefile = (shown.ROOT / "Makefile").read_text(encoding="utf-8")
    assert "@$(EMU) run demo\n" in makefile
    demo = scenario.load_scenario(shown.ROOT / "guests" / "demo.toml")
    assert demo == ("clock", Config(vcpus=2, tasks=("busy",)))
    assert any(step.name == DEMONSTRATION for step in shown.steps(text_of(README)) if step.kind == "output")


def test_own_guest_prints_no_steal_without_a_competitor(monkeypatch, tmp_path):
    (guest,) = [step for step in shown.steps(text_of(README)) if step.kind == "file"]
    monkeypatch.chdir(tmp_path)
    Path(guest.name).write_text(guest.text, encoding="utf-8")
    try:
        with shown.reference_guests():
            outcomes = [shown.run(f"emu run {guest.name} --quiet {more}") for more in ("", "--task busy --vcpus 2")]
    except HostError as missing:
        pytest.skip(f"the reference guests cannot be built here: {missing}")
    assert [one.status for one in outcomes] == [0, 0]
    steals = [[int(number) for number in re.findall(r"(\d+) ns", one.output)] for one in outcomes]
    assert steals[0] == [0] and len(steals[1]) == 2 and min(steals[1]) > 0


# --- numbers in the prose ---


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def loose_numbers(section: str) -> set[str]:
    """Numbers of three digits or more in the prose (code and statuses aside) that stand in no block of the section."""
    blocks = "".join(re.findall(r"^```.*?^```$|^\|.*?$", section, re.MULTILINE | re.DOTALL))
    code = r"^```.*?^```$|^\|.*?$|^<!-- .*?-->$|\]\([^)]*\)|`[^`\n]*`"
    prose = re.sub(rf"{code}|status\s+\d+", "", section, flags=re.MULTILINE | re.DOTALL)
    there = set(re.findall(r"\d+", re.sub(r"(?<=\d),(?=\d\d\d)", "", blocks)))
    said = re.findall(r"(?<![\w.])\d[\d,]*\d(?![\w.]*\w)", prose)
    return {number for number in said if len(number) > 2 and number.replace(",", "") not in there}


@pytest.mark.parametrize("path", [RUNNING, FIRST_HOUR], ids=lambda path: path.name)
def test_number_in_the_prose_stands_in_an_output_beside_it(path):
    assert {name: loose for name, text in sections(text_of(path)).items() if (loose := loose_numbers(text))} == {}


def test_number_that_stands_nowhere_is_noticed():
    assert loose_numbers("It took 4,711 ns.\n\n```text\nsteal 4712 ns\n```\n") == {"4,711"}
    assert loose_numbers("It took 4,711 ns.\n\n```text\nsteal 4711 ns\n```\n") == set()


# --- tables ---


def rows(comment: str) -> list[list[str]]:
    """The cells of the table in running.md that follows `comment`, without marks of code."""
    table = text_of(RUNNING).partition(f"<!-- {comment}")[2].partition("-->\n")[2].partition("\n\n")[0]
    lines = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len(lines) > 2, comment
    return lines[2:]


def test_table_of_events_has_every_event_with_its_fields():
    described = [(name, [field.strip("` ") for field in fields.split(",")]) for name, fields, _ in rows("the events")]
    assert described == [(name, list(kind._fields)) for kind, name in trace.NAMES.items()]


def test_table_of_json_keys_is_what_json_prints():
    printed = summary.as_json(Machine(assembled("xor eax, eax\n out PORT_EXIT, al"), Config()).run())
    assert [row[0] for row in rows("the keys of --json")] == list(printed)
    assert [row[0] for row in rows("the keys of each vCPU")] == list(printed["vcpus"][0])
    meanings = dict(rows("the keys of --json"))
    assert ", ".join(TripleFault._fields) in meanings["fault"] and ", ".join(Whereabouts._fields) in meanings["where"]


def test_table_of_options_has_every_option_with_its_field_and_default():
    default = Config()._asdict()
    assert [row[:3] for row in rows("the options")] == [
        [option.name, option.field, as_typed(option.name, default[option.field]) or "none"] for option in OPTIONS
    ]


def taken(name: str, value: str) -> bool:
    try:
        BY_NAME[name].read(value)
    except ValueError:
        return False
    return True


def test_limits_of_options_are_the_first_and_last_values_taken():
    limited = [row for row in rows("the options") if row[3]]
    assert len(limited) > 10
    for name, _, _, first, last, *_ in limited:
        for value, step in ((first, -1), (last, +1)):
            number, unit = re.fullmatch(r"(\d+)(\w*)", value).groups()
            assert taken(name, value), f"{name} {value}"
            assert not taken(name, f"{int(number) + step}{unit}"), f"{name} {value}"


def test_example_of_a_scenario_has_every_key():
    (example,) = [step for step in shown.steps(text_of(RUNNING)) if step.name == "every-key.toml"][:1]
    assert isinstance(example, Shown)
    assert set(tomllib.loads(example.text)) == {"guest", *BY_NAME}


# --- the tool itself ---


def test_part_of_an_output_has_dots_for_what_is_left_out():
    output = "a 1\nb 2\nc 3\nd 4\n"
    assert shown.part_of(output, "") == output
    assert shown.part_of(output, ", lines 1-2 -1") == "a 1\nb 2\n...\nd 4\n"
    assert shown.part_of(output, ", lines 3-") == "...\nc 3\nd 4\n"
    assert shown.part_of(output, ', from "b" to "c"') == "...\nb 2\nc 3\n...\n"
    assert shown.part_of(output, ', with "b" "c"') == "...\nb 2\nc 3\n...\n"


@pytest.mark.parametrize("part", [", lines 5", ", lines -5", ', with "e"', ', from "c" to "b"'])
def test_part_that_is_not_there_is_an_error(part):
    with pytest.raises(ValueError, match="no such lines"):
        shown.part_of("a\nb\nc\nd\n", part)


def test_output_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="an output of nothing"):
        shown.steps("<!-- output -->\n```text\nx\n```\n")
