"""What a host does besides the area: time, interrupts, other structures, and answers that are lies or refusals."""

import pytest

from emu import abi
from emu.boot.image import flat_image
from emu.fuzz import findings, sweep
from emu.fuzz.harness import Harness
from emu.fuzz.records import EVENTS, GROUPS, HOSTILE, ODD_HOST, encode
from emu.fuzz.target import Target
from emu.history import recording
from emu.history.edits import Change, told
from emu.history.history import History
from tests.assemble import assemble

AREA, CLOCK, IDT = 0x150000, 0x151000, 0x152000
REGISTER = f"mov ecx, {abi.MSR_KVM_STEAL_TIME:#x}\nmov eax, {AREA + 1:#x}\nxor edx, edx\nwrmsr\nnop"
EXIT = f"mov dx, {abi.PORT_EXIT:#x}\nout dx, al\nL: jmp L"
LOAD = f"mov rbx, [{AREA:#x}]"

# The time goes on: else it exits with 1.
CLOCKWORK = f"""{REGISTER}
rdtsc
mov edi, eax
mov esi, edx
{LOAD}
rdtsc
shl rdx, 32
shl rsi, 32
or rdx, rax
or rsi, rdi
cmp rdx, rsi
setb al
{EXIT}"""
# It divides by what the host has told it about the TSC.
DIVIDES = f"""mov ecx, {abi.MSR_KVM_SYSTEM_TIME_NEW:#x}
mov eax, {CLOCK + 1:#x}
xor edx, edx
wrmsr
{REGISTER}
{LOAD}
mov eax, 1000
xor edx, edx
movzx ecx, byte ptr [{CLOCK + abi.PVCLOCK_TSC_TO_SYSTEM_MUL + 3:#x}]
div ecx
xor eax, eax
{EXIT}"""
# It believes that what it has written is what it reads, and that a feature which it has used stays.
READS_BACK = f"""{REGISTER}
mov ecx, {abi.MSR_KVM_STEAL_TIME:#x}
rdmsr
cmp eax, {AREA + 1:#x}
setne al
{EXIT}"""
ASKS_AGAIN = f"""{REGISTER}
mov eax, {abi.KVM_CPUID_FEATURES:#x}
cpuid
test eax, {1 << abi.KVM_FEATURE_STEAL_TIME:#x}
setz al
{EXIT}"""


def target(source: str, host: str = ODD_HOST, *also: str) -> Target:
    image = flat_image(assemble(source, abi.GUEST_GPA), "test", "long")
    return Target(image, "test", host, also=tuple(also))


def interrupted(handler: str) -> str:
    """A guest with one interrupt handler, which waits in a loop with RAX = 0; the status is what RAX is then."""
    return f"""lea rax, [rip+H]
mov word ptr [{IDT + 64 * 16:#x}], ax
mov word ptr [{IDT + 64 * 16 + 2:#x}], {abi.SELECTOR_CODE64}
mov word ptr [{IDT + 64 * 16 + 4:#x}], 0x8e00
shr rax, 16
mov word ptr [{IDT + 64 * 16 + 6:#x}], ax
mov word ptr [{IDT - 16:#x}], {65 * 16 - 1}
mov dword ptr [{IDT - 14:#x}], {IDT:#x}
lidt [{IDT - 16:#x}]
mov ecx, {abi.MSR_IA32_APICBASE:#x}
rdmsr
or eax, {abi.APICBASE_ENABLE | abi.APICBASE_X2APIC:#x}
wrmsr
mov ecx, {abi.APIC_SPIV:#x}
mov eax, {abi.APIC_SPIV_ENABLED | 0xFF:#x}
xor edx, edx
wrmsr
{REGISTER}
xor eax, eax
sti
mov esi, 20
W: mov rbx, [{AREA:#x}]
dec esi
jnz W
cli
{EXIT}
H: {handler}"""


