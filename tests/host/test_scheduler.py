"""The scheduler's rules, one by one, on the smallest host that shows each."""

import pytest

from emu.faults import HostError
from emu.host.entity import Books
from emu.host.policy import Fair, Policy, RoundRobin
from emu.host.scheduler import Scheduler
from emu.host.script import parse_script
from emu.host.task import Bursty, Busy, Periodic
from emu.host.turn import Alarm, Rest, Run
from tests.host.driver import Driver, Phase, Vcpu

US = 10**6
ALWAYS = Vcpu((Phase(10**9),))


def test_a_lone_vcpu_runs_without_a_bound() -> None:
    scheduler = Scheduler(1, RoundRobin(US))
    scheduler.add_vcpu()
    assert scheduler.next(None) == Run(0, 0, 0, None)
    scheduler.ran(0, 5 * US)
    assert scheduler.next(None) == Run(0, 0, 5 * US, None)
    assert scheduler.next(9 * US) == Run(0, 0, 5 * US, 9 * US)


def test_a_quantum_without_a_competitor_is_no_switch() -> None:
    driver = Driver(RoundRobin(US), [ALWAYS], [Periodic(100 * US, US, phase_ps=50 * US)]).run(60 * US)
    assert driver.switches()[:2] == [
        (0, 0, None, "vcpu0", "start"),
        # The task comes at the end of the 50th quantum, which nobody saw end; it waits for the end of the next.
        (0, 51 * US, "vcpu0", "task0", "quantum"),
    ]


def test_a_late_competitor_waits_for_the_next_multiple_of_the_quantum() -> None:
    driver = Driver(RoundRobin(10 * US), [ALWAYS], [Periodic(200 * US, US, phase_ps=43 * US)]).run(60 * US)
    assert driver.switches()[1] == (0, 50 * US, "vcpu0", "task0", "quantum")
    assert driver.scheduler.tasks[0].books(60 * US) == Books(ran_ns=1000, stolen_ns=7000, idle_ns=52000)


def test_a_second_competitor_does_not_prolong_a_quantum_that_is_over() -> None:
    # The quantum ends at 2500, inside the vCPU's second instruction of 2000 ps; another task comes before it is done.
    driver = Driver(RoundRobin(2500), [ALWAYS], [Busy(), Periodic(US, 10, phase_ps=2600)], ps_per_insn=2000).run(9000)
    assert driver.switches()[1] == (0, 4000, "vcpu0", "task0", "quantum")


def test_a_task_that_becomes_runnable_inside_a_run_waits_from_then() -> None:
    # Instructions of 2000 ps: the vCPU cannot stop at 1500 and overshoots to 2000.
    scheduler = Scheduler(1, RoundRobin(1000))
    scheduler.add_vcpu()
    task = scheduler.add_task(Periodic(10**6, 10, phase_ps=1500))
    assert scheduler.next(None) == Run(0, 0, 0, 1500)
    scheduler.ran(0, 2000)
    scheduler.next(None)
    # The task's 10 ps of work are served from 2000 to 2010, after a wait since 1500.
    assert scheduler.next(None) == Run(0, 0, 2010, 10**6 + 1500)
    assert task.books(2010) == Books(ran_ns=0, stolen_ns=1, idle_ns=1)


def test_wait_before_the_first_switch_is_stolen() -> None:
    driver = Driver(RoundRobin(5 * US), [ALWAYS, ALWAYS], []).run(12 * US)
    first, second = driver.scheduler.vcpus
    assert first.books(12 * US) == Books(ran_ns=7000, stolen_ns=5000, idle_ns=0)
    assert second.books(12 * US) == Books(ran_ns=5000, stolen_ns=7000, idle_ns=0)


