"""The short form of `make prove-hostile`, and that what it looks for would be seen."""

import sys
from collections.abc import Callable

import pytest

from emu.host.entity import Books, Entity
from emu.machine import Machine
from emu.package import Package
from emu.result import VcpuResult
from tests.effort import EFFORT
from tests.hostile import __main__ as campaign
from tests.hostile.guard import CANARY
from tests.hostile.run import Wrong, run

SHORT = 20_000 * EFFORT  # operations
LASTING = 5  # a case that lasts, and executes CPUID


def test_nothing_a_guest_does_reaches_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["--operations", str(SHORT)]) == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    counts = {
        words[0]: int(words[-1]) for line in told.splitlines() if (words := line.split()) and words[-1].isdecimal()
    }
    for kind in (*campaign.OPERATIONS, "Hypercall", "Fault", "SoftwareInterrupt", "Mmio", "Swapped", "PageMissing"):
        assert counts[kind] > 0, f"the programs no longer reach {kind}"
    for reason in ("triple-fault", "exit-limit", "halted"):
        assert counts[reason] > 0
    assert counts["failures"] == 0 and counts["operations"] >= SHORT


def test_same_case_has_the_same_trace_and_another_one_another() -> None:
    one = run(LASTING, digest=True).digest
    assert run(LASTING, digest=True).digest == one != run(LASTING + 1, digest=True).digest


# --- planted: each of these must be noticed ---------------------------------------------------------------------------


def test_store_beside_ram_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _before_the_run(monkeypatch, lambda machine: _poke(machine.ram.bytes.obj, CANARY + machine.ram.size))
    with pytest.raises(Wrong, match="behind the 0x400000 bytes"):
        run(LASTING)


def test_store_before_ram_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _before_the_run(monkeypatch, lambda machine: _poke(machine.ram.bytes.obj, CANARY - 1))
    with pytest.raises(Wrong, match="before the 0x400000 bytes"):
        run(LASTING)


def test_store_into_the_hosts_window_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _before_the_run(monkeypatch, lambda machine: _poke(machine._engine._window, 0x4000))
    with pytest.raises(Wrong, match="the host's window"):
        run(LASTING)


def _before_the_run(monkeypatch: pytest.MonkeyPatch, act: Callable[[Machine], None]) -> None:
    real = Machine.run

    def spoilt(machine: Machine) -> object:
        act(machine)
        return real(machine)

    monkeypatch.setattr(Machine, "run", spoilt)


def _poke(memory: object, at: int) -> None:
    memory[at] ^= 0x55  # type: ignore[index]


def test_books_that_do_not_add_up_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Entity.books

    def wrong(entity: Entity, end_ps: int) -> Books:
        books = real(entity, end_ps)
        return books._replace(ran_ns=books.ran_ns + books.stolen_ns + 10**6)

    monkeypatch.setattr(Entity, "books", wrong)
    with pytest.raises(Wrong, match=r"ps ran that are no instructions|not where the run is"):
        run(LASTING)


def test_work_that_is_counted_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Machine._vcpu_result

    def more(machine: Machine, package: Package) -> VcpuResult:
        found = real(machine, package)
        return found._replace(instructions=found.instructions + 1)

    monkeypatch.setattr(Machine, "_vcpu_result", more)
    with pytest.raises(Wrong, match="instructions in all"):
        run(LASTING)


RAISES = "from emu.bus.cpuid import CpuidTable; CpuidTable.query = lambda *_: (1 // 0,) * 4"
CRASHES = "import os; from emu.bus.cpuid import CpuidTable; CpuidTable.query = lambda *_: os.abort()"
HANGS = "import time; from emu.bus.cpuid import CpuidTable; CpuidTable.query = lambda *_: time.sleep(999)"
STRAYS = """import itertools
from emu.recorder import Recorder
from tests.hostile import __main__ as campaign
campaign.REPEATED, count = 1, itertools.count()
Recorder._t = lambda _: next(count)"""


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        (RAISES, "ZeroDivisionError"),
        (CRASHES, "the process ended with status"),
        (HANGS, "no end within 2 s"),
        (STRAYS, "two runs have two traces"),
    ],
    ids=["exception", "crash", "hang", "not deterministic"],
)
def test_what_goes_wrong_is_told_with_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], planted: str, why: str
) -> None:
    code = f"import sys\n{planted}\nfrom tests.hostile.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    monkeypatch.setattr(campaign, "COMMAND", (sys.executable, "-c", code))
    if planted == HANGS:
        monkeypatch.setattr(campaign, "SECONDS_PER_CASE", 2)
    assert campaign.main(["--first", str(LASTING), "--runs", "1"]) == 1
    told = capfd.readouterr().out
    assert f"case {LASTING}: " in told and why in told
    assert f"python -m tests.hostile --first {LASTING} --runs 1" in told
