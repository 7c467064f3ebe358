"""Grading on the workers of a real Dask scheduler: the same bytes as here, also where a worker is killed half-way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.__main__ import main
from emu.sandbox import tiers
from tests.classroom import cohort
from tests.classroom.cohort import DEVICE
from tests.classroom.test_grade import TREES, tree

pytest.importorskip("distributed", reason="distributed is not installed")
if tiers.missing(tiers.BUBBLEWRAP):
    pytest.skip(f"bubblewrap: {tiers.missing(tiers.BUBBLEWRAP)}", allow_module_level=True)


class Cluster:
    """A scheduler and two workers, each a process."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        self._environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "false"}
        self._folder = folder
        common = ["--scheduler-file", str(self._file)]
        self.scheduler = self._start("scheduler", *common, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self._await(self._file.exists)
        words = [*common, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
        self.workers = [self._start("worker", *words, "--local-directory", str(folder / one)) for one in "ab"]
        import json

        self.address = json.loads(self._file.read_text())["address"]

    def _start(self, what: str, *words: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "distributed.cli.dask_" + what, *words]
        with (self._folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def _await(self, ready: object) -> None:
        deadline = time.monotonic() + 60
        while not ready():  # type: ignore[operator]
            assert time.monotonic() < deadline and self.scheduler.poll() is None, (
                self._folder / "scheduler.log"
            ).read_text()
            time.sleep(0.05)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    one = Cluster(tmp_path)
    try:
        yield one
    finally:
        one.close()


def test_cluster_gives_the_same_bytes_and_survives_the_death_of_a_worker(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subs = cohort.place(tmp_path / "subs", [*cohort.right(DEVICE, 5), *cohort.wrong(DEVICE, 5)])
    words = ["grade", str(subs), "--assignment", TREES[DEVICE], "--quiet"]
    assert main([*words, "--out", str(tmp_path / "here")]) == 0
    command = [sys.executable, "-m", "emu", *words, "--out", str(tmp_path / "far"), "--cluster", cluster.address]
    grading = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    results = tmp_path / "far" / "results"
    deadline = time.monotonic() + 90
    while len(list(results.glob("*.json"))) < 4 and grading.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    cluster.workers[0].send_signal(signal.SIGKILL)
    out, err = grading.communicate(timeout=120)
    assert grading.returncode == 0, err
    assert len(list(results.glob("*.json"))) == 10 and "graded in the sandbox of the cluster at tcp://" in out
    assert tree(tmp_path / "far") == tree(tmp_path / "here")


def test_no_scheduler_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("emu.classroom.cluster.CONNECT_S", 1)
    subs = cohort.place(tmp_path / "subs", list(cohort.right(DEVICE, 1)))
    words = ["grade", str(subs), "--assignment", TREES[DEVICE], "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*words, "--cluster", "tcp://127.0.0.1:9"]) == 2
    assert "there is no scheduler" in capsys.readouterr().err
    assert main([*words, "--cluster", "tcp://127.0.0.1:9", "--trust"]) == 2
    assert "the sandbox is each worker's own" in capsys.readouterr().err