def test_sleep_is_idle_and_the_wait_after_it_stolen() -> None:
    # vcpu0 halts at 2 us and is woken at 5 us; the task, on the pCPU since 2 us, keeps it until 12 us.
    driver = Driver(RoundRobin(10 * US), [Vcpu((Phase(2000, sleep_ps=3 * US), Phase(10**9)))], [Busy()]).run(13 * US)
    assert driver.log == [
        (0, 0, None, "vcpu0", "start"),
        (0, 2 * US, "vcpu0", "task0", "blocked"),
        ("woke", 5 * US, "vcpu0"),
        (0, 12 * US, "task0", "vcpu0", "quantum"),
    ]
    assert driver.entities[0].books(13 * US) == Books(ran_ns=3000, stolen_ns=7000, idle_ns=3000)


def test_a_vcpu_woken_as_it_blocks_never_leaves_its_pcpu() -> None:
    scheduler = Scheduler(1, RoundRobin(10 * US))
    scheduler.add_vcpu()
    scheduler.add_task(Busy())
    scheduler.next(None)
    scheduler.ran(0, US)
    scheduler.block(0)
    scheduler.wake(0, 0)
    assert scheduler.next(None) == Run(0, 0, US, 10 * US)
    assert scheduler.books(0) == Books(1000, 0, 0)


def test_waking_one_that_is_not_blocked_does_nothing() -> None:
    scheduler = Scheduler(1, RoundRobin(US))
    scheduler.add_vcpu()
    scheduler.add_vcpu()
    scheduler.wake(1, 0)
    assert scheduler.next(None) == Run(0, 0, 0, US)
    scheduler.wake(0, 500)
    assert scheduler.next(None) == Run(0, 0, 0, US)


def test_a_wake_meant_for_an_earlier_sleep_does_not_end_a_later_one() -> None:
    scheduler = Scheduler(1, RoundRobin(US))
    scheduler.add_vcpu(blocked=True)
    scheduler.wake(0, 100 * US)
    scheduler.wake(0, 10 * US)
    assert scheduler.next(None) == Run(0, 0, 10 * US, 100 * US)
    scheduler.ran(0, 5 * US)
    scheduler.block(0)
    assert scheduler.next(200 * US) == Alarm(200 * US)
    assert scheduler.books(0) == Books(ran_ns=5000, stolen_ns=0, idle_ns=195_000)
    assert scheduler.next(None) == Rest(200 * US)


def test_the_alarm_comes_when_every_vcpu_has_reached_it() -> None:
    scheduler = Scheduler(2, RoundRobin(US), interleave_ps=400)
    scheduler.add_vcpu()
    scheduler.add_vcpu()
    seen = []
    while not isinstance(turn := scheduler.next(1000), Alarm):
        seen.append((turn.pcpu, turn.now_ps, turn.until_ps))
        scheduler.ran(turn.pcpu, turn.until_ps - turn.now_ps)
    assert seen == [(0, 0, 400), (1, 0, 400), (0, 400, 800), (1, 400, 800), (0, 800, 1000), (1, 800, 1000)]
    assert turn == Alarm(1000)


def test_a_host_task_on_the_other_pcpu_costs_a_vcpu_no_interleaving() -> None:
    scheduler = Scheduler(2, RoundRobin(US), interleave_ps=400)
    scheduler.add_vcpu()
    scheduler.add_task(Busy())
    assert scheduler.next(None) == Run(0, 0, 0, None)


def test_rest_comes_at_once_though_host_tasks_go_on() -> None:
    vcpu = Vcpu((Phase(1500, sleep_ps=-1),), pcpu=0)
    driver = Driver(RoundRobin(US), [vcpu], [Busy(pcpu=0), Bursty(US, US, pcpu=1)], pcpus=2).run(10**12)
    # 1000 instructions, a quantum of the task's, 500 instructions: the last switch is still seen.
    assert driver.end == Rest(2_500_000)
    assert driver.switches()[-1] == (0, 2_500_000, "vcpu0", "task0", "blocked")


