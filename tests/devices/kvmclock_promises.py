"""What the wall clock and a vCPU's system time promise, each as seen on a real KVM."""

from typing import Any

from emu.devices.kvmclock import FEATURES, KvmClock, SystemTime, WallClock
from emu.devices.pvclock import MasterClock, TimeInfo, decode
from emu.devices.steal_time import Step
from emu.devices.tsc import Tsc

from .promises import AREA, RAM, Memory, Promises, accepts, refuses_reading

WALL, TIME, WALL_NEW, TIME_NEW = 0x11, 0x12, 0x4B564D00, 0x4B564D01
BOOT_NS = 0x12345678_000000000 + 0x0BCDEF01
VERSIONS = ((0, 2), (1, 4), (2, 4), (3, 6), (0xFFFFFFFD, 0), (0xFFFFFFFE, 0), (0xFFFFFFFF, 2))
ANY_VALUE = (0x200001, 0x200002, 0x200004, 0x800001, 0x10000000200001, 2**64 - 1, 0x1, 0x0)

wall_promises, time_promises = Promises(), Promises()


class Bench(Memory):
    """A VM's clocks for `vcpus` vCPUs with a virtual time that is set by hand."""

    def __init__(
        self, wall: Any = WallClock, time: Any = SystemTime, *, vcpus: int = 1, khz: int = 1_000_000, **profile: str
    ) -> None:
        super().__init__()
        self.ps = 0
        self.master = MasterClock(khz)
        self.wall = wall(self.holds, BOOT_NS)
        self.tscs = [Tsc(lambda: self.ps, khz) for _ in range(vcpus)]
        self.times = [time(self.holds, self.master, tsc, boot=n == 0, **profile) for n, tsc in enumerate(self.tscs)]
        self.devices = [KvmClock(self.wall, one) for one in self.times]

    def write(self, msr: int, value: int, vcpu: int = 0) -> list[Step]:
        """WRMSR and what follows it before the next instruction, on all vCPUs."""
        assert accepts(self.devices[vcpu], msr, value)
        return self.serve()

    def serve(self) -> list[Step]:
        done = self.perform(self.wall.update(self.load)) if self.wall.requested else []
        for time in self.times:
            if time.requested:
                done += self.perform(time.update(self.load))
        return done

    def info(self, gpa: int = AREA) -> TimeInfo:
        return decode(bytes(self.ram[gpa : gpa + 32]))

    def words(self, gpa: int) -> tuple[int, int, int]:
        return self.load(gpa, 4), self.load(gpa + 4, 4), self.load(gpa + 8, 4)


@wall_promises.add
def every_value_is_accepted_and_reads_back_by_either_number_on_every_vcpu(wall: Any) -> None:
    bench = Bench(wall, vcpus=2)
    for value in ANY_VALUE:
        for msr in (WALL, WALL_NEW):
            bench.write(WALL_NEW, 0)
            bench.write(msr, value)
            assert {device.rdmsr(number) for device in bench.devices for number in (WALL, WALL_NEW)} == {value}


