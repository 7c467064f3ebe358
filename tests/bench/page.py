"""Scrubbing the page of the demonstration run in Chromium: from an input to the frame that shows it."""

import contextlib
import io
import tempfile
from pathlib import Path

from emu.__main__ import main
from tests.report.browser import opened

POSITIONS = 3000
_SCRUB = """async count => {
  const slide = document.getElementById("slide"), times = [];
  const frame = () => new Promise(done => requestAnimationFrame(done));
  await frame();
  for (let n = 0; n < count; n++) {
    const at = (n * 7919) % count, begun = performance.now();
    slide.value = at;
    slide.dispatchEvent(new Event("input"));
    await frame();
    document.body.offsetHeight;
    times.push(performance.now() - begun);
  }
  return times.sort((a, b) => a - b);
}"""


def scrubbing() -> dict[str, float]:
    """Milliseconds from input to frame at the 50th, 95th and 99th percentile of 3,000, and the page's size in kB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.html"
        with contextlib.redirect_stdout(io.StringIO()):
            main(["report", "demo", "-o", str(path)])
        with opened(path) as (page, _):
            times = page.evaluate(_SCRUB, POSITIONS)
        found = {f"p{percent}": times[len(times) * percent // 100] for percent in (50, 95, 99)}
        return {**found, "kb": path.stat().st_size / 1000}
