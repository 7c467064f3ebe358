"""Scripts: who runs when, to the instruction; and the sentences for those that cannot be followed."""

import pytest

from emu.faults import HostError
from emu.host.policy import RoundRobin
from emu.host.script import Line, Script, parse_script
from emu.host.task import Busy, Periodic
from emu.host.turn import Rest
from tests.host.driver import Driver, Phase, Vcpu

US = 10**6
ALWAYS = Vcpu((Phase(10**9),))


def _script(text: str, *, pcpus: int = 1, vcpus: int = 2, tasks: int = 1, ps_per_insn: int = 1000) -> Script:
    return parse_script(
        text, "who.txt", pcpus=pcpus, vcpus=vcpus, tasks=tasks, ps_per_insn=ps_per_insn, quantum_ps=10 * US
    )


def test_lines_are_followed_to_the_picosecond_and_round_robin_follows() -> None:
    script = _script("# first\n0 vcpu0 5us\n\n0 task0 2us # then the task\n0 vcpu1 1234insns\n0 vcpu1 1us\n")
    driver = Driver(script, [ALWAYS, ALWAYS], [Busy()]).run(25 * US)
    over = 8 * US + 1_234_000
    assert driver.switches() == [
        (0, 0, None, "vcpu0", "script"),
        (0, 5 * US, "vcpu0", "task0", "script"),
        (0, 7 * US, "task0", "vcpu1", "script"),
        (0, over, "vcpu1", "vcpu0", "quantum"),
        (0, over + 10 * US, "vcpu0", "task0", "quantum"),
    ]
    assert driver.insns[1] == 2234


def test_a_loop_starts_over() -> None:
    driver = Driver(_script("0 vcpu0 3us\n0 vcpu1 1us\nloop"), [ALWAYS, ALWAYS], [Busy()]).run(40 * US)
    assert [event[1] for event in driver.switches()][:6] == [0, 3 * US, 4 * US, 7 * US, 8 * US, 11 * US]
    assert driver.scheduler.vcpus[0].books(40 * US).ran_ns == 30_000
    assert driver.scheduler.tasks[0].books(40 * US).stolen_ns == 40_000


