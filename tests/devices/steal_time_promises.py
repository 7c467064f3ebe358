"""What a steal-time device promises: each promise is one function that fails where a device breaks it.

The tests hold the real device to them; the planted slips show that every one of them can fail. Numbers stand here as
the specification prints them (8 MiB of RAM, an area at 2 MiB), not as the device's own constants, so that a wrong
constant is a wrong device.
"""

from collections.abc import Callable, Iterator

from emu.devices.steal_time import Area, StealTime, Step, decode
from emu.faults import GuestFault

MSR = 0x4B564D03
RAM = 8 << 20
AREA = 0x200000
OTHER = 0x200040

DeviceClass = type[StealTime]
Promise = Callable[[DeviceClass], None]
PROMISES: dict[str, Promise] = {}

ACCEPTED_IN_RAM = (0x200001, 0x200041, 0x7FFFC1, 0x1)
ACCEPTED_OUTSIDE_RAM = (0x800001, 0x10000001, 0x10000000200001, 0x8000000000200001, 0xFFFFFFFFFFFFFFC1)
ACCEPTED_AS_DISABLED = (0x200000, 0x40, 0)
REFUSED = (0x200003, 0x200005, 0x200009, 0x200011, 0x200021, 0x20003E, 0x20003F, 0x3E, 0x02, 0x04, 0x08, 0x10, 0x20)
VERSIONS = ((0, 2), (1, 4), (2, 4), (3, 6), (0xFFFFFFFD, 0), (0xFFFFFFFE, 0), (0xFFFFFFFF, 2), (0xFFFE, 0x10000))


def promise(check: Promise) -> Promise:
    PROMISES[check.__name__] = check
    return check


def violations(device_class: DeviceClass) -> list[str]:
    """The names of the promises that this class of device breaks."""
    broken = []
    for name, check in PROMISES.items():
        try:
            check(device_class)
        except (AssertionError, GuestFault):
            broken.append(name)
    return broken


