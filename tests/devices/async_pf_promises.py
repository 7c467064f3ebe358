"""What asynchronous page faults promise: the registers as seen on a real KVM, the messages as its source has them."""

from typing import Any

from emu.devices.async_pf import HALT, INJECT, WAIT, Missing, Ready
from emu.devices.steal_time import Step

from .promises import AREA, RAM, Memory, Promises, accepts, refuses_reading

EN, INT, ACK = 0x4B564D02, 0x4B564D06, 0x4B564D07
ON = AREA | 0b1011  # enabled, also at CPL 0, second message by interrupt
VECTOR = 0xE3
WAKE_ALL = 0xFFFFFFFF

promises = Promises()


class Bench(Memory):
    """A device that is registered with `value`, past the message that wakes all; every condition is favourable."""

    def __init__(self, device_class: Any, value: int = ON, profile: str = "kvm", features: Any = None) -> None:
        super().__init__()
        self.device = device_class(self.holds, 3, profile, features)
        self.of_2011 = profile == "kvm-2011"
        if not self.of_2011:
            assert accepts(self.device, INT, VECTOR)
        assert accepts(self.device, EN, value)
        while self.device.due and self.deliver() is not None:
            self.take()

    def away(
        self, token: int, *, cpl: int = 0, paging: bool = True, can: bool = True, pending: bool = False
    ) -> Missing:
        answer: Missing = self.device.page_not_present(
            token, cpl=cpl, paging=paging, interruptible=can, pending=pending
        )
        self.perform(answer.steps)
        return answer

    def deliver(self, *, apic: bool = True, can: bool = True, pending: bool = False) -> Ready | None:
        answer: Ready | None = self.device.deliver(self.load, apic_enabled=apic, interruptible=can, pending=pending)
        if answer is not None:
            self.perform(answer.steps)
        return answer

    def take(self) -> int:
        """The guest's interrupt handler: the token out of the area, and the acknowledgement."""
        token = self.load(AREA + 4, 4)
        self.store(AREA + 4, 4, 0)
        if not self.of_2011:
            self.device.wrmsr(ACK, 1)
        return token


@promises.add
def enable_register_takes_what_kvm_takes(device_class: Any) -> None:
    for value in (ON, AREA | 0b1111, AREA | 1, AREA | 8, 0, RAM - 64 | 9, RAM | 1, RAM | 8, 1 << 60 | 1, 9):
        device = Memory().holds and device_class(Memory().holds)
        assert accepts(device, EN, value) and device.rdmsr(EN) == value, hex(value)


@promises.add
def enable_register_refuses_what_kvm_refuses(device_class: Any) -> None:
    for value in (ON | 0x10, ON | 0x20, 0x10, 0x20, RAM | 9, 1 << 40 | 9, 2**64 - 64 | 9):
        bench = Bench(device_class)
        assert not accepts(bench.device, EN, value), hex(value)
        assert bench.away(7).action == INJECT, "the old registration lives on"


@promises.add
def bit_without_its_feature_is_refused(device_class: Any) -> None:
    for features, refused, accepted in (((4, 14), 4, 8), ((4, 10), 8, 4), ((4,), 12, 3)):
        device = device_class(Memory().holds, features=features)
        assert not accepts(device, EN, AREA | refused) and accepts(device, EN, AREA | accepted), features
        if 14 not in features:
            assert refuses_reading(device, INT) and not accepts(device, ACK, 0)


@promises.add
def kvm_bugs_remembers_the_value_that_it_refused_for_its_address_alone(device_class: Any) -> None:
    device = device_class(Memory().holds, profile="kvm-bugs")
    assert not accepts(device, EN, ON | 0x10)
    try:
        device.wrmsr(EN, RAM | 9)
    except Exception as fault:
        assert getattr(fault, "vector", None) == 13
    else:
        raise AssertionError("not refused")
    assert device.rdmsr(EN) == RAM | 9
    answer = device.page_not_present(5, cpl=3, paging=True, interruptible=True, pending=False)
    assert answer == Missing(HALT, 5), "there is no RAM to tell it in"


