"""A real browser for the tests: Debian's Chromium or playwright's own; else a skip with the reason."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: apt install chromium, or playwright install chromium")
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def opened(path: Path, fragment: str = "", **context: Any) -> Iterator[tuple[Any, list[str]]]:
    """The page in this file, ready; and the list of what it asked for or complained about, which should stay short."""
    with browser() as chromium:
        page = chromium.new_context(offline=True, **context).new_page()
        seen: list[str] = []
        page.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))
        page.on("request", lambda request: seen.append(f"request: {request.url[:80]}"))
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("html[data-ready]", state="attached")
        assert seen.pop(0).startswith("request: file:")
        yield page, seen
