"""Runs, recordings and counterexamples show themselves where `_repr_html_` is asked for."""

import html
import re
from pathlib import Path

import pytest

import emu
from emu.__main__ import main
from tests.report.browser import opened


def embedded(shown: str) -> str:
    found = re.fullmatch(r"<iframe sandbox='allow-scripts' [^>]*srcdoc=\"([^\"]*)\"></iframe>", shown, re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


def test_history_and_machine_show_the_run():
    image = emu.load_guest("readers/odd_only")
    history = emu.History(image, emu.Config())
    history.go(20)
    assert embedded(history._repr_html_()).startswith("<!doctype html>")
    assert history.position == 20
    machine = emu.Machine(image, emu.Config())
    machine.run()
    assert "It ended with exit 0" in embedded(machine._repr_html_())


def test_counterexample_shows_itself_in_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", "readers/odd_only", "--record", "found.emurec"]) == 1
    shown = emu.load_recording("found.emurec")._repr_html_()
    assert "class='story'" in embedded(shown)
    notebook = f"<!doctype html><html data-ready><title>notebook</title><body>{shown}</body></html>"
    (tmp_path / "notebook.html").write_text(notebook, encoding="utf-8")
    with opened(tmp_path / "notebook.html") as (page, seen):
        frame = page.frame_locator("iframe")
        frame.locator("html[data-ready]").wait_for(state="attached")
        frame.get_by_text("step ▶").click()
        assert "position" in frame.locator("#at").inner_text()
        assert [one for one in seen if not one.startswith("request: about:srcdoc")] == []