def test_a_host_without_vcpus_rests() -> None:
    scheduler = Scheduler(1, Fair(US))
    scheduler.add_task(Busy())
    assert scheduler.next(None) == Rest(0)


def test_sleeping_until_a_far_alarm_takes_one_step_per_switch() -> None:
    driver = Driver(Fair(US), [Vcpu((Phase(1, sleep_ps=10**13),))], [Busy(), Busy()], pcpus=2).run(10**13)
    assert len(driver.switches()) < 6


def test_waking_takes_the_lowest_idle_pcpu_it_may_use() -> None:
    driver = Driver(
        RoundRobin(US), [], [Periodic(9 * US, US, phase_ps=US), Periodic(9 * US, US, phase_ps=US, pcpu=2)], pcpus=3
    )
    driver.scheduler.add_vcpu(blocked=True)
    driver.scheduler.next(3 * US)
    assert [(e[0], e[3]) for e in driver.switches() if e[3]] == [(0, "task0"), (2, "task1")]


def test_one_taken_off_moves_to_an_idle_pcpu_the_pinned_one_could_not_use() -> None:
    driver = Driver(RoundRobin(5 * US), [ALWAYS], [Periodic(50 * US, 20 * US, phase_ps=US, pcpu=0)], pcpus=2).run(
        8 * US
    )
    assert driver.switches() == [
        (0, 0, None, "vcpu0", "start"),
        (0, 5 * US, "vcpu0", "task0", "quantum"),
        (1, 5 * US, None, "vcpu0", "quantum"),
    ]


def test_intervals_of_fractions_of_a_nanosecond_add_up() -> None:
    driver = Driver(RoundRobin(1500), [ALWAYS, ALWAYS], [], ps_per_insn=500).run(3 * US)
    at_ps = driver.scheduler.latest_ps()
    for vcpu in driver.scheduler.vcpus:
        books = vcpu.books(at_ps)
        assert sum(books) == at_ps // 1000
    one, other = (vcpu.books(at_ps) for vcpu in driver.scheduler.vcpus)
    assert one.ran_ns == other.stolen_ns and one.stolen_ns == other.ran_ns


def test_blocking_a_vcpu_that_waits_takes_it_out_of_the_queue() -> None:
    scheduler = Scheduler(1, RoundRobin(US))
    scheduler.add_vcpu()
    scheduler.add_vcpu()
    scheduler.next(None)
    scheduler.block(1)
    assert scheduler.next(None) == Run(0, 0, 0, None)
    with pytest.raises(ValueError, match="blocked already"):
        scheduler.block(1)


@pytest.mark.parametrize("pcpu", [1, -1])
def test_pinning_to_a_pcpu_there_is_not_is_refused(pcpu: int) -> None:
    scheduler = Scheduler(1, RoundRobin())
    with pytest.raises(HostError, match="no pCPU"):
        scheduler.add_vcpu(pcpu=pcpu)
    with pytest.raises(HostError, match="no pCPU"):
        scheduler.add_task(Busy(pcpu=pcpu))


def test_impossible_hosts_are_refused() -> None:
    for make in (
        lambda: Scheduler(0, RoundRobin()),
        lambda: Scheduler(1, RoundRobin(), interleave_ps=0),
        lambda: RoundRobin(0),
        lambda: Scheduler(1, RoundRobin()).add_vcpu(weight=0),
    ):
        with pytest.raises(HostError):
            make()


def test_time_of_a_vcpu_that_does_not_run_is_refused() -> None:
    scheduler = Scheduler(1, RoundRobin())
    scheduler.add_vcpu(blocked=True)
    scheduler.next(5)
    with pytest.raises(ValueError, match="pCPU 0"):
        scheduler.ran(0, 1)


# --- directed yield ---


def yielding(to: int, insns: int = 3) -> Vcpu:
    """Computes, yields once, and computes on."""
    return Vcpu((Phase(insns, yields=to), Phase(10**9)))


