"""What is said about a step names what happened, and the rule behind it."""

import pytest

from emu import abi
from emu.explain.effect import BRANCHES, effect
from emu.explain.events import sentence
from emu.explain.step import take
from emu.guest import load_guest
from emu.history.history import History
from emu.history.where import travel
from emu.scenario import Config
from emu.trace import NAMES, MsrWrite
from tests.programs import EXIT, assembled


def told(guest: str, first: str, count: int, config: Config = Config()) -> list[str]:
    """All sentences of `count` steps from a place on."""
    history = History(load_guest(guest), config)
    assert travel(history, first)
    return [one for _ in range(count) for one in take(history).sentences]


def test_update_is_told_store_by_store() -> None:
    lines = told("readers/seqlock", "event:wrmsr", 1)
    assert [line for line in lines if "version" in line or "steal" in line] == [
        "host stores into vcpu0's area: version becomes 1, which is odd: an update begins; nothing in the area can be"
        " trusted",
        "host stores into vcpu0's area: steal becomes 0 ns",
        "host stores into vcpu0's area: version becomes 2, which is even: the update is done",
    ]


def test_reads_of_the_area_are_told_with_their_meaning() -> None:
    lines = told("readers/seqlock", "event:mark", 12)
    assert "reads version = 2: even, no update is under way" in lines
    assert "reads steal = 0" in lines
    assert "cmp: 0x2 and 0x2 are equal" in lines
    assert any(line.startswith("jne: not so (not equal, ZF = 0), the branch is not taken") for line in lines)


@pytest.mark.parametrize(
    ("msr", "value", "says"),
    [
        (abi.MSR_KVM_STEAL_TIME, 0x1003, "bit 1 of 0x1003 is reserved (mask 0x3e); the old value 0x0 stays"),
        (abi.MSR_KVM_ASYNC_PF_EN, 0x1010, "bit 4 of 0x1010 is reserved (mask 0x30); the old value 0x0 stays"),
        (abi.MSR_KVM_PV_EOI_EN, 0x1002, "0x1002 is not a multiple of 4; the old value 0x0 stays"),
        (abi.MSR_KVM_PV_EOI_EN, 1 << 40 | 1, "0x10000000000 is not in the guest's RAM; the old value 0x0 stays"),
        (abi.MSR_KVM_POLL_CONTROL, 2, "bit 1 of 0x2 is reserved (mask 0xfffffffffffffffe); the old value 0x1 stays"),
        (abi.MSR_KVM_ASYNC_PF_INT, 0x100, "0x100 is no vector: it takes 8 bits; the old value 0x0 stays"),
        (abi.MSR_KVM_MIGRATION_CONTROL + 1, 0, "there is no MSR 0x4b564d09 here"),
    ],
)
def test_refusal_names_its_rule(msr: int, value: int, says: str) -> None:
    history = History(load_guest("hello"))
    line = sentence(history.machine, MsrWrite(0, 0, msr, value, False))
    assert line.startswith("WRMSR raises #GP: ") and says in line


def test_refusal_of_what_is_not_offered_says_so() -> None:
    history = History(load_guest("hello"), Config(without=("steal-time",)))
    line = sentence(history.machine, MsrWrite(0, 0, abi.MSR_KVM_STEAL_TIME, 1, False))
    assert "a feature that CPUID does not offer" in line


def test_every_kind_of_event_can_be_told() -> None:
    seen = set()
    for guest, config in {
        "clock": Config(vcpus=2, tasks=("busy",)),
        "idle": Config(tasks=("periodic:period=1ms,run=300us",)),
        "async_pf": Config(swap=("page:at=50us,in=200us,every=1ms",)),
        "conformance/apic": Config(),
        "readers/seqlock": Config(),
    }.items():
        history = History(load_guest(guest), config)
        for _, event in history.between(0, 60_000):
            line = sentence(history.machine, event)
            seen.add(type(event))
            assert "\n" not in line and "{" not in line
    named = {NAMES[kind] for kind in seen}
    assert named >= {"switch", "wake", "exit", "wrmsr", "store", "page", "trap", "mark", "console"}


FLAGS = {"je": "cmp eax, eax", "jb": "cmp ecx, eax", "jl": "cmp ecx, eax", "js": "test edx, edx", "jo": "add ebx, 1"}


@pytest.mark.parametrize("branch", sorted(BRANCHES))
@pytest.mark.parametrize("compare", ["cmp eax, eax", "cmp eax, ecx", "cmp ecx, eax", "cmp edx, eax", "add ebx, 1"])
def test_branch_is_told_as_it_went(branch: str, compare: str) -> None:
    """The processor decides; the sentence says the same."""
    source = (
        f"mov eax, 5\n mov ecx, 3\n mov edx, -1\n mov ebx, 0x7fffffff\n {compare}\n {branch} there\n nop\nthere:\n"
        "mov al, 0\n" + EXIT
    )
    history = History(assembled(source))
    steps = []
    while not history.ended:
        steps.append(take(history))
    at = next(number for number, step in enumerate(steps) if step.text.startswith(branch + " "))
    taken = not any(step.text == "nop" for step in steps)
    assert steps[at].sentences[0].endswith("the branch is taken") == taken


def test_trap_into_the_guests_own_handler_is_told() -> None:
    history = History(load_guest("bad_msr"))
    lines = [sentence(history.machine, event) for _, event in history.between(0, 5000)]
    assert "#GP, general protection, error code 0x0: the guest's own handler gets it" in lines


def test_effect_tells_registers_and_flags() -> None:
    history = History(assembled("mov eax, 5\n sub eax, 5\n mov al, 0\n" + EXIT))
    history.go(1)
    assert take(history).sentences == ("mov: rax becomes 0x5",)
    assert take(history).sentences == ("sub: rax becomes 0x0, PF becomes 1, ZF becomes 1",)
    state = history.machine.packages[0].vcpu.state()
    assert effect("nop", state, state) == "nop: no register changes"
