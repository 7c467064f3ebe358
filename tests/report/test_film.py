"""A run as frames, and as a picture: what they say is what the machine says."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from emu.__main__ import main
from emu.devices.steal_time import decode
from emu.explain.step import take
from emu.guest import load_guest
from emu.history.edits import Edit, HostStore
from emu.history.history import History
from emu.report.film import EDIT, EVEN, MOST_FRAMES, ODD, REGISTERS, Film
from emu.report.page import About, page
from emu.report.picture import MOST_MARKS, marks_of, picture
from emu.report.projector import Projector
from emu.scenario import Config
from emu.trace import Event
from emu.view.timeline import Timeline
from tests.programs import assembled


def projector(guest: str, config: Config = Config(), edits: tuple[Edit, ...] = ()) -> Projector:
    image = load_guest(guest)
    return Projector(lambda **sinks: History(image, config, edits=edits, **sinks))


def added_up(data: dict, upto: int) -> tuple[int, dict[str, int], dict]:
    """Time, registers of the vCPU shown, and areas at frame `upto`, as the page adds them up."""
    now, registers, areas = 0, {}, {}
    for frame in data["frames"][: upto + 1]:
        now += frame[0]
        own = registers.setdefault(frame[1], {})
        own |= {data["registers"][one]: int(value, 16) for one, value in zip(*[iter(frame[7])] * 2, strict=True)}
    for number, vcpu, area in data["area"]:
        if number <= upto:
            areas[vcpu] = area
    return now, registers[data["frames"][upto][1]], areas


@pytest.mark.parametrize(("guest", "first"), [("readers/odd_only", 0), ("clock", 200)])
def test_frames_add_up_to_what_the_machine_is(guest: str, first: int):
    config = Config(vcpus=2, tasks=("busy",), insn_limit=300_000) if guest == "clock" else Config()
    made = projector(guest, config)
    film = made.film({}, first, first + 60)
    data = film.data()
    history = History(load_guest(guest), config)
    history.go(first)
    for number in range(film.count):
        machine = history.machine
        now, registers, areas = added_up(data, number)
        shown = data["frames"][number][1]
        state = machine.packages[shown].vcpu.state()
        assert now == machine.now_ns
        assert registers == dict(zip(REGISTERS, (*state.general, state.rip, state.rflags), strict=True))
        index = data["frames"][number][2]
        assert int(data["code"][index][0], 16) == machine.packages[shown].vcpu.pc()
        for package in machine.packages:
            if package.steal is not None and package.steal.enabled:
                read = decode(machine.ram.read(package.steal.area_gpa, 64))
                assert areas[package.number][1:3] == [str(read.steal), read.version]
        history.step()


def test_frames_tell_what_the_stepper_tells():
    data = projector("readers/odd_only").film({}, 0, 80).data()
    history = History(load_guest("readers/odd_only"), Config())
    for frame in data["frames"][1:]:
        assert tuple(data["texts"][one] for one in frame[5]) == take(history).sentences


def test_edits_are_in_the_frames():
    history = History(load_guest("readers/odd_only"), Config())
    while not history.machine.packages[0].steal.enabled:
        history.step()
    at = history.position + 3
    edits = (Edit(at, HostStore(0, 5, False)), Edit(at + 1, HostStore(0, 5, False)))
    data = projector("readers/odd_only", edits=edits).film({}, 0, at + 2).data()
    assert data["frames"][at][6] & EDIT and data["frames"][at + 1][6] & EDIT
    told = [data["texts"][one] for one in data["frames"][at][5]]
    assert any(one.startswith("edit: ") for one in told)
    assert any(frame[6] & (ODD | EVEN) for frame in data["frames"])


def test_three_thousand_steps_are_small():
    made = projector("clock", Config(vcpus=2, tasks=("busy",)))
    film = made.film({}, 0, 3000)
    about = About("clock", "emu report clock", made.result, made.end, 0)
    text = page(about, picture(made.timeline, title="clock", alone=False), film.data())
    assert film.count == 3001
    assert len(text.encode()) < 200_000
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*['\"]?(?:https?:)?//", text)


def test_nothing_of_the_guest_is_markup():
    made = projector("hello")
    about = About("<script>alert(1)</script>@data@", "emu <b>", made.result, made.end, 0, ("</pre><script>",))
    text = page(about, "", made.film({}, 0, 10).data())
    assert text.count("<script") == 2 and "<b>" not in text and "</pre><script>" not in text
    assert "@data@" in text  # a name is text, also where it looks like a place of the template


def test_long_run_with_many_parties_has_a_bounded_picture():
    tasks = tuple(f"periodic:period={30 + 7 * n}us,run=3us" for n in range(9))
    made = projector("clock", Config(vcpus=3, tasks=tasks, insn_limit=3_000_000))
    svg = picture(made.timeline, title="many", alone=True)
    root = ElementTree.fromstring(svg)
    drawn = [one for one in root.iter() if one.tag.rpartition("}")[2] in ("rect", "path", "line", "text")]
    assert len(drawn) <= MOST_MARKS + 100


def test_picture_shows_each_nanosecond_once():
    made = projector("clock", Config(vcpus=2, tasks=("busy",)))
    strip = made.timeline.strip(240)
    for lane, marks in zip(strip.lanes, marks_of(strip), strict=True):
        for kind, total in (("run", sum(c.ran_ns for c in lane.cells)), ("wait", sum(c.waited_ns for c in lane.cells))):
            shown = sum((m.last - m.first) * m.percent for m in marks if m.kind == kind) * strip.cell_ns / 100
            assert abs(shown - total) <= 0.05 * made.result.virtual_ns + strip.cell_ns
        assert sum(m.kind == "update" for m in marks) == sum(c.updates > 0 for c in lane.cells)


def test_svg_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "demo.svg"
    assert main(["report", "demo", "--svg", "-o", str(target)]) == 0
    root = ElementTree.parse(target).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert {"vcpu0", "vcpu1", "task0"} <= {one.text for one in root.iter("{http://www.w3.org/2000/svg}text")}
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say where to write it"),
        (["-o", "x.html", "--steps", "0"], "--steps"),
        (["-o", "x.html", "--steps", str(MOST_FRAMES + 1)], "--steps"),
        (["-o", "x.html", "--around", "main", "--from", "main"], "--around"),
        (["-o", "x.html", "--from", "nowhere"], "there is no symbol"),
        (["-o", "x.html", "--around", "event:wrmsr,vcpu=7"], "never comes to pass"),
        (["-o", "x.html", "--to", "end", "--steps", "3"], "choose a shorter stretch"),
        (["-o", "no/such/folder/x.html"], "cannot be written"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "readers/odd_only", *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_report_of_a_recording_begins_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", "readers/odd_only", "--record", "found.emurec"]) == 1
    assert main(["report", "found.emurec", "-o", "found.html"]) == 0
    assert "class='story'" in (tmp_path / "found.html").read_text(encoding="utf-8")


def test_a_broken_film_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """The comparison above can fail: a film that forgets a register is found out."""
    honest = Film._new

    def forgetful(self: Film, key: object, value: object) -> bool:
        return honest(self, key, value) and not (isinstance(key, tuple) and key[0] == "register" and key[2] == 0)

    monkeypatch.setattr(Film, "_new", forgetful)
    with pytest.raises((AssertionError, KeyError)):
        test_frames_add_up_to_what_the_machine_is("readers/odd_only", 0)


def test_hostile_program_is_filmed():
    """No symbols, no lines, a jump into the middle of an instruction, and the end of memory."""
    image = assembled("jmp . + 3; .byte 0xb8, 0xf4, 0xeb, 0xfd; hlt")
    events: list[Event] = []
    history = History(image, Config(insn_limit=50), trace=events.append)
    film = Film(history, {}, events)
    while not history.ended:
        film.shoot()
    assert film.count == history.position + 1
    assert Timeline.of(Config()).end_ns is None
