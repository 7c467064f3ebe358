"""Round robin, fair, random: who is next, and for how long."""

from itertools import pairwise

import pytest

from emu.faults import HostError
from emu.host.policy import NAMES, Fair, Random, RoundRobin, policy_from
from emu.host.script import Line, Script
from emu.host.task import Bursty, Busy, Periodic
from tests.host.driver import Driver, Phase, Vcpu

US = 10**6
ALWAYS = Vcpu((Phase(10**9),))


def _shares(driver: Driver) -> list[int]:
    return [entity.books(driver.scheduler.latest_ps()).ran_ns for entity in driver.entities]


def test_round_robin_serves_in_order_of_arrival() -> None:
    driver = Driver(RoundRobin(US), [ALWAYS, ALWAYS], [Busy()]).run(7 * US)
    assert [event[3] for event in driver.switches()][:7] == ["vcpu0", "vcpu1", "task0"] * 2 + ["vcpu0"]


def test_round_robin_ignores_weights() -> None:
    assert _shares(Driver(RoundRobin(US), [ALWAYS], [Busy(weight=9)]).run(100 * US)) == [50_000, 50_000]


@pytest.mark.parametrize("scale", [1, 7, 1000])
def test_fair_gives_two_to_one(scale: int) -> None:
    driver = Driver(Fair(US), [ALWAYS._replace(weight=2 * scale)], [Busy(weight=scale)]).run(300 * US)
    assert _shares(driver) == [200_000, 100_000]


def test_fair_gives_one_who_slept_no_more_than_half_a_quantum_ahead() -> None:
    # The task slept through 100 quanta. It preempts, runs its half quantum and one more, and then takes turns.
    quantum = 8 * US
    late = Periodic(10**12, 10**11, phase_ps=100 * quantum + US)
    driver = Driver(Fair(quantum), [ALWAYS], [late]).run(110 * quantum)
    woke = 100 * quantum + US
    assert driver.log[1:4] == [
        ("woke", woke, "task0"),
        (0, woke, "vcpu0", "task0", "preempted"),
        (0, woke + quantum, "task0", "vcpu0", "quantum"),
    ]
    vcpu, task = (entity.books(110 * quantum) for entity in driver.entities)
    # Its head start on half the time since: half a quantum; and another in the turn that is not over.
    assert abs(task.ran_ns - (110 * quantum - woke) // 2000) <= quantum // 1000
    assert vcpu.stolen_ns == task.ran_ns


def test_fair_gives_one_who_slept_no_credit_over_those_asleep_too() -> None:
    # The vCPU has run for 100 us when it halts; the task, new at 110 us, has not run at all. At 120 us the vCPU is
    # back: the task has had more than its half quantum, and must not run on until it has caught up.
    vcpu = Vcpu((Phase(100_000, sleep_ps=20 * US), Phase(10**9)))
    driver = Driver(Fair(10 * US), [vcpu], [Periodic(10**12, 500 * US, phase_ps=110 * US)]).run(125 * US)
    assert driver.log[-1] == (0, 120 * US, "task0", "vcpu0", "preempted")


def test_fair_does_not_preempt_one_that_is_hardly_ahead() -> None:
    # At 200 us the task wakes with 90 us to its name and the vCPU has 110: less than a quarter of a quantum apart.
    driver = Driver(Fair(100 * US), [ALWAYS], [Bursty(90 * US, 10 * US)]).run(250 * US)
    assert driver.log == [
        (0, 0, None, "vcpu0", "start"),
        (0, 100 * US, "vcpu0", "task0", "quantum"),
        (0, 190 * US, "task0", "vcpu0", "blocked"),
        ("woke", 200 * US, "task0"),
    ]
    # Ten more, and it is more.
    driver = Driver(Fair(100 * US), [ALWAYS], [Bursty(90 * US, 20 * US)]).run(250 * US)
    assert driver.log[3:] == [("woke", 210 * US, "task0"), (0, 210 * US, "vcpu0", "task0", "preempted")]


def test_fair_preempts_the_one_that_is_furthest_ahead() -> None:
    vcpus = [ALWAYS._replace(weight=4), ALWAYS]
    driver = Driver(Fair(US), vcpus, [Periodic(10**9, US, phase_ps=50 * US)], pcpus=2).run(60 * US)
    assert driver.switches()[2] == (1, 50 * US, "vcpu1", "task0", "preempted")


def test_fair_charges_the_same_however_a_run_is_cut() -> None:
    whole, cut = Fair(US), Fair(US)
    one, other = (Driver(policy, [ALWAYS._replace(weight=7)], []).entities[0] for policy in (whole, cut))
    whole.ran(one, 1000)
    for _ in range(1000):
        cut.ran(other, 1)
    assert one.vruntime == other.vruntime > 0


def test_random_draws_quanta_from_half_to_one_and_a_half() -> None:
    driver = Driver(Random(100_000, seed=3), [ALWAYS], [Busy()]).run(200 * US)
    times = [event[1] for event in driver.switches()]
    lengths = [after - before for before, after in pairwise(times)]
    assert min(lengths) >= 50_000 and max(lengths) <= 150_000 + 1000
    assert min(lengths) < 60_000 and max(lengths) > 140_000


def test_random_never_chooses_the_one_taken_off_and_all_others_alike() -> None:
    driver = Driver(Random(1000, seed=5), [ALWAYS] * 4, []).run(3 * US)
    pairs = [(event[2], event[3]) for event in driver.switches()[1:]]
    counts = {pair: pairs.count(pair) for pair in pairs}
    assert len(counts) == 12 and all(one != other for one, other in counts)
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_random_is_its_seed() -> None:
    logs = [Driver(Random(1000, seed), [ALWAYS] * 3, []).run(100_000).log for seed in (1, 1, 2)]
    assert logs[0] == logs[1] != logs[2]


def test_random_draws_are_the_same_on_every_python() -> None:
    policy = Random(1000, seed=42)
    assert [policy.quantum_ps() for _ in range(6)] == [1154, 614, 525, 1259, 781, 750]


def test_policies_are_built_by_name() -> None:
    script = Script([Line(0, "vcpu0", US)])
    built = [policy_from(name, US, 1, script if name == "script" else None) for name in NAMES]
    assert [type(policy) for policy in built] == [RoundRobin, Fair, Random, Script]


def test_an_unknown_policy_names_those_there_are() -> None:
    with pytest.raises(
        HostError, match="--policy: no policy is called 'lottery'; known are round-robin, fair, random, script"
    ):
        policy_from("lottery", where="--policy")


def test_a_script_goes_with_the_policy_script_alone() -> None:
    with pytest.raises(HostError, match="needs a script"):
        policy_from("script")
    with pytest.raises(HostError, match="follows no script"):
        policy_from("fair", script=Script([Line(0, "vcpu0", US)]))
