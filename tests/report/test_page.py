"""The page in a real browser: no network, no complaint, and what it shows is what the machine was."""

from pathlib import Path

import pytest

from emu import data
from emu.__main__ import main
from emu.faults import HostError
from emu.guest import load_guest
from emu.history.history import History
from emu.scenario import Config, load_scenario
from emu.view.session import Session
from tests import golden, shown
from tests.report.browser import opened


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "demo.html"
    assert main(["report", "demo", "-o", str(path)]) == 0
    return path


def test_page_asks_for_nothing_and_says_what_the_machine_says(demo: Path):
    scenario = load_scenario(str(data.scenario_path("demo")))
    history = History(load_guest("clock"), scenario.config)
    with opened(demo) as (page, seen):
        for position in (0, 1, 17, 120, 700, 1500, 3000):
            page.evaluate(f"emu.show({position})")
            history.go(position)
            machine = history.machine
            vcpu = (machine.acting or machine.packages[0]).vcpu
            state = vcpu.state()
            shown = page.inner_text("#regs").replace("*", "")
            assert f"rax\n{state.general[0]:x}\n" in shown and f"rip\n{state.rip:x}\n" in shown
            assert f"{vcpu.pc():x}" in page.inner_text("#code .now")
            assert f"position {position:,}, {machine.now_ns:,} ns" in page.inner_text("#at")
            for line in Session(history, {}).say("host"):
                name, state = line.split()[:2]
                assert f"{name}\t{state.rstrip(',')}" in page.inner_text("#host")
        assert seen == []


def test_keys_step_and_jump_in_both_directions(demo: Path):
    with opened(demo) as (page, seen):
        at = lambda: page.evaluate("emu.position")  # noqa: E731
        for key, position in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("PageDown", 101), ("Home", 0)):
            page.keyboard.press(key)
            assert at() == position
        page.keyboard.press("n")
        update = at()
        assert "even: the update is done" in page.inner_text("#told")
        assert "version 2 (even, at rest)" in page.inner_text("#area")
        page.keyboard.press("x")
        assert at() > update
        page.keyboard.press("Shift+N")
        assert at() == update
        page.click("text=last")
        assert at() == 3000
        page.keyboard.press("ArrowRight")
        assert at() == 3000
        assert seen == []


def test_position_can_be_linked_and_the_strip_be_scrubbed(demo: Path):
    with opened(demo, "#step=700") as (page, seen):
        assert page.evaluate("emu.position") == 700
        page.evaluate("location.hash = '#step=42'")
        page.wait_for_function("emu.position === 42")
        box = page.locator("#lanes canvas").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 3)
        page.mouse.down()
        assert abs(page.evaluate("emu.position") - 1500) < 10
        page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 3)
        page.mouse.up()
        assert abs(page.evaluate("emu.position") - 2250) < 10
        page.fill("#slide", "99")
        assert page.evaluate("emu.position") == 99
        assert seen == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_page_is_accessible(demo: Path, scheme: str, width: int):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    with opened(demo, color_scheme=scheme, viewport={"width": width, "height": 800}) as (page, _):
        page.keyboard.press("n")
        found = axe.Axe().run(page).response["violations"]
        grave = [one for one in found if one["impact"] in ("serious", "critical")]
        serious = [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in grave]
        assert serious == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_counterexample_shows_its_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", "readers/odd_only", "--record", "found.emurec"]) == 1
    assert main(["report", "found.emurec", "-o", "found.html"]) == 0
    with opened(tmp_path / "found.html") as (page, seen):
        page.keyboard.press("Home")
        page.keyboard.press("d")
        assert "ODD, the host is writing" in page.inner_text("#area")
        assert "edit: " in page.inner_text("#told")
        assert seen == []


def test_config_is_the_demonstration(demo: Path):
    assert load_scenario(str(data.scenario_path("demo"))).config != Config()


def test_picture_of_the_demonstration_is_the_one_that_was_looked_at(tmp_path: Path):
    path = tmp_path / "demo.svg"
    try:
        with shown.reference_guests():
            assert main(["report", "demo", "--svg", "-o", str(path)]) == 0
    except HostError as error:
        pytest.skip(f"the reference guests cannot be built here: {error}")
    golden.same(Path(__file__).parent / "golden" / "demo.svg", path.read_text(encoding="utf-8"))
