"""Host tasks: the grammar, and when each kind works and sleeps."""

import pytest

from emu.faults import HostError
from emu.host.policy import RoundRobin
from emu.host.task import Bursty, Busy, Periodic, Task, parse_task
from tests.host.driver import Driver, Phase, Vcpu

MS = 10**9
HALTED = Vcpu((Phase(1),), blocked=True)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("busy", Busy()),
        ("busy:weight=2", Busy(weight=2)),
        ("busy:pcpu=1,weight=3", Busy(weight=3, pcpu=1)),
        ("periodic:period=10ms,run=3ms,phase=0", Periodic(10 * MS, 3 * MS)),
        ("periodic:run=250us,period=1s,phase=7ns,pcpu=0", Periodic(1000 * MS, MS // 4, 7000, pcpu=0)),
        ("bursty:on=2ms,off=5ms", Bursty(2 * MS, 5 * MS)),
    ],
)
def test_tasks_are_read(text: str, task: Task) -> None:
    assert parse_task(text) == task


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lazy", "no kind of task is called 'lazy'; known are busy, periodic, bursty"),
        ("", "no kind of task is called ''"),
        ("busy:", "has no part ''; known are weight=, pcpu="),
        ("busy:wait=2", "has no part 'wait=2'; known are weight=, pcpu="),
        ("busy:weight", "has no part 'weight'"),
        ("busy:weight=2,weight=2", "weight is given twice"),
        ("busy:weight=0", "weight=0 cannot be used; write a whole number from 1 to 10000"),
        ("busy:weight=2.5", "weight=2.5 cannot be used"),
        ("busy:pcpu=-1", "pcpu=-1 cannot be used"),
        ("busy:weight=²", "cannot be used"),
        ("periodic:period=10ms", "needs run="),
        ("periodic:period=10ms,run=0ms", "run=0ms is not a duration"),
        ("periodic:period=10ms,run=3", "run=3 is not a duration"),
        ("periodic:period=1ms,run=3ms", "longer than its period"),
        ("bursty:on=1ms", "needs off="),
        ("bursty:on=1ms,off=0", "off=0 is not a duration"),
        ("bursty:on=1ms,off=" + "9" * 5000 + "ms", "is not a duration"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, told: str) -> None:
    with pytest.raises(HostError) as caught:
        parse_task(text, "--task")
    assert caught.value.where == "--task" and caught.value.remedy
    assert told in str(caught.value)


def _when(task: Task, until_ps: int) -> list[tuple[str, int]]:
    driver = Driver(RoundRobin(MS), [HALTED], [task])
    driver.scheduler.next(until_ps)
    return [(str(event[4]), int(str(event[1]))) for event in driver.switches()]


def test_a_periodic_task_runs_at_each_release() -> None:
    assert _when(Periodic(10 * MS, 3 * MS, phase_ps=MS), 22 * MS) == [
        ("wake", MS), ("blocked", 4 * MS), ("wake", 11 * MS), ("blocked", 14 * MS), ("wake", 21 * MS),
    ]  # fmt: skip


def test_a_periodic_task_without_sleep_never_leaves_its_pcpu() -> None:
    assert _when(Periodic(MS, MS), 20 * MS) == [("start", 0)]


def test_a_bursty_task_sleeps_after_its_work() -> None:
    assert _when(Bursty(2 * MS, 5 * MS), 10 * MS) == [
        ("start", 0), ("blocked", 2 * MS), ("wake", 7 * MS), ("blocked", 9 * MS),
    ]  # fmt: skip


def test_a_late_periodic_task_works_off_what_it_missed() -> None:
    # The vCPU holds the pCPU for 10 ms at a time; the task needs 1 ms in each 2.
    driver = Driver(RoundRobin(10 * MS), [Vcpu((Phase(10**9),))], [Periodic(2 * MS, MS)], ps_per_insn=MS // 10)
    driver.run(16 * MS)
    # Released at 0, 2, 4, ... 18 ms: from 10 ms on it works without a pause until it has caught up with them at 20 ms.
    assert [event[1:] for event in driver.switches()][:2] == [
        (0, None, "vcpu0", "start"),
        (10 * MS, "vcpu0", "task0", "quantum"),
    ]
    driver.run(21 * MS)
    assert [event[1:] for event in driver.switches()][2] == (20 * MS, "task0", "vcpu0", "quantum")


def test_work_is_measured_on_the_pcpu_not_on_the_wall() -> None:
    driver = Driver(RoundRobin(MS), [Vcpu((Phase(10**9),))], [Bursty(3 * MS, 100 * MS)], ps_per_insn=MS // 10)
    driver.run(8 * MS)
    task = driver.scheduler.tasks[0]
    assert task.run_state == "blocked" and task.since_ps == 6 * MS
    assert task.books(8 * MS).ran_ns == 3_000_000
