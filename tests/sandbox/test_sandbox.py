"""Both tiers of the sandbox, against the same attacks."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from emu.faults import HostError
from emu.sandbox import tiers
from emu.sandbox.confined import Child
from emu.sandbox.limits import CPU, ENDED, MEMORY, OUTPUT, WALL, Confined, Limits
from emu.sandbox.process import Mothers, mothers_work
from emu.sandbox.tiers import Tier
from tests.sandbox.attacks import ATTACKS

ROOT = str(Path(__file__).resolve().parents[2])
QUICK = Limits(cpu_s=5, wall_s=10, memory=256 << 20, output=1 << 16)


def tier_called(name: str) -> Tier:
    """The tier of that name; skips the test, with the reason, where this machine has it not."""
    if reason := tiers.missing(name):
        pytest.skip(f"{name}: {reason}")
    return tiers.choose(name)


class Way(NamedTuple):
    """A tier, and whether its programs are copies of one that has loaded already."""

    tier: Tier
    mothers: Mothers | None


@pytest.fixture(
    params=[(name, copied) for name in tiers.TIERS for copied in (False, True)],
    ids=lambda one: one[0] + "-copy" * one[1],
)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    name, copied = request.param
    tier = tier_called(name)
    if not copied:
        yield Way(tier, None)
        return
    if not mothers_work():
        pytest.skip("no pidfd_open(2)")
    with contextlib.closing(Mothers(tier, also=[f"{ROOT}/tests"])) as mothers:
        yield Way(tier, mothers)


def confined(way: Way, function: str, limits: Limits = QUICK, **rest: object) -> Confined:
    """Run one of the attacks. Its module is beside the tests: the way to it is given before the door is shut."""
    name = f"tests.sandbox.attacks:{function}"
    return Child(way.tier, name, limits, also=[f"{ROOT}/tests"], mothers=way.mothers, **rest).wait()  # type: ignore[arg-type]


def test_every_attack_is_refused(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMU_SECRET", "the grader's token")
    done = confined(way, "main")
    assert done.ended == ENDED and done.status == 0, done
    lines = dict(line.split(" ", 1) for line in done.output.decode().splitlines())
    assert lines.pop("thread") == "[1]"  # what interpreters and compilers need
    assert lines.keys() == set(ATTACKS)
    assert lines.pop("home") in ("refused FileNotFoundError", "refused PermissionError", "done []")
    if way.tier.name == tiers.OWN_UID and "emu-attack" not in lines["write-here"]:
        lines.pop("write-here")
    worked = {name: what for name, what in lines.items() if what.startswith("done")}
    assert not worked
    assert not [one for one in os.listdir("/tmp") if one.startswith("emu-attack")]


def test_without_a_sandbox_the_same_attacks_work() -> None:
    """Else the test above could not fail."""
    code = (
        "from tests.sandbox.attacks import ATTACKS as a;"
        "print([n for n in ('passwd','fork','socket','memory','memfd') if a[n]() is not False])"
    )
    done = subprocess.run(
        [os.sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,  # type: ignore[attr-defined]
    )
    assert "'passwd', 'fork', 'socket', 'memory', 'memfd'" in done.stdout, done


def test_cpu_time_is_bounded(way: Way) -> None:
    begun = time.monotonic()
    assert confined(way, "endless", QUICK._replace(cpu_s=1)).ended == CPU
    assert time.monotonic() - begun < 9


def test_waiting_is_bounded(way: Way) -> None:
    assert confined(way, "sleeps", QUICK._replace(wall_s=1)).ended == WALL


def test_output_is_bounded(way: Way) -> None:
    done = confined(way, "talks")
    assert done.ended == OUTPUT and len(done.output) <= QUICK.output


def test_memory_is_bounded_from_outside(way: Way) -> None:
    assert confined(way, "grows", QUICK._replace(memory=128 << 20), reserve=4 << 30).ended == MEMORY


def test_memory_is_bounded_from_inside(way: Way) -> None:
    done = confined(way, "grows", QUICK._replace(memory=128 << 20))
    assert done.ended in (ENDED, MEMORY) and (done.ended == MEMORY or b"MemoryError" in done.errors)


def test_nothing_stays_of_an_own_uid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(tier_called(tiers.OWN_UID), None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert confined(way, "sleeps", QUICK._replace(wall_s=1)).ended == WALL
    assert not list(tmp_path.iterdir())


def test_where_there_is_no_sandbox_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "missing", lambda name: "the program `bwrap` is not installed")
    with pytest.raises(HostError, match=r"there is no sandbox on this machine.*apt install bubblewrap.*--trust"):
        tiers.choose()
    with pytest.raises(HostError, match="the sandbox 'own-uid' is not to be had"):
        tiers.choose(tiers.OWN_UID)


def test_copies_are_fresh_and_a_mother_outlives_them(way: Way) -> None:
    """Memory of one is not seen by the next, however it ended; a mother that was killed is replaced."""
    if way.mothers is None:
        pytest.skip("for copies")
    assert confined(way, "remembers").output == b"1\n"
    assert confined(way, "endless", QUICK._replace(cpu_s=1)).ended == CPU
    assert confined(way, "remembers").output == b"1\n"
    (mother,) = way.mothers._all
    mother._process.kill()
    assert confined(way, "remembers").output == b"1\n"
    assert way.mothers._all != {mother}


def test_a_child_that_is_ended_from_another_thread(way: Way) -> None:
    child = Child(way.tier, "tests.sandbox.attacks:sleeps", QUICK, also=[f"{ROOT}/tests"], mothers=way.mothers)
    ender = threading.Timer(0.3, child.end)
    ender.start()
    begun = time.monotonic()
    child.wait()
    assert time.monotonic() - begun < QUICK.wall_s / 2
    assert child.kill() == child.kill()


def test_a_compiler_outside_the_system_is_shown_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    compiler = tmp_path / "bin" / "cc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert tiers.program_paths(str(compiler)) == [str(tmp_path / "bin")]
    assert tiers.program_paths("no-such-compiler-anywhere") == []
    assert "/opt" not in tiers.shown_paths()
