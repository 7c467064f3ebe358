"""A run that is walked: where conditions stop is compared with a walk that looks at every position."""

from collections.abc import Callable
from pathlib import Path

import pytest

from emu import abi
from emu.code.symbols import Symbols
from emu.compiler import find_compiler
from emu.faults import HostError
from emu.guest import load_guest
from emu.history.conditions import At, Changes, Condition, Instructions, Register, Touches, happens, version_parity
from emu.history.edits import Preempt, SetMemory, SetMsr, SetRegister
from emu.history.history import History
from emu.history.where import travel
from emu.scenario import Config
from tests import upper_half
from tests.history.walk import OPTIONS, walk

OTHER_CPU = Config(host_model="other-cpu", tasks=("busy",), quantum_ps=2_000_000)
GUEST = "conformance/steal"


@pytest.mark.parametrize("guest", ["clock", "smp", "async_pf", "torn32", "conformance/eoi", "conformance/steal"])
def test_random_walk_meets_no_position_in_two_states(guest: str) -> None:
    again, different = walk(guest, 150, 7)
    assert again > 10 and different == 0


class Looker:
    """Every position of a stretch of the run, looked at one by one."""

    def __init__(self, first: int, last: int) -> None:
        history = self.history = History(load_guest(GUEST), OTHER_CPU)
        history.go(first)
        self.first = history.position
        self.seen = []
        while history.position < last:
            machine = history.machine
            vcpu = machine.packages[0].vcpu
            area = machine.ram.read(AREA, 64)
            self.seen.append((history.position, vcpu.pc(), vcpu.general("rax"), area[8:12], machine.instructions))
            history.step()

    def where(self, met: Callable[[tuple, tuple], bool]) -> list[int]:
        return [now[0] for before, now in zip(self.seen, self.seen[1:], strict=False) if met(before, now)]


AREA = Symbols.of(load_guest(GUEST).source).address("areas") or 0
FIRST, LAST = 200, 1500


@pytest.fixture(scope="module")
def looker() -> Looker:
    return Looker(FIRST, LAST)


def stops(condition: Condition) -> tuple[list[int], list[int]]:
    """Where run_to stops between FIRST and LAST, and where back_to stops on the way back."""
    history = History(load_guest(GUEST), OTHER_CPU)
    history.go(FIRST)
    there: list[int] = []
    while history.run_to(condition) and history.position < LAST:
        there.append(history.position)
    history.go(LAST)
    back: list[int] = []
    while history.back_to(condition) and history.position > FIRST:
        back.append(history.position)
    return there, back[::-1]


def test_stops_at_an_address_where_a_walk_sees_it(looker: Looker) -> None:
    counts: dict[int, int] = {}
    for _, pc, *_ in looker.seen:
        counts[pc] = counts.get(pc, 0) + 1
    address = max(counts, key=lambda pc: (counts[pc] > 5, -counts[pc]))
    wanted = looker.where(lambda before, now: now[1] == address)
    there, back = stops(At((address,)))
    # Several positions may pass before an instruction (a visit of the host): the last of them is where it is executed.
    executed = [at for at in wanted if at + 1 not in wanted]
    assert there == back == executed and len(executed) > 1


def test_stops_where_memory_changes_whoever_writes_it(looker: Looker) -> None:
    wanted = looker.where(lambda before, now: before[3] != now[3])
    assert stops(Changes(AREA + abi.KVM_STEAL_TIME_VERSION, 4)) == (wanted, wanted)
    assert len(wanted) > 3


@pytest.mark.parametrize("odd", [True, False])
def test_stops_at_the_parity_of_the_version(looker: Looker, odd: bool) -> None:
    wanted = looker.where(lambda before, now: before[3] != now[3] and now[3][0] % 2 == odd)
    history = History(load_guest(GUEST), OTHER_CPU)
    history.go(FIRST)
    assert history.run_to(happens("wrmsr", msr=abi.MSR_KVM_STEAL_TIME))
    condition = version_parity(history.machine, odd)
    assert isinstance(condition, Changes)
    assert stops(condition._replace(address=AREA + abi.KVM_STEAL_TIME_VERSION)) == (wanted, wanted)


def test_stops_where_a_register_changes(looker: Looker) -> None:
    wanted = looker.where(lambda before, now: before[2] != now[2])
    there, back = stops(Register("rax"))
    assert there == back == wanted and len(wanted) > 10


def test_stops_at_events_in_both_directions() -> None:
    history = History(load_guest(GUEST), OTHER_CPU)
    events = [(at, event) for at, event in history.between(0, LAST) if type(event).__name__ == "MsrWrite"]
    wanted = [at for at, _ in events if FIRST < at < LAST]
    assert stops(happens("wrmsr")) == (wanted, wanted) and len(wanted) > 1