@wall_promises.add
def time_of_boot_is_stored_at_once_between_odd_and_even(wall: Any) -> None:
    bench = Bench(wall)
    bench.ps = 5 * 10**12
    assert bench.write(WALL_NEW, AREA) == [
        Step("odd", AREA, 4, 1),
        Step("sec", AREA + 4, 4, BOOT_NS // 10**9 % 2**32),
        Step("nsec", AREA + 8, 4, BOOT_NS % 10**9),
        Step("even", AREA, 4, 2),
    ]
    assert bench.serve() == []


@wall_promises.add
def version_steps_over_junk_and_wraps(wall: Any) -> None:
    for before, after in VERSIONS:
        bench = Bench(wall)
        bench.store(AREA, 4, before)
        bench.write(WALL, AREA)
        assert bench.words(AREA)[0] == after, hex(before)


@wall_promises.add
def address_needs_no_alignment_and_has_no_enable_bit(wall: Any) -> None:
    for gpa in (AREA + 1, AREA + 2, AREA + 0xFFA, 1):
        bench = Bench(wall)
        bench.write(WALL, gpa)
        assert bench.words(gpa) == (2, BOOT_NS // 10**9 % 2**32, BOOT_NS % 10**9), hex(gpa)


@wall_promises.add
def zero_stores_nothing(wall: Any) -> None:
    bench = Bench(wall)
    assert bench.write(WALL, 0) == [] and bench.untouched()


@wall_promises.add
def what_lies_outside_ram_is_not_stored_and_what_lies_inside_is(wall: Any) -> None:
    whole = (2).to_bytes(4, "little") + (BOOT_NS // 10**9 % 2**32).to_bytes(4, "little")
    whole += (BOOT_NS % 10**9).to_bytes(4, "little")
    for inside in range(13):
        bench = Bench(wall)
        bench.write(WALL, RAM - inside)
        stored = whole[:inside] if inside >= 4 else bytes(inside)
        assert bench.ram[RAM - inside :] == stored and not any(bench.ram[: RAM - inside]), inside
    for value in (RAM, 1 << 40, 2**64 - 1, 2**64 - 4):
        bench = Bench(wall)
        assert bench.write(WALL, value) == [] and bench.untouched(), hex(value)


@wall_promises.add
def wrmsr_between_two_stores_ends_the_update(wall: Any) -> None:
    bench = Bench(wall)
    bench.wall.write(AREA)
    steps = bench.wall.update(bench.load)
    next(steps)
    bench.wall.write(0)
    assert list(steps) == []


@time_promises.add
def every_value_reads_back_by_either_number_and_belongs_to_its_vcpu(time: Any) -> None:
    bench = Bench(time=time, vcpus=2)
    for value in ANY_VALUE:
        for msr in (TIME, TIME_NEW):
            bench.write(msr, value)
            assert [bench.devices[0].rdmsr(number) for number in (TIME, TIME_NEW)] == [value, value]
            assert bench.devices[1].rdmsr(TIME_NEW) == 0


@time_promises.add
def registration_stores_all_fields_between_odd_and_even(time: Any) -> None:
    bench = Bench(time=time)
    bench.ram[AREA - 8 : AREA + 40] = b"\xa5" * 48
    bench.store(AREA, 4, 6)
    bench.store(AREA + 29, 1, 0)
    steps = bench.write(TIME_NEW, AREA | 1)
    assert [step.step for step in steps] == ["odd", "pad", "tsc-timestamp", "system-time", "scale", "even"]
    assert (steps[0].value, steps[-1].value) == (7, 8)
    assert bench.info() == TimeInfo(8, 0, 0, 1 << 31, 1, 1)
    assert bench.load(AREA + 4, 4) == 0 and bench.load(AREA + 30, 2) == 0
    assert bench.ram[AREA - 8 : AREA] == bench.ram[AREA + 32 : AREA + 40] == b"\xa5" * 8


@time_promises.add
def version_of_system_time_steps_over_junk_and_wraps(time: Any) -> None:
    for before, after in VERSIONS:
        bench = Bench(time=time)
        bench.store(AREA, 4, before)
        bench.write(TIME_NEW, AREA | 1)
        assert bench.info().version == after, hex(before)


@time_promises.add
def only_bit_0_is_not_address(time: Any) -> None:
    for gpa in (0, AREA + 2, AREA + 4, AREA + 10, AREA + 0xFE0, RAM - 32):
        bench = Bench(time=time)
        bench.write(TIME_NEW, gpa | 1)
        assert bench.info(gpa) == TimeInfo(2, 0, 0, 1 << 31, 1, 1), hex(gpa)


@time_promises.add
def structure_that_crosses_a_page_or_leaves_ram_is_never_written(time: Any) -> None:
    for gpa in (AREA + 0xFE2, AREA + 0xFFE, RAM - 30, RAM, 1 << 40, 2**64 - 32, 2**64 - 2):
        bench = Bench(time=time)
        assert bench.write(TIME_NEW, gpa | 1) == [] and bench.untouched(), hex(gpa)
        assert not bench.times[0].requested, "a request that cannot be served does not come back"


@time_promises.add
def place_that_would_cross_a_page_ends_the_registration_but_under_kvm_bugs(time: Any) -> None:
    for profile, kept in (("kvm", False), ("kvm-2011", False), ("kvm-bugs", True)):
        bench = Bench(time=time, profile=profile)
        assert bench.write(TIME_NEW, AREA + 0xFF0 | 1) == []
        bench.write(TIME_NEW, AREA | 1)
        bench.write(TIME_NEW, AREA + 0xFF0 | 1)
        assert bench.devices[0].rdmsr(TIME_NEW) == AREA + 0xFF0 | 1
        assert bench.info().version == (4 if kept else 2), profile
        bench.times[0].request()
        bench.serve()
        assert bench.info().version == (6 if kept else 2), profile
        for disables in (True, False):
            if disables:
                bench.write(TIME_NEW, AREA)
            else:
                bench.times[0].reset()
            before = bench.info()
            bench.times[0].request()
            assert bench.serve() == [] and bench.info() == before, "disabled, or reset: nothing is kept"
            bench.write(TIME_NEW, AREA | 1)
            bench.write(TIME_NEW, AREA + 0xFF0 | 1)


@time_promises.add
def clear_bit_0_ends_the_updates(time: Any) -> None:
    bench = Bench(time=time)
    bench.write(TIME_NEW, AREA | 1)
    before = bench.info()
    bench.write(TIME_NEW, AREA)
    bench.times[0].request()
    bench.tscs[0].wrmsr(0x10, 77)
    assert bench.serve() == [] and bench.info() == before


@time_promises.add
def vcpu_0_alone_decides_for_all_whether_clocks_are_stable(time: Any) -> None:
    bench = Bench(time=time, vcpus=2)
    other = AREA + 0x100
    seen = []
    for vcpu, msr, gpa in ((0, TIME_NEW, AREA), (1, TIME_NEW, other), (1, TIME, other), (0, TIME, AREA)):
        bench.write(msr, gpa | 1, vcpu)
        seen.append((bench.info(AREA).flags, bench.info(other).flags))
    bench.write(TIME_NEW, AREA | 1)
    seen.append((bench.info(AREA).flags, bench.info(other).flags))
    assert seen == [(1, 0), (1, 1), (1, 1), (0, 0), (1, 1)]


@time_promises.add
def guest_stopped_survives_and_no_other_flag_does(time: Any) -> None:
    bench = Bench(time=time)
    bench.store(AREA + 29, 1, 0xFF)
    bench.write(TIME_NEW, AREA | 1)
    assert bench.info().flags == 3
    bench.write(TIME, AREA | 1)
    assert bench.info().flags == 2


@time_promises.add
def changed_tsc_or_clock_asks_for_an_update_and_time_goes_on(time: Any) -> None:
    bench = Bench(time=time, vcpus=2)
    bench.write(TIME_NEW, AREA | 1)
    assert not bench.times[0].requested
    bench.ps = 7_000_000
    bench.tscs[0].wrmsr(0x10, 5)
    assert bench.serve()[0].step == "odd"
    bench.ps = 9_000_000
    assert bench.info().ns(bench.tscs[0].value()) == 9_000
    bench.master.rebase(bench.ps)
    assert bench.times[0].requested and not bench.times[1].requested
    bench.serve()
    assert (bench.info().system_time, bench.info().version, bench.times[0].updates) == (9_000, 6, 3)


@time_promises.add
def wrmsr_or_reset_between_two_stores_ends_the_update_of_time(time: Any) -> None:
    for value in (0, AREA | 1, None):
        bench = Bench(time=time)
        device = bench.times[0]
        device.write(AREA | 1)
        steps = device.update(bench.load)
        next(steps)
        if value is None:
            device.reset()
        else:
            device.write(value)
        assert list(steps) == [] and device.updates == 0, value


@time_promises.add
def reset_forgets_the_registration_and_leaves_the_wall_clock(time: Any) -> None:
    bench = Bench(time=time)
    bench.write(WALL, AREA + 64)
    bench.write(TIME_NEW, AREA | 1)
    before = bench.info()
    bench.devices[0].reset()
    assert bench.devices[0].rdmsr(TIME_NEW) == 0 and bench.devices[0].rdmsr(WALL_NEW) == AREA + 64
    bench.master.rebase(0)
    assert bench.serve() == [] and bench.info() == before


@time_promises.add
def number_that_is_not_offered_is_refused(time: Any) -> None:
    bench = Bench(time=time)
    for features, absent in (((0, 24), (WALL_NEW, TIME_NEW)), ((3, 24), (WALL, TIME)), (FEATURES, (0x4B564D02,))):
        device = KvmClock(bench.wall, bench.times[0], features)
        for msr in absent:
            assert msr not in device.msrs
            assert refuses_reading(device, msr) and not accepts(device, msr, 0), (features, hex(msr))