@pytest.mark.parametrize("policy", [RoundRobin, Fair])
def test_yield_gives_the_pcpu_to_whom_it_names_and_the_giver_waits(policy: type[Policy]) -> None:
    driver = Driver(policy(US), [yielding(2), ALWAYS, ALWAYS], []).run(2 * US)
    assert driver.switches()[:2] == [(0, 0, None, "vcpu0", "start"), (0, 3000, "vcpu0", "vcpu2", "yield")]
    books = driver.scheduler.books(0)
    assert (books.ran_ns, books.idle_ns) == (3, 0) and books.stolen_ns >= 1997


def test_who_was_yielded_to_has_a_whole_quantum() -> None:
    driver = Driver(RoundRobin(US), [yielding(1), ALWAYS], []).run(2 * US)
    assert driver.switches()[2] == (0, 3000 + US, "vcpu1", "vcpu0", "quantum")


NOT_READY = {
    "itself": ([yielding(0), ALWAYS], 1),
    "running elsewhere": ([yielding(1), ALWAYS], 2),
    "blocked": ([yielding(1), Vcpu((Phase(1),), blocked=True), ALWAYS], 1),
    "bound to another pCPU": ([yielding(2), Vcpu((Phase(10**9),), pcpu=1), Vcpu((Phase(10**9),), pcpu=1)], 2),
}


@pytest.mark.parametrize(("vcpus", "pcpus"), NOT_READY.values(), ids=NOT_READY)
def test_yield_to_one_that_is_not_ready_does_nothing(vcpus: list[Vcpu], pcpus: int) -> None:
    idle = [vcpu._replace(program=(Phase(3), Phase(10**9))) if n == 0 else vcpu for n, vcpu in enumerate(vcpus)]
    logs = [Driver(RoundRobin(US), one, [], pcpus=pcpus).run(3 * US).log for one in (vcpus, idle)]
    assert logs[0] == logs[1]


def test_yield_says_whether_anybody_was_ready() -> None:
    scheduler = Scheduler(1, RoundRobin(US))
    for _ in range(2):
        scheduler.add_vcpu()
    scheduler.next(None)
    assert [scheduler.yield_to(0, 0), scheduler.yield_to(1, 0), scheduler.yield_to(0, 1)] == [False, False, True]


def test_whom_another_pcpu_took_in_the_meantime_is_not_yielded_to() -> None:
    scheduler = Scheduler(2, RoundRobin(US))
    vcpus = [scheduler.add_vcpu() for _ in range(3)]
    scheduler.next(None)
    scheduler.ran(0, US)
    scheduler.next(None)
    scheduler.ran(1, US - 1000)
    assert scheduler.yield_to(1, 2)
    scheduler.ran(1, 2000)  # the rest of that instruction; meanwhile the quantum on pCPU 0 is over
    scheduler.next(None)
    scheduler.ran(0, 3000)
    scheduler.next(None)
    assert [vcpu.pcpu for vcpu in vcpus] == [None, 1, 0]


def test_yield_of_one_that_blocks_before_the_switch_is_forgotten() -> None:
    sleeper = Vcpu((Phase(3, yields=2, sleep_ps=-1), Phase(1)))
    driver = Driver(RoundRobin(US), [sleeper, ALWAYS, ALWAYS], []).run(2 * US)
    assert driver.switches()[1:3] == [
        (0, 3000, "vcpu0", "vcpu1", "blocked"),
        (0, 3000 + US, "vcpu1", "vcpu2", "quantum"),
    ]


def test_script_is_not_swayed_by_a_yield() -> None:
    script = parse_script("0 vcpu0 5us\n0 vcpu1 5us\nloop\n", "s", pcpus=1, vcpus=2, tasks=0, ps_per_insn=1000)
    driver = Driver(script, [yielding(1), ALWAYS], []).run(4 * US)
    assert driver.switches() == [(0, 0, None, "vcpu0", "script")]