@promises.add
def vector_has_8_bits_and_acknowledgement_reads_0(device_class: Any) -> None:
    device = device_class(Memory().holds)
    for value in (0, 0x10, 0x20, 0xFF):
        assert accepts(device, INT, value) and device.rdmsr(INT) == value
    for value in (0x100, 1 << 32, 1 << 63):
        assert not accepts(device, INT, value)
    for value in (0, 1, 2, 2**64 - 1):
        assert accepts(device, ACK, value) and device.rdmsr(ACK) == 0


@promises.add
def missing_page_is_told_by_flags_and_token(device_class: Any) -> None:
    bench = Bench(device_class)
    assert bench.away(0x1003) == Missing(INJECT, 0x1003, (Step("apf-flags", AREA, 4, 1),))


@promises.add
def cpl_0_is_told_only_where_it_wants_to_be(device_class: Any) -> None:
    bench = Bench(device_class, AREA | 0b1001)
    assert [bench.away(token, cpl=cpl).action for token, cpl in ((1, 0), (2, 3))] == [HALT, INJECT]
    assert Bench(device_class).away(1, cpl=0).action == INJECT


@promises.add
def who_cannot_be_told_halts_and_who_cannot_be_woken_waits(device_class: Any) -> None:
    for value in (0, AREA | 1, AREA | 8):
        bench = Bench(device_class, value)
        assert bench.away(1, cpl=3) == Missing(HALT, 1) and bench.untouched(), hex(value)
    bench = Bench(device_class)
    assert bench.away(1, paging=False).action == HALT
    for answer in (bench.away(2, can=False), bench.away(3, pending=True)):
        assert answer.action == WAIT and answer.steps == ()