EOI = f"mov ecx, {abi.APIC_EOI:#x}\nxor eax, eax\nxor edx, edx\nwrmsr"
CLOBBERS = f"{EOI}\nmov eax, 7\niretq"
SAVES = f"push rax\npush rcx\npush rdx\n{EOI}\npop rdx\npop rcx\npop rax\niretq"


def found(one: Target, kind: str = "") -> findings.Finding | None:
    """What one event, of this kind if one is named, brings about."""
    harness = Harness(one)
    _, _, plain = harness.run(b"")
    for family in sweep.families(one.host, plain.accesses, one.events):
        if family.name != "one event, anywhere":
            continue
        for given in family.inputs:
            content = encode(given)
            if kind in ("", given.records[0].kind) and harness.fails(content) is not None:
                return findings.finding(harness, findings.shortest(harness, content), lambda _: None)
    return None


def edits_of(made: findings.Finding) -> list[Change]:
    return [edit.change for edit in recording.from_bytes(made.recording, "here").edits]


@pytest.mark.parametrize(
    ("source", "host", "group", "oracle", "kind"),
    [
        (CLOCKWORK, HOSTILE, "time", "passes", "back-in-time"),
        (DIVIDES, HOSTILE, "structures", "no-fault", "elsewhere"),
        (interrupted(CLOBBERS), ODD_HOST, "interrupts", "passes", "interrupt"),
        (READS_BACK, ODD_HOST, "answers", "no-fault", "refuse"),
        (READS_BACK, HOSTILE, "answers", "passes", "answer"),
        (ASKS_AGAIN, ODD_HOST, "answers", "passes", "hide"),
        (ASKS_AGAIN, HOSTILE, "answers", "passes", "leaf"),
    ],
    ids=["time", "structures", "interrupts", "refuse", "answer", "hide", "leaf"],
)
def test_planted_bug_is_found(source, host, group, oracle, kind):
    one = target(source, host, group)
    made = found(one, kind)
    assert made is not None and made.oracle == oracle
    assert [record.kind for record in made.given.records] == [kind]
    assert kind == "elsewhere" or any(told(edits_of(made)[-1]) in line for line in made.story), made.story
    assert found(one._replace(also=())) is None


@pytest.mark.parametrize(
    ("source", "host", "group"),
    [
        (CLOCKWORK, ODD_HOST, "time"),
        (DIVIDES, ODD_HOST, "structures"),
        (interrupted(SAVES), HOSTILE, "interrupts"),
    ],
)
def test_nothing_is_found_where_the_host_may_not_or_the_guest_has_no_bug(source, host, group):
    assert found(target(source, host, group)) is None


@pytest.mark.parametrize("source", [CLOCKWORK, READS_BACK, interrupted(CLOBBERS)])
def test_recording_of_a_finding_replays_it(source):
    one = target(source, HOSTILE, *GROUPS)
    made = found(one)
    assert made is not None
    kept = recording.from_bytes(made.recording, "here")
    history = History(one.image, kept.config, edits=kept.edits)
    history.end()
    machine = history.machine
    assert (history.position, machine.reason) == (kept.outcome.position, kept.outcome.reason)
    assert machine.exit_port.code == kept.outcome.exit_code
    history.go(0)
    history.end()
    assert history.position == kept.outcome.position


def test_an_execution_with_events_is_the_same_again_and_after_others():
    one = Harness(target(interrupted(CLOBBERS), HOSTILE, *GROUPS))
    _, _, plain = one.run(b"")
    inputs = [encode(given) for family in sweep.families(HOSTILE, 4, one.target.events)[2:3] for given in family.inputs]
    first = [one.run(data)[2] for data in inputs[::17]]
    assert [one.run(data)[2] for data in reversed(inputs[::17])] == first[::-1]
    assert one.run(b"")[2] == plain and len(set(first)) > 1


def test_groups_name_every_event_once():
    assert sorted(kind for group in GROUPS.values() for kind in group) == sorted(EVENTS)
