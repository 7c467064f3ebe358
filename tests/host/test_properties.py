"""What holds for every workload, on every host, under every policy."""

from itertools import pairwise

import pytest
from hypothesis import Phase as Steps
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import clock
from emu.host.entity import BLOCKED
from emu.host.policy import Fair, Policy, Random, RoundRobin
from emu.host.task import Bursty, Busy, Periodic, Task
from emu.host.turn import Rest
from tests.host.driver import STEADY, Driver, Phase, Vcpu

END_PS = 1_000_000


class Workload:
    def __init__(self, pcpus: int, make: object, vcpus: list[Vcpu], tasks: list[Task], ps_per_insn: int) -> None:
        self.pcpus, self.make, self.vcpus, self.tasks, self.ps_per_insn = pcpus, make, vcpus, tasks, ps_per_insn

    def __repr__(self) -> str:
        return f"Workload{self.pcpus, type(self.make()).__name__, self.vcpus, self.tasks, self.ps_per_insn}"

    def drive(self, slices: tuple[int, ...] = ()) -> Driver:
        driver = Driver(
            self.make(), self.vcpus, self.tasks, pcpus=self.pcpus, ps_per_insn=self.ps_per_insn, slices=slices
        )  # fmt: skip
        return driver.run(END_PS)


@st.composite
def workloads(draw: st.DrawFn, max_pcpus: int = 3) -> Workload:
    pcpus = draw(st.integers(1, max_pcpus))
    pins = st.one_of(st.none(), st.integers(0, pcpus - 1))
    weights = st.integers(1, 4)
    count = draw(st.integers(1, 4))
    phases = st.builds(
        Phase,
        insns=st.integers(1, 120),
        sleep_ps=st.one_of(st.none(), st.just(-1), st.integers(0, 150_000)),
        wakes=st.one_of(st.none(), st.integers(0, count - 1)),
        yields=st.one_of(st.none(), st.integers(0, count - 1)),
    )
    vcpu = st.builds(
        Vcpu, program=st.lists(phases, min_size=1, max_size=4).map(tuple), pcpu=pins, weight=weights,
        blocked=st.booleans(),
    )  # fmt: skip
    time = st.integers(1, 60_000)
    task = st.one_of(
        st.builds(Busy, weight=weights, pcpu=pins),
        st.builds(Periodic, period_ps=st.integers(60_000, 200_000), run_ps=time, phase_ps=st.integers(0, 90_000),
                  weight=weights, pcpu=pins),
        st.builds(Bursty, on_ps=time, off_ps=time, weight=weights, pcpu=pins),
    )  # fmt: skip
    quantum = draw(st.integers(3_000, 90_000))
    seed = draw(st.integers(0, 9))
    makers = (lambda: RoundRobin(quantum), lambda: Fair(quantum), lambda: Random(quantum, seed))
    return Workload(
        pcpus,
        draw(st.sampled_from(makers)),
        draw(st.lists(vcpu, min_size=count, max_size=count)),
        draw(st.lists(task, max_size=3)),
        draw(st.sampled_from((333, 700, 1000))),
    )


# The driver asserts, at every event: the identity, one pCPU per entity, pins, no idle pCPU beside a waiting entity that
# may use it, and that time never runs backwards for an entity, a pCPU or the host.


@STEADY
@given(workloads())
def test_books_equal_those_kept_from_the_events_alone(workload: Workload) -> None:
    driver = workload.drive()
    at_ps = driver.scheduler.latest_ps()
    for entity in driver.entities:
        books = entity.books(at_ps)
        assert books == driver.own_books(entity, at_ps)
        assert sum(books) == clock.ns(at_ps)


@STEADY
@given(workloads())
def test_ran_is_the_time_the_driver_reported(workload: Workload) -> None:
    driver = workload.drive()
    for entity, insns in zip(driver.entities, driver.insns, strict=False):
        spans = [
            (begin, end) for (begin, state), (end, _) in pairwise(driver.history[entity.name]) if state == "running"
        ]
        reported_ps = insns * driver.ps_per_insn
        if entity.pcpu is not None and entity.run_state == "running":
            spans.append((entity.since_ps, driver.scheduler._dispatcher.pcpus[entity.pcpu].time_ps))
        assert sum(end - begin for begin, end in spans) == reported_ps


@STEADY
@given(workloads())
def test_same_inputs_give_the_same_sequence(workload: Workload) -> None:
    assert workload.drive().log == workload.drive().log


@STEADY
@given(workloads(max_pcpus=1), st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple))
def test_on_one_pcpu_early_stops_change_nothing(workload: Workload, slices: tuple[int, ...]) -> None:
    # Past the end, where the two stop looking, one may have come an instruction further.
    whole, cut = ([e for e in d.log if e[1] < END_PS] for d in (workload.drive(), workload.drive(slices)))
    assert whole == cut


@STEADY
@given(workloads())
def test_the_host_rests_only_when_every_vcpu_is_blocked_for_good(workload: Workload) -> None:
    driver = workload.drive()
    vcpus = driver.scheduler.vcpus
    if isinstance(driver.end, Rest):
        assert all(vcpu.run_state == BLOCKED and vcpu not in driver.on for vcpu in vcpus) and not driver.alarms
    else:
        assert driver.alarms or any(vcpu.run_state != BLOCKED for vcpu in vcpus)


@STEADY
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(5_000, 50_000), st.sampled_from((1000, 700)))
def test_fair_serves_by_weight_to_within_a_quantum(weights: list[int], quantum_ps: int, ps_per_insn: int) -> None:
    always = (Phase(10**6),)
    driver = Driver(
        Fair(quantum_ps), [Vcpu(always, weight=weight) for weight in weights[:2]],
        [Busy(weight=weight) for weight in weights[2:]], ps_per_insn=ps_per_insn,
    ).run(40 * quantum_ps)  # fmt: skip
    ran_ps = [1000 * entity.books(driver.scheduler.latest_ps()).ran_ns for entity in driver.entities]
    slack = quantum_ps + ps_per_insn + 1000 * 50
    for one, weight in zip(ran_ps, weights, strict=True):
        for other, least in zip(ran_ps, weights, strict=True):
            assert one / weight - other / least <= slack / min(weight, least)


def test_policies_are_all_reached() -> None:
    """The properties above would hold of nothing if no workload ever switched."""
    seen: set[object] = set()
    kinds: tuple[type[Policy], ...] = (RoundRobin, Fair, Random)
    wanted = {(kind, why) for kind in kinds for why in ("start", "quantum", "blocked", "wake", "yield")}
    wanted.add((Fair, "preempted"))

    class Enough(Exception):
        pass

    @settings(STEADY, max_examples=1000, phases=(Steps.generate,))
    @given(workloads())
    def collect(workload: Workload) -> None:
        driver = workload.drive()
        seen.update((type(driver.scheduler.policy), event[-1]) for event in driver.switches())
        if wanted <= seen:
            raise Enough

    with pytest.raises(Enough):
        collect()
    assert (RoundRobin, "preempted") not in seen