@promises.add
def ready_page_is_told_by_token_and_interrupt(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.away(0x1003)
    assert not bench.device.due and not bench.device.wakes
    bench.device.page_ready(0x1003)
    assert bench.device.due and bench.device.wakes
    assert bench.deliver() == Ready(0x1003, (Step("apf-token", AREA + 4, 4, 0x1003),), VECTOR)
    assert not bench.device.due and bench.deliver() is None


@promises.add
def next_page_waits_for_token_taken_and_acknowledged(device_class: Any) -> None:
    bench = Bench(device_class)
    for token in (1, 2, 3):
        bench.away(token)
    for token in (2, 1, 3):
        bench.device.page_ready(token)
    told = []
    while bench.device.due:
        answer = bench.deliver()
        assert answer is not None
        told.append(answer.token)
        assert bench.deliver() is None and not bench.device.due, "the token has not been taken"
        bench.device.wrmsr(ACK, 1)
        assert bench.deliver() is None, "acknowledged and not taken"
        bench.store(AREA + 4, 4, 0)
        assert not bench.device.due, "taken and not acknowledged"
        bench.device.wrmsr(ACK, 2)
        assert not bench.device.due, "bit 0 alone acknowledges"
        bench.take()
    assert told == [2, 1, 3]


@promises.add
def message_waits_for_an_enabled_apic_but_not_for_the_interrupt_flag(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.away(1)
    bench.device.page_ready(1)
    assert bench.deliver(apic=False) is None and not bench.device.due
    bench.device.request()
    answer = bench.deliver(can=False, pending=True)
    assert answer is not None and answer.vector == VECTOR


@promises.add
def halted_vcpu_is_only_woken(device_class: Any) -> None:
    bench = Bench(device_class, AREA | 0b1001)
    bench.away(1, cpl=0)
    bench.away(2, cpl=3)
    bench.device.page_ready(1)
    bench.device.page_ready(2)
    assert bench.deliver() == Ready(1)
    assert bench.device.due
    answer = bench.deliver()
    assert answer is not None and (answer.token, answer.vector) == (2, VECTOR)


@promises.add
def disabled_guest_is_told_nothing_and_its_pages_are_forgotten(device_class: Any) -> None:
    for value in (0, AREA | 1, AREA | 8, None):
        bench = Bench(device_class)
        bench.away(1)
        bench.away(2)
        bench.device.page_ready(1)
        if value is None:
            bench.device.reset()
            assert [bench.device.rdmsr(msr) for msr in (EN, INT)] == [0, 0]
        else:
            bench.device.wrmsr(EN, value)
        bench.device.page_ready(2)
        assert not bench.device.wakes and bench.deliver() is None, value


@promises.add
def registration_wakes_all(device_class: Any) -> None:
    memory = Memory()
    device = device_class(memory.holds)
    device.wrmsr(INT, VECTOR)
    device.wrmsr(EN, ON)
    assert device.due
    answer = device.deliver(memory.load, apic_enabled=True, interruptible=True, pending=False)
    assert answer == Ready(WAKE_ALL, (Step("apf-token", AREA + 4, 4, WAKE_ALL),), VECTOR)
    assert not device.wakes


@promises.add
def registration_again_keeps_what_waits_and_adds_no_second_message(device_class: Any) -> None:
    bench = Bench(device_class)
    bench.away(1)
    bench.device.page_ready(1)
    bench.device.wrmsr(EN, ON)
    answer = bench.deliver()
    assert answer is not None and answer.token == 1 and not bench.device.wakes


@promises.add
def messages_follow_the_sequence_seen_on_a_real_kvm(device_class: Any) -> None:
    memory = Memory()
    device = device_class(memory.holds)
    seen = []

    def look(apic: bool = True) -> None:
        while device.due:
            answer = device.deliver(memory.load, apic_enabled=apic, interruptible=True, pending=False)
            memory.perform(answer.steps if answer else ())
        seen.append(memory.load(AREA + 4, 4))

    device.wrmsr(INT, VECTOR)
    device.wrmsr(EN, AREA | 9)
    look(apic=False)
    device.request()  # the guest enables its APIC
    look()
    for taken, msr, value in (
        (False, ACK, 1),
        (False, EN, AREA | 9),  # a second registration, while the first one's message has not been taken
        (True, ACK, 2),
        (False, ACK, 1),
        (True, ACK, 1),
    ):
        if taken:
            memory.store(AREA + 4, 4, 0)
        device.wrmsr(msr, value)
        look()
    assert seen == [0, WAKE_ALL, WAKE_ALL, WAKE_ALL, 0, WAKE_ALL, 0]


@promises.add
def form_of_2011_tells_both_by_page_fault(device_class: Any) -> None:
    bench = Bench(device_class, AREA | 3, "kvm-2011")
    assert bench.device.features == (4,) and bench.device.msrs == (EN,)
    assert bench.away(7, paging=False) == Missing(INJECT, 7, (Step("apf-flags", AREA, 4, 1),))
    bench.device.page_ready(7)
    assert bench.deliver(can=False) is None and bench.deliver(pending=True) is None and bench.device.due
    assert bench.deliver(apic=False) == Ready(7, (Step("apf-flags", AREA, 4, 2),), fault=True)
    assert not bench.device.due


@promises.add
def form_of_2011_reserves_bits_2_to_5_and_needs_ram(device_class: Any) -> None:
    bench = Bench(device_class, AREA | 1, "kvm-2011")
    for value in (AREA | 5, AREA | 9, AREA | 0x11, AREA | 0x21, RAM | 1):
        assert not accepts(bench.device, EN, value), hex(value)
    assert bench.away(1, cpl=0).action == HALT
    assert accepts(bench.device, EN, RAM) and accepts(bench.device, EN, 0)
    assert bench.away(2, cpl=3).action == HALT


@promises.add
def tokens_are_unique_and_never_0_and_carry_the_vcpu(device_class: Any) -> None:
    for vcpu in (0, 5):
        device = device_class(Memory().holds, vcpu)
        tokens = [device.new_token() for _ in range(1000)]
        assert len(set(tokens)) == 1000 and 0 not in tokens
        assert {token & 0xFFF for token in tokens} == {vcpu}
        device._next_id = 1 << 20
        assert device.new_token() == 1 << 12 | vcpu
