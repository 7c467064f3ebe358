"""The device against an independent model, over random sequences of everything that guest, scheduler and time can do.

The model is a list of pending stores and a table from operation to effect; it shares no code with the device. Updates
are taken store by store, so that every other operation also falls between two stores of one.
"""

from collections.abc import Callable, Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.steal_time import StealTime, Step
from emu.faults import GuestFault
from tests.effort import EFFORT

MSR = 0x4B564D03
RAM = 192  # three areas; the guest can also name what lies just outside, and far
M32, M64 = 2**32, 2**64


class Model:
    """What must be true after each operation."""

    def __init__(self, modern: bool) -> None:
        self.modern = modern
        self.ram = bytearray(RAM)
        self.msr = 0
        self.requested = self.shown = False
        self.delivered = self.updates = 0
        self.pending: list[str] = []
        self.base = self.delay = self.version = self.carry = self.delta = 0
        self.looked_up = -1

    def peek(self, at: int, size: int) -> int:
        return sum(self.ram[at + n] << 8 * n for n in range(size))

    def poke(self, at: int, size: int, value: int) -> None:
        for n in range(size):
            self.ram[at + n] = value >> 8 * n & 255

    def live(self) -> bool:
        return self.msr % 2 == 1 and self.msr // 64 < 3

    def wrmsr(self, value: int) -> bool:
        if value // 2 % 32 or (not self.modern and value // 64 >= 3):
            return False
        self.msr, self.pending = value, []
        self.requested = self.requested or value % 2 == 1
        return True

    def reset(self) -> None:
        self.msr, self.pending = 0, []

    def request(self) -> None:
        self.requested = True

    def preempt(self) -> None:
        if self.modern and self.live() and not self.shown and self.looked_up == self.msr // 64:
            self.shown = True
            self.poke(self.msr // 64 * 64 + 16, 1, 1)

    def begin(self, delay: int, halves: bool) -> None:
        self.requested, self.pending, self.delay = False, [], delay
        if self.live():
            self.base = self.msr // 64 * 64
            steal = ["steal-low", "steal-high"] if halves else ["steal"]
            self.pending = ["preempted"] * self.modern + ["odd", *steal, "even"]

    def step(self) -> str | None:
        if not self.pending:
            return None
        name, base = self.pending.pop(0), self.base
        self.looked_up = base // 64
        if name == "preempted":
            self.shown = False
            self.poke(base + 16, 1, 0)
        elif name == "odd":
            found = self.peek(base + 8, 4)
            self.version = (found + (2 if found % 2 else 1)) % M32
            self.poke(base + 8, 4, self.version)
        elif name == "even":
            self.poke(base + 8, 4, (self.version + 1) % M32)
            self.updates += 1
        elif name == "steal-high":
            self.poke(base + 4, 4, (self.peek(base + 4, 4) + self.delta // M32 + self.carry) % M32)
        else:
            self.delta, self.delivered = (self.delay - self.delivered) % M64, self.delay
            if name == "steal":
                self.poke(base, 8, (self.peek(base, 8) + self.delta) % M64)
            else:
                self.carry, low = divmod(self.peek(base, 4) + self.delta % M32, M32)
                self.poke(base, 4, low)
        return name


class Pair:
    """The device and the model, each with its own RAM, driven alike."""

    def __init__(self, profile: str) -> None:
        self.ram = bytearray(RAM)
        self.device = StealTime(lambda gpa, size: 0 <= gpa <= RAM - size, profile)
        self.model = Model(profile == "kvm")
        self.update: Iterator[Step] = iter(())
        self.delay = 0

    def load(self, gpa: int, size: int) -> int:
        return int.from_bytes(self.ram[gpa : gpa + size], "little")

    def perform(self, step: Step) -> None:
        self.ram[step.gpa : step.gpa + step.size] = step.value.to_bytes(step.size, "little")

    def wrmsr(self, value: int) -> None:
        try:
            self.device.wrmsr(MSR, value)
            accepted = True
        except GuestFault:
            accepted = False
        assert accepted == self.model.wrmsr(value)

    def begin(self, waited: int, halves: bool) -> None:
        self.delay += waited
        self.update = self.device.update(self.delay, self.load, halves=halves)
        self.model.begin(self.delay, halves)

    def step(self, count: int) -> None:
        for _ in range(count):
            step = next(self.update, None)
            if step is not None:
                self.perform(step)
            assert (step.step if step else None) == self.model.step()

    def preempt(self) -> None:
        for step in self.device.preempt():
            self.perform(step)
        self.model.preempt()

    def guest_stores(self, at: int, data: bytes) -> None:
        data = data[: RAM - at]
        self.ram[at : at + len(data)] = self.model.ram[at : at + len(data)] = data

    def request(self) -> None:
        self.device.request()
        self.model.request()

    def reset(self) -> None:
        self.device.reset()
        self.model.reset()

    def agree(self) -> None:
        device, model = self.device, self.model
        assert self.ram == model.ram
        assert device.rdmsr(MSR) == device.msr_value == model.msr
        assert device.requested == model.requested
        assert (device.last_steal, device.updates) == (model.delivered, model.updates)


ADDRESSES = st.sampled_from([0, 64, 128, 192, 256, 1 << 40, M64 - 64])
LOW_BITS = st.one_of(st.sampled_from([1, 1, 1, 0]), st.integers(0, 63))
WAITED = st.one_of(st.integers(0, 1000), st.sampled_from([M32 - 1, M32, M64 // 2]))
OPERATIONS = st.one_of(
    st.tuples(st.just(Pair.wrmsr), st.builds(lambda gpa, low: gpa + low, ADDRESSES, LOW_BITS)),
    st.tuples(st.just(Pair.begin), WAITED.map(lambda waited: waited % (M64 // 64)), st.booleans()),
    st.tuples(st.just(Pair.step), st.integers(1, 6)),
    st.tuples(st.just(Pair.step), st.just(6)),
    st.tuples(st.just(Pair.preempt)),
    st.tuples(st.just(Pair.guest_stores), st.integers(0, RAM - 1), st.binary(min_size=1, max_size=24)),
    st.tuples(st.just(Pair.request)),
    st.tuples(st.just(Pair.reset)),
)
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=250 * EFFORT, database=None)


@EXAMPLES
@given(st.sampled_from(["kvm", "kvm-2011"]), st.lists(OPERATIONS, max_size=40))
def test_device_and_model_agree_after_every_operation(
    profile: str, operations: list[tuple[Callable[..., None], *tuple[object, ...]]]
) -> None:
    pair = Pair(profile)
    for operation, *arguments in operations:
        operation(pair, *arguments)
        pair.agree()


@EXAMPLES
@given(st.lists(st.tuples(st.sampled_from([0, 1, 65, 129, 193]), st.integers(0, M32 * 3), st.booleans()), max_size=30))
def test_what_all_areas_received_is_what_was_delivered(updates: list[tuple[int, int, bool]]) -> None:
    pair = Pair("kvm")
    for value, waited, halves in updates:
        pair.wrmsr(value)
        pair.begin(waited, halves)
        pair.step(6)
        received = sum(pair.load(area, 8) for area in (0, 64, 128))
        assert received == pair.device.last_steal <= pair.delay
        if value in (1, 65, 129):
            assert pair.device.last_steal == pair.delay