class Bench:
    """A device and the RAM that its steps are stored into; the machine's part, without a machine."""

    def __init__(self, device_class: DeviceClass, profile: str = "kvm", size: int = RAM) -> None:
        self.ram = bytearray(size)
        self.device = device_class(lambda gpa, length: 0 <= gpa <= size - length, profile)

    def load(self, gpa: int, size: int) -> int:
        return int.from_bytes(self.ram[gpa : gpa + size], "little")

    def store(self, gpa: int, size: int, value: int) -> None:
        self.ram[gpa : gpa + size] = value.to_bytes(size, "little")

    def begin(self, run_delay_ns: int, *, halves: bool = False) -> Iterator[Step]:
        """An update begins; each of its stores is performed as it is yielded."""
        return self._performed(self.device.update(run_delay_ns, self.load, halves=halves))

    def update(self, run_delay_ns: int, *, halves: bool = False) -> list[Step]:
        return list(self.begin(run_delay_ns, halves=halves))

    def preempt(self) -> list[Step]:
        return list(self._performed(self.device.preempt()))

    def _performed(self, steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            self.store(step.gpa, step.size, step.value)
            yield step

    def write(self, value: int) -> bool:
        """WRMSR; False where it raised #GP(0)."""
        try:
            self.device.wrmsr(MSR, value)
        except GuestFault as fault:
            assert (fault.vector, fault.error) == (13, 0)
            return False
        return True

    def area(self, gpa: int = AREA) -> Area:
        return decode(bytes(self.ram[gpa : gpa + 64]))


def registered(device_class: DeviceClass, value: int = AREA | 1) -> Bench:
    bench = Bench(device_class)
    assert bench.write(value)
    return bench


@promise
def every_accepted_value_reads_back_bit_for_bit(device_class: DeviceClass) -> None:
    for value in ACCEPTED_IN_RAM + ACCEPTED_OUTSIDE_RAM + ACCEPTED_AS_DISABLED:
        bench = registered(device_class, value)
        assert bench.device.rdmsr(MSR) == value, hex(value)


@promise
def area_anywhere_in_ram_is_updated(device_class: DeviceClass) -> None:
    for value in ACCEPTED_IN_RAM:
        bench = registered(device_class, value)
        bench.update(5)
        assert bench.area(value - 1) == Area(5, 2, 0, 0), hex(value)
        assert bench.ram.count(0) == RAM - 2, hex(value)


@promise
def reserved_bit_raises_gp_and_changes_nothing(device_class: DeviceClass) -> None:
    for value in REFUSED:
        bench = registered(device_class)
        bench.update(5)
        assert not bench.write(value), hex(value)
        assert bench.device.rdmsr(MSR) == AREA | 1, hex(value)
        assert not bench.device.requested, hex(value)
        bench.update(7)
        assert bench.area() == Area(7, 4, 0, 0), hex(value)


@promise
def area_outside_ram_is_never_written_and_its_time_comes_later(device_class: DeviceClass) -> None:
    for value in ACCEPTED_OUTSIDE_RAM:
        bench = registered(device_class, value)
        assert bench.update(5) == [] and bench.preempt() == [], hex(value)
        assert bench.device.last_steal == 0 and bench.device.updates == 0, hex(value)
        assert bench.ram.count(0) == RAM, hex(value)
        assert bench.write(AREA | 1)
        bench.update(9)
        assert bench.area().steal == 9, hex(value)


@promise
def clear_bit_0_stops_at_once_and_freezes_the_area(device_class: DeviceClass) -> None:
    for value in ACCEPTED_AS_DISABLED:
        bench = registered(device_class)
        bench.update(5)
        before = bench.area()
        assert bench.write(value), hex(value)
        assert bench.update(9) == [] and bench.preempt() == [], hex(value)
        assert bench.area() == before and bench.ram.count(0) == RAM - 2, hex(value)


@promise
def enabling_requests_an_update_and_disabling_does_not(device_class: DeviceClass) -> None:
    bench = Bench(device_class)
    requested = [bench.device.requested]
    for value in (AREA, AREA | 1):
        assert bench.write(value)
        requested.append(bench.device.requested)
    bench.update(0)
    requested.append(bench.device.requested)
    bench.device.request()
    requested.append(bench.device.requested)
    assert requested == [False, False, True, False, True]


@promise
def request_is_consumed_where_nothing_can_be_stored(device_class: DeviceClass) -> None:
    bench = Bench(device_class)
    bench.device.request()
    bench.update(5)
    assert not bench.device.requested


@promise
def stores_come_in_order_preempted_odd_steal_even(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    assert bench.update(5) == [
        Step("preempted", AREA + 16, 1, 0),
        Step("odd", AREA + 8, 4, 1),
        Step("steal", AREA, 8, 5),
        Step("even", AREA + 8, 4, 2),
    ]


@promise
def version_steps_over_junk_and_wraps_at_32_bits(device_class: DeviceClass) -> None:
    for before, after in VERSIONS:
        bench = registered(device_class)
        bench.store(AREA + 8, 4, before)
        odd = [step.value for step in bench.update(5) if step.step == "odd"]
        assert odd == [(after - 1) % 2**32], hex(before)
        assert bench.area() == Area(5, after, 0, 0), hex(before)


@promise
def steal_is_added_to_what_the_guest_left_there_and_wraps_at_64_bits(device_class: DeviceClass) -> None:
    for left, delay, steal in ((2**40, 7, 2**40 + 7), (2**64 - 1, 7, 6), (3, 2**33, 2**33 + 3), (2**32 - 1, 1, 2**32)):
        for halves in (False, True):
            bench = registered(device_class)
            bench.store(AREA, 8, left)
            bench.update(delay, halves=halves)
            assert bench.area() == Area(steal, 2, 0, 0), (left, delay, halves)


@promise
def first_update_brings_all_run_delay_and_later_ones_the_rest(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    for count, delay in enumerate((560731284, 560731284, 600000000), start=1):
        bench.update(delay)
        assert bench.area() == Area(delay, 2 * count, 0, 0)
        assert bench.device.last_steal == delay and bench.device.updates == count


@promise
def run_delay_that_shrinks_takes_steal_backwards(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    for delay in (16486506, 38775, 16486506, 2**64 + 5, 4):
        bench.update(delay)
        assert bench.area().steal == bench.device.last_steal == delay % 2**64


@promise
def time_waited_while_disabled_is_delivered_at_re_enabling(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    bench.update(15607)
    bench.write(0)
    bench.update(100000)
    bench.write(AREA | 1)
    bench.update(123893479)
    assert bench.area() == Area(123893479, 4, 0, 0)


@promise
def moved_area_starts_from_its_own_content_and_the_old_one_freezes(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    bench.update(100)
    old = bench.area()
    bench.store(OTHER, 8, 1000)
    bench.store(OTHER + 8, 4, 40)
    assert bench.write(OTHER | 1)
    bench.update(130)
    assert bench.area(OTHER) == Area(1030, 42, 0, 0)
    assert bench.area() == old


@promise
def flags_and_pad_survive(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    bench.ram[AREA - 64 : AREA + 128] = b"\xa5" * 192
    bench.update(5)
    bench.update(6, halves=True)
    bench.preempt()
    around = bench.ram[AREA - 64 : AREA] + bench.ram[AREA + 12 : AREA + 16] + bench.ram[AREA + 17 : AREA + 128]
    assert around == b"\xa5" * 179


@promise
def preempted_byte_is_cleared_whatever_the_guest_left_there(device_class: DeviceClass) -> None:
    for byte in (0, 1, 2, 3, 0xFF, 0xFD):
        bench = registered(device_class)
        bench.store(AREA + 16, 1, byte)
        bench.update(5)
        assert bench.area().preempted == 0, byte


@promise
def preemption_shows_once_and_leaves_the_version_alone(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    bench.update(5)
    assert bench.preempt() == [Step("preempted", AREA + 16, 1, 1)]
    assert bench.area() == Area(5, 2, 0, 1)
    bench.store(AREA + 16, 1, 3)
    assert bench.preempt() == [], "the flush request of another vCPU must not be overwritten"
    bench.update(6)
    assert bench.area() == Area(6, 4, 0, 0)
    assert len(bench.preempt()) == 1


@promise
def each_store_takes_the_guest_value_of_its_own_moment(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    steps = bench.begin(5)
    next(steps)
    bench.store(AREA + 8, 4, 20)
    assert next(steps) == Step("odd", AREA + 8, 4, 21)
    bench.store(AREA, 8, 100)
    assert next(steps) == Step("steal", AREA, 8, 105)
    bench.store(AREA + 8, 4, 50)
    assert next(steps) == Step("even", AREA + 8, 4, 22), "the host goes on from the version that it stored"


@promise
def halves_carry_from_the_low_store_into_the_high_one(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    bench.store(AREA, 8, 2**32 - 1)
    steps = bench.update(2**33 + 1, halves=True)
    assert [step.step for step in steps] == ["preempted", "odd", "steal-low", "steal-high", "even"]
    assert steps[2:4] == [Step("steal-low", AREA, 4, 0), Step("steal-high", AREA + 4, 4, 3)]


@promise
def update_that_ends_early_neither_loses_time_nor_tells_it_twice(device_class: DeviceClass) -> None:
    for halves in (False, True):
        for done in range(6):
            bench = registered(device_class)
            bench.update(100)
            steps = bench.begin(130, halves=halves)
            for _ in range(done):
                next(steps, None)
            bench.update(150)
            assert bench.area().steal == 150, (halves, done)
            assert bench.area().version % 2 == 0, (halves, done)
            assert next(steps, None) is None, "an update ends where the next one begins"


@promise
def wrmsr_or_reset_between_two_stores_ends_the_update(device_class: DeviceClass) -> None:
    for value in (0, AREA, AREA | 1, OTHER | 1, None):
        for done in range(1, 4):
            bench = registered(device_class)
            steps = bench.begin(130)
            for _ in range(done):
                next(steps)
            if value is None:
                bench.device.reset()
            else:
                assert bench.write(value)
            before = bench.area(), bench.area(OTHER)
            assert list(steps) == [] and (bench.area(), bench.area(OTHER)) == before, (value, done)
            assert bench.device.updates == 0, (value, done)


@promise
def refused_wrmsr_between_two_stores_lets_the_update_go_on(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    steps = bench.begin(130)
    next(steps)
    assert not bench.write(AREA | 3)
    list(steps)
    assert bench.area() == Area(130, 2, 0, 0)


@promise
def update_counts_with_its_last_store(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    counted = [bench.device.updates for _ in bench.begin(5)]
    assert counted == [0, 0, 0, 1]


@promise
def reset_clears_the_msr_and_keeps_what_was_delivered(device_class: DeviceClass) -> None:
    bench = registered(device_class)
    bench.update(100)
    bench.device.reset()
    assert bench.device.rdmsr(MSR) == 0 and bench.update(110) == []
    assert bench.write(OTHER | 1)
    bench.update(130)
    assert bench.area(OTHER).steal == 30


@promise
def profile_2011_has_no_preempted_byte(device_class: DeviceClass) -> None:
    bench = Bench(device_class, "kvm-2011")
    assert bench.write(AREA | 1)
    bench.store(AREA + 8, 4, 3)
    bench.store(AREA + 16, 1, 0xA5)
    assert [step.step for step in bench.update(5)] == ["odd", "steal", "even"]
    assert bench.preempt() == []
    assert bench.area() == Area(5, 6, 0, 0xA5)


@promise
def profile_2011_refuses_an_address_outside_ram_whatever_bit_0(device_class: DeviceClass) -> None:
    bench = Bench(device_class, "kvm-2011")
    for value in (*ACCEPTED_OUTSIDE_RAM, *REFUSED):
        for refused in (value, value & ~1 if value in ACCEPTED_OUTSIDE_RAM else value):
            assert not bench.write(refused) and bench.device.rdmsr(MSR) == 0, hex(refused)
    for value in (*ACCEPTED_IN_RAM, *ACCEPTED_AS_DISABLED):
        assert bench.write(value) and bench.device.rdmsr(MSR) == value, hex(value)
