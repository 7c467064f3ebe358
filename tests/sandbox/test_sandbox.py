"""Both tiers of the sandbox, against the same attacks."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from emu.faults import HostError
from emu.sandbox import tiers
from emu.sandbox.confined import Child
from emu.sandbox.limits import CPU, ENDED, MEMORY, OUTPUT, WALL, Confined, Limits
from emu.sandbox.tiers import Tier
from tests.sandbox.attacks import ATTACKS

ROOT = str(Path(__file__).resolve().parents[2])
QUICK = Limits(cpu_s=5, wall_s=10, memory=256 << 20, output=1 << 16)


def tier_called(name: str) -> Tier:
    """The tier of that name; skips the test, with the reason, where this machine has it not."""
    if reason := tiers.missing(name):
        pytest.skip(f"{name}: {reason}")
    return tiers.choose(name)


@pytest.fixture(params=tiers.TIERS)
def tier(request: pytest.FixtureRequest) -> Tier:
    return tier_called(request.param)


def confined(tier: Tier, function: str, limits: Limits = QUICK, **rest: object) -> Confined:
    """Run one of the attacks. Its module is beside the tests: the way to it is given before the door is shut."""
    child = Child(tier, f"tests.sandbox.attacks:{function}", limits, also=[f"{ROOT}/tests"], **rest)  # type: ignore[arg-type]
    return child.wait()


def test_every_attack_is_refused(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMU_SECRET", "the grader's token")
    done = confined(tier, "main")
    assert done.ended == ENDED and done.status == 0, done
    lines = dict(line.split(" ", 1) for line in done.output.decode().splitlines())
    assert lines.pop("thread") == "[1]"  # what interpreters and compilers need
    assert lines.keys() == set(ATTACKS)
    assert lines.pop("home") in ("refused FileNotFoundError", "refused PermissionError", "done []")
    if tier.name == tiers.OWN_UID and "emu-attack" not in lines["write-here"]:
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


def test_cpu_time_is_bounded(tier: Tier) -> None:
    begun = time.monotonic()
    assert confined(tier, "endless", QUICK._replace(cpu_s=1)).ended == CPU
    assert time.monotonic() - begun < 9


def test_waiting_is_bounded(tier: Tier) -> None:
    assert confined(tier, "sleeps", QUICK._replace(wall_s=1)).ended == WALL


def test_output_is_bounded(tier: Tier) -> None:
    done = confined(tier, "talks")
    assert done.ended == OUTPUT and len(done.output) <= QUICK.output


def test_memory_is_bounded_from_outside(tier: Tier) -> None:
    assert confined(tier, "grows", QUICK._replace(memory=128 << 20), reserve=4 << 30).ended == MEMORY


def test_memory_is_bounded_from_inside(tier: Tier) -> None:
    done = confined(tier, "grows", QUICK._replace(memory=128 << 20))
    assert done.ended in (ENDED, MEMORY) and (done.ended == MEMORY or b"MemoryError" in done.errors)


def test_nothing_stays_of_an_own_uid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = tier_called(tiers.OWN_UID)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert confined(tier, "sleeps", QUICK._replace(wall_s=1)).ended == WALL
    assert not list(tmp_path.iterdir())


def test_where_there_is_no_sandbox_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "missing", lambda name: "the program `bwrap` is not installed")
    with pytest.raises(HostError, match=r"there is no sandbox on this machine.*apt install bubblewrap.*--trust"):
        tiers.choose()
    with pytest.raises(HostError, match="the sandbox 'own-uid' is not to be had"):
        tiers.choose(tiers.OWN_UID)