def test_stops_at_a_count_of_instructions(looker: Looker) -> None:
    count = looker.seen[len(looker.seen) // 2][4]
    first = next(at for at, *_, instructions in looker.seen if instructions == count)
    history = History(load_guest(GUEST), OTHER_CPU)
    assert history.run_to(Instructions(count)) and history.position == first
    history.end()
    assert history.back_to(Instructions(count)) and history.position == first
    assert not history.back_to(Instructions(count + 10)) and history.position == first


def test_stops_at_a_numbered_event() -> None:
    history = History(load_guest(GUEST), OTHER_CPU)
    events = history.between(0, LAST)
    for number in (0, 3, len(events) // 2, 5, len(events) - 1):
        event = history.to_event(number)
        assert (history.position, event) == events[number]
    assert history.to_event(10**9) is None


def test_no_condition_leaves_the_cursor_at_the_end_or_where_it_was() -> None:
    history = History(load_guest(GUEST), OTHER_CPU)
    history.go(FIRST)
    assert not history.back_to(At((1,))) and history.position == FIRST
    assert not history.run_to(At((1,))) and history.ended


# --- edits ------------------------------------------------------------------------------------------------------------


def test_edits_branch_the_history_and_replay() -> None:
    image = load_guest("clock")
    config = Config(tasks=("busy", "busy"))
    history = History(image, config)
    history.go(500)
    before = history.state()
    history.step(3000)
    straight = history.state()
    history.go(500)
    assert history.state() == before
    history.edit(SetRegister(0, "r15", 0x1234))
    history.edit(SetMemory(0x3000, b"edited"))
    edited = history.state()
    assert edited != before
    history.step(3000)
    branch = history.state()
    assert branch != straight
    history.go(0)
    history.go(500)
    assert history.state() == edited
    again = History(image, config, edits=history.edits)
    again.go(3500)
    assert again.machine.state() == branch[0] and again.machine.ram.bytes[:] == history_ram(history, 3500)


def history_ram(history: History, position: int) -> bytes:
    history.go(position)
    return history.machine.ram.bytes[:]


def test_an_edit_forgets_what_lay_behind_it() -> None:
    history = History(load_guest("clock"), Config(tasks=("busy",)))
    history.go(900)
    history.edit(SetRegister(0, "r15", 1))
    history.go(800)
    history.edit(SetRegister(0, "r14", 1))
    assert [edit.position for edit in history.edits] == [800]


def test_msr_and_schedule_are_edited_as_the_guest_and_the_host_would() -> None:
    history = History(load_guest("hog"), Config(tasks=("busy",), insn_limit=10**6))
    history.go(400)
    history.edit(SetMsr(0, abi.MSR_KVM_STEAL_TIME, 0x140000 | 1))
    assert history.machine.packages[0].steal.enabled
    at = history.position
    history.edit(Preempt(0, "task0"))
    assert history.run_to(happens("switch", next="task0"))
    assert history.position < at + 5
    assert history.run_to(Changes(0x140000 + abi.KVM_STEAL_TIME_VERSION, 4))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (SetRegister(1, "rax", 0), "there is no vCPU 1"),
        (SetRegister(0, "rxx", 0), "there is no register 'rxx'"),
        (SetRegister(0, "rax", 1 << 64), "does not fit"),
        (SetMemory(1 << 40, b"x"), "not in RAM"),
        (SetMsr(0, abi.MSR_KVM_STEAL_TIME, 0x3F), "would raise #GP"),
        (Preempt(0, "task7"), "there is no 'task7'"),
        (Preempt(3, "task0"), "there is no pCPU 3"),
        (Preempt(0, "vcpu0"), "does not wait"),
    ],
)
def test_edit_that_cannot_be_made_changes_nothing(change: object, says: str) -> None:
    history = History(load_guest("hog"), Config(tasks=("busy",), insn_limit=10**6))
    history.go(400)
    before = history.state()
    with pytest.raises(HostError, match=says):
        history.edit(change)
    assert history.edits == () and history.state() == before


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_checkpoints_are_few_and_memory_is_that_of_changed_pages() -> None:
    history = History(load_guest("hog"), OPTIONS["hog"])
    history.end()
    for _ in range(20):
        history.back()
    assert history.checkpoints < 60
    assert len(history._memory._first) < 30


def test_console_and_trace_are_told_once() -> None:
    printed, events = bytearray(), []
    history = History(load_guest("hello"), console=printed.append, trace=events.append)
    history.end()
    once = bytes(printed), list(events)
    history.go(10)
    history.end()
    assert (bytes(printed), events) == once and printed


@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_time_is_reached_where_it_has_just_passed_from_wherever(vcpus: int) -> None:
    history = History(load_guest("clock"), Config(vcpus=vcpus, tasks=("busy",)))
    for text, now in (("time:250us", 250_000), ("time:40us", 40_000), ("time:1ms", 1_000_000), ("time:7ns", 7)):
        assert travel(history, text)
        here = history.position
        assert history.machine.now_ns >= now
        history.back()
        assert history.machine.now_ns < now
        history.go(here)
    assert not travel(history, "time:9s") and history.ended
    with pytest.raises(HostError, match="is not a duration"):
        travel(history, "time:soon")


def test_memory_is_watched_where_it_is_whatever_page_tables_lead_there(tmp_path: Path) -> None:
    image = load_guest(upper_half.build(find_compiler(), tmp_path))
    total = Symbols.of(image.source).address("total")
    assert total is not None and total > upper_half.UPPER
    history = History(image, Config(tasks=("busy",), quantum_ps=10**6))
    with pytest.raises(HostError, match="no memory"):
        history.run_to(Changes(total, 8))  # the tables that it is given have nothing there
    assert history.run_to(happens("wrmsr", msr=abi.MSR_KVM_STEAL_TIME))
    assert history.run_to(Touches(((total - 64 & ~63, 192),)))  # its neighbour, the area
    assert history.run_to(Changes(total, 8, physical=False))
    linear = history.position
    history.go(0)
    assert history.run_to(Changes(image.gpa_of(total), 8, physical=True))
    assert history.position == linear
    assert history.machine.ram.load(image.gpa_of(total), 8)
