"""Pages that are known to have been stored to are all that differ."""

import pytest

from emu.explore import runner
from emu.explore.instance import Instance
from emu.explore.search import Search
from emu.guest import load_guest
from emu.history.memory import Memory
from emu.ram import Ram
from emu.vcpu import native


class Both(Memory):
    """Looks at what is said to have been written, and then at everything."""

    looks = missed = 0

    def _look(self) -> None:
        super()._look()
        before = dict(self._now)
        self._compare(0, self._ram.size)
        Both.looks += 1
        Both.missed += before != self._now


def search(name: str, **bounds: object) -> tuple[object, ...]:
    report = Search(Instance(load_guest(name), **bounds)).run()  # type: ignore[arg-type]
    return report.verdict, report.states, report.points, report.schedules, report.judged


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("readers/seqlock", {"updates": 2, "burst": 3, "reads": 1}),
        ("readers/seqlock32", {"updates": 1, "halves": True}),
        ("readers/odd_only", {"updates": 2}),
        ("handoff", {"vcpus": 2, "updates": 1, "switches": 1, "state_limit": 400}),
        ("kvmclock", {"updates": 1, "jumps": 1, "state_limit": 200}),
    ],
)
def test_nothing_else_differs(name: str, bounds: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library() is None:
        pytest.skip("the callbacks in C were not built: no C compiler")
    Both.looks = Both.missed = 0
    monkeypatch.setattr(runner, "Memory", Both)
    found = search(name, **bounds)
    assert Both.looks > 50 and not Both.missed
    monkeypatch.setattr(runner, "Memory", lambda ram, written=None: Memory(ram))
    assert search(name, **bounds) == found


def test_page_that_is_not_told_of_is_missed() -> None:
    ram = Ram(4 << 20)
    memory = Memory(ram, lambda: [0x200])
    ram.write(0x200000, b"a")
    ram.write(0x300000, b"b")
    assert set(memory.keep()) == {0x200}