@pytest.mark.parametrize("ps_per_insn", [333, 700, 1000])
def test_every_line_gets_its_instructions_though_others_end_inside_one(ps_per_insn: int) -> None:
    text = "0 vcpu0 10001ns\n0 vcpu1 77insns\n0 vcpu0 5insns\n0 vcpu1 1insns\n0 task0 9us\nloop"
    script = _script(text, ps_per_insn=ps_per_insn)
    driver = Driver(script, [ALWAYS, ALWAYS], [Busy()], ps_per_insn=ps_per_insn).run(3 * script.length_ps - US)
    assert driver.insns == [3 * (-(-10_001_000 // ps_per_insn) + 5), 3 * 78]


def test_ends_inside_an_instruction_do_not_add_up() -> None:
    script = Script([Line(0, "vcpu0", 2200), Line(0, "vcpu1", 1701)], loop=True, quantum_ps=US)
    driver = Driver(script, [ALWAYS, ALWAYS], [Busy()], ps_per_insn=700).run(US)
    begins = [n * script.length_ps + begin for n in range(300) for begin in (0, 2200)]
    late = [event[1] - begin for event, begin in zip(driver.switches(), begins, strict=False)]
    assert len(late) > 400 and all(0 <= ps < 700 for ps in late) and any(late)


def test_one_that_a_line_names_runs_nowhere_else() -> None:
    script = _script("0 vcpu0 10us", pcpus=2, vcpus=1, tasks=0)
    driver = Driver(script, [Vcpu((Phase(3000, sleep_ps=2 * US), Phase(10**9)))], [], pcpus=2).run(9 * US)
    assert driver.switches() == [(0, 0, None, "vcpu0", "script"), (0, 3 * US, "vcpu0", None, "blocked")]


def test_the_rest_of_a_line_passes_idle_when_its_owner_blocks_and_even_wakes() -> None:
    script = _script("0 vcpu0 10us\n0 vcpu1 2us\n0 vcpu0 1us", tasks=0)
    driver = Driver(script, [Vcpu((Phase(3000, sleep_ps=2 * US), Phase(10**9))), ALWAYS], []).run(13 * US)
    assert driver.log == [
        (0, 0, None, "vcpu0", "script"),
        (0, 3 * US, "vcpu0", None, "blocked"),
        ("woke", 5 * US, "vcpu0"),
        (0, 10 * US, None, "vcpu1", "script"),
        (0, 12 * US, "vcpu1", "vcpu0", "script"),
    ]
    assert driver.entities[0].books(13 * US) == (4000, 7000, 2000)


def test_a_line_that_begins_while_its_owner_is_blocked_is_an_error_with_its_place() -> None:
    script = _script("0 vcpu0 5us\n0 vcpu1 5us\n0 vcpu0 5us", tasks=0)
    with pytest.raises(HostError) as caught:
        Driver(script, [Vcpu((Phase(1000, sleep_ps=50 * US),)), ALWAYS], []).run(30 * US)
    assert str(caught.value).startswith("who.txt:3: vcpu0 is blocked at 10000 ns, where this line begins")


def test_a_task_released_at_the_beginning_of_its_line_is_runnable() -> None:
    script = _script("0 vcpu0 5us\n0 task0 1us\n0 vcpu0 1us")
    driver = Driver(script, [ALWAYS, ALWAYS], [Periodic(100 * US, US, phase_ps=5 * US)]).run(7 * US)
    assert driver.switches()[1][1:4] == (5 * US, "vcpu0", "task0")


def test_vcpus_are_handed_over_between_pcpus_even_inside_an_instruction() -> None:
    text = "0 vcpu0 1500ns\n1 vcpu1 1500ns\n0 vcpu1 2us\n1 vcpu0 2us\n0 task0 2us\n1 vcpu1 3us\n0 vcpu0 1us"
    for ps_per_insn in (1000, 700, 100):
        script = _script(text, pcpus=2, ps_per_insn=ps_per_insn)
        driver = Driver(script, [ALWAYS, ALWAYS], [Busy()], pcpus=2, ps_per_insn=ps_per_insn).run(6 * US)
        places = [(event[0], event[3]) for event in driver.switches() if event[3] is not None]
        assert {(0, "vcpu0"), (0, "vcpu1"), (1, "vcpu0"), (1, "vcpu1"), (0, "task0")} == set(places)


def test_a_pcpu_that_no_line_names_serves_those_that_no_line_names() -> None:
    driver = Driver(_script("0 vcpu0 5us\nloop", pcpus=2), [ALWAYS, ALWAYS], [Busy()], pcpus=2).run(40 * US)
    assert {(event[0], event[3]) for event in driver.switches()} == {(0, "vcpu0"), (1, "vcpu1"), (1, "task0")}


def test_a_pcpu_whose_lines_are_over_rests_until_all_are() -> None:
    driver = Driver(_script("0 vcpu0 5us\n1 vcpu1 2us", pcpus=2), [ALWAYS, ALWAYS], [Busy()], pcpus=2).run(14 * US)
    assert driver.switches()[:5] == [
        (0, 0, None, "vcpu0", "script"),
        (1, 0, None, "vcpu1", "script"),
        (1, 2 * US, "vcpu1", None, "script"),
        (0, 5 * US, "vcpu0", "task0", "quantum"),
        (1, 5 * US, None, "vcpu1", "script"),
    ]


def test_a_script_over_blocked_vcpus_rests() -> None:
    driver = Driver(
        _script("0 vcpu0 5us\nloop"), [Vcpu((Phase(10, sleep_ps=-1),)), ALWAYS._replace(blocked=True)], [Busy()]
    )
    assert isinstance(driver.run(US).end, Rest)


def test_a_script_against_a_pin_is_refused_with_its_place() -> None:
    script = _script("1 vcpu1 5us\n1 vcpu0 5us", pcpus=2)
    with pytest.raises(HostError, match=r"who.txt:2: vcpu0 is pinned to pCPU 0"):
        Driver(script, [ALWAYS._replace(pcpu=0), ALWAYS], [Busy()], pcpus=2).run(US)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0 vcpu0 5us\n0 vcpu0", "who.txt:2: the line has 2 words in place of three; write `pcpu who duration`"),
        ("0 vcpu0 5us later", "who.txt:1: the line has 4 words"),
        ("\n2 vcpu0 5us", "who.txt:2: there is no pCPU 2; there are 2, numbered from 0"),
        ("x vcpu0 5us", "who.txt:1: there is no pCPU x"),
        ("0 vcpu2 5us", "who.txt:1: there is no vcpu2; there are vcpu0, vcpu1, task0"),
        ("0 vcpu0 5", "who.txt:1: '5' is not a duration"),
        ("0 vcpu0 0us", "who.txt:1: '0us' gives vcpu0 no time"),
        ("0 vcpu0 insns", "who.txt:1: 'insns' is not a number of instructions"),
        ("0 vcpu0 0insns", "who.txt:1: '0insns' gives vcpu0 no time"),
        ("0 task0 5insns", "who.txt:1: task0 executes no instructions"),
        ("0 vcpu0 5us\nloop\n0 vcpu1 5us", "who.txt:3: a line follows `loop`"),
        ("# nothing\nloop", "who.txt: the script has no lines"),
        (
            "0 vcpu0 5us\n0 vcpu1 5us\n1 task0 6us\n1 vcpu1 9us",
            "who.txt:4: at 6000 ns vcpu1 is to run on pCPU 1 and, by who.txt:2, on pCPU 0",
        ),
    ],
)
def test_what_cannot_be_followed_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(HostError) as caught:
        _script(text, pcpus=2)
    assert str(caught.value).startswith(told)


def test_round_robin_after_a_script_has_its_quantum() -> None:
    assert isinstance(_script("0 vcpu0 1us"), RoundRobin) and _script("0 vcpu0 1us").quantum_ps() == 10 * US
