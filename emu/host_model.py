"""When the stores of a steal-time update happen: the one place where a vCPU's run delay meets its device.

Under `kvm` an update happens between two entries of its vCPU, whole, as real KVM does it: the vCPU itself never sees it
half done. Under `other-cpu` each store may fall between any two instructions of the running vCPU, which is what
another CPU would see; how many instructions lie between is given exactly, or drawn from the seed.

In Linux: record_steal_time() in arch/x86/kvm/x86.c is called by vcpu_enter_guest(), before the entry.
"""

from collections.abc import Callable, Iterable

from emu import abi
from emu.devices.steal_time import StealTime, Step
from emu.host.draws import Draws
from emu.package import BEGUN, BY_HAND, PLANNED, SPREAD, Package
from emu.ram import Ram
from emu.scenario import DEFAULT_STORE_GAP, Config
from emu.stateful import State, Stateful

Stored = Callable[[Package, str, Step], None]  # the vCPU, the name of the area, the store
STEAL_TIME, SYSTEM_TIME, WALL_CLOCK = "steal-time", "system-time", "wall-clock"
PV_EOI, ASYNC_PF = "pv-eoi", "async-pf"


class Gaps(Stateful):
    """How many instructions lie between two stores of a vCPU: those `listed`, over and over, or drawn by `seed`."""

    fields = ("_at",)
    parts = ("_draws",)

    def __init__(self, listed: tuple[int, ...], seed: int) -> None:
        self._listed = listed
        self._draws = None if listed else Draws(seed)
        self._at = 0

    def next(self) -> int:
        if self._draws is not None:
            return self._draws.below(DEFAULT_STORE_GAP + 1)
        gap = self._listed[self._at]
        self._at = (self._at + 1) % len(self._listed)
        return gap


class HostModel:
    """Performs updates on `ram` as `config` says, and calls `stored` after each store.

    `now` tells virtual time in picoseconds. `needed(gpa, size)`, where given, is called before each store: the host
    has there what it needs, even of a page that it had taken away.
    """

    def __init__(self, config: Config, ram: Ram, stored: Stored, now: Callable[[], int]) -> None:
        self._ram = ram
        self._stored = stored
        self._now = now
        self.stores = 0  # how many were performed, of all vCPUs
        self.needed: Callable[[int, int], None] | None = None
        self._at_once = config.host_model == "kvm"
        self._halves = config.steal_store == "halves"
        self._gaps = [Gaps(config.store_gap, config.seed * abi.MAX_VCPUS + number) for number in range(config.vcpus)]

    def state(self) -> State:
        """How far each vCPU's gaps have been used; all else that this knows is in the packages."""
        return tuple([gaps.state() for gaps in self._gaps])

    def load(self, state: State) -> None:
        for gaps, of_gaps in zip(self._gaps, state, strict=True):
            gaps.load(of_gaps)

    def before_entry(self, package: Package) -> None:
        """Store what is due before this vCPU's next instruction: an update asked for, or the next part of one."""
        clock, steal = package.clock, package.steal
        if clock is not None and clock.time.requested:
            self._store_all(package, SYSTEM_TIME, clock.time.update(self._ram.load))
        if steal is None:
            return
        if package.update in SPREAD and package.store_in == 0:
            self._continue(package, steal)
        if steal.requested and package.update is None:
            package.update = PLANNED
            if self._at_once or not steal.enabled:
                self._finish(package, steal)
            else:
                package.store_in = self._gaps[package.number].next()
                if package.store_in == 0:
                    self._continue(package, steal)

    def preempted(self, package: Package) -> None:
        """This vCPU was taken off its pCPU though it could run on."""
        # Never in the middle of an instruction that the host still has to complete: see CVE-2022-39189.
        self.finish(package)
        if package.steal is not None and package.exit is None:
            self._store_all(package, STEAL_TIME, package.steal.preempt())

    def finish(self, package: Package) -> None:
        """Do the rest of an update that has begun: its vCPU stops running, or its registration is about to change.

        A host does not stop inside an update for as long as a vCPU may sleep.
        """
        if package.update is not None and package.steal is not None:
            self._finish(package, package.steal)

    def store_by_hand(self, package: Package, added_ns: int, *, halves: bool) -> None:
        """The next store of an update by hand; where none is under way one begins, and adds this to the run delay.

        Nothing happens where the vCPU wants no updates.
        """
        steal = package.steal
        if steal is None:
            return
        if package.update != BY_HAND:
            self.finish(package)
            package.added_ns = added_ns
            steal.begin(self._run_delay_ns(package), halves=halves)
            package.update = BY_HAND
        while (step := steal.step(self._ram.load)) is not None:
            self._store(package, STEAL_TIME, step)
            if step.step != "preempted":
                break
        if steal.under_way is None:
            package.update = None

    def update_by_hand(self, package: Package, added_ns: int, count: int) -> None:
        """`count` whole updates at once, which add this to the run delay; nothing where none are wanted."""
        steal = package.steal
        if steal is None or not steal.enabled or not self._ram.holds(steal.area_gpa, abi.KVM_STEAL_TIME_SIZE):
            return
        self.finish(package)
        if count > 1:  # all but the last leave nothing but a version behind that can still be seen
            gpa = steal.area_gpa + abi.KVM_STEAL_TIME_VERSION
            version = (self._ram.load(gpa, 4) + 1 & ~1) + 2 * (count - 1)
            self._store(package, STEAL_TIME, Step("burst", gpa, 4, version % (1 << 32)))
        package.added_ns = added_ns
        self._store_all(package, STEAL_TIME, steal.update(self._run_delay_ns(package), self._ram.load))

    def wrote_msr(self, package: Package) -> None:
        """A paravirtual MSR was written: the wall clock is stored at once, and never again."""
        if package.clock is not None and package.clock.wall.requested:
            self._store_all(package, WALL_CLOCK, package.clock.wall.update(self._ram.load))

    def entering(self, package: Package) -> None:
        """The vCPU is about to run: where its next EOI could go without an exit, say so in its memory."""
        if package.pv_eoi is not None:
            self._store_all(package, PV_EOI, package.pv_eoi.enter(package.lapic.irr != 0))

    def left(self, package: Package) -> None:
        """The vCPU came back: an interrupt that it has ended in its memory is ended in its APIC."""
        if package.pv_eoi is not None:
            ended, steps = package.pv_eoi.leave(self._ram.load)
            self._store_all(package, PV_EOI, steps)
            if ended:
                package.lapic.eoi()
                package.pv_eoi.eoi()

    def _continue(self, package: Package, steal: StealTime) -> None:
        """The store that is due now, and those that follow without an instruction between."""
        while (step := self._step(package, steal)) is not None:
            self._store(package, STEAL_TIME, step)
            if step.step == "preempted":
                continue  # cleared together with the odd version, for which run delay was sampled
            if steal.under_way is None:
                break
            package.store_in = self._gaps[package.number].next()
            if package.store_in:
                return
        package.update = None

    def store_async_pf(self, package: Package, steps: Iterable[Step]) -> None:
        """Tell the guest in its area that a page is away, or back."""
        self._store_all(package, ASYNC_PF, steps)

    def _finish(self, package: Package, steal: StealTime) -> None:
        """All stores that are left, now."""
        while (step := self._step(package, steal)) is not None:
            self._store(package, STEAL_TIME, step)
        package.update = None
        package.store_in = 0

    def _step(self, package: Package, steal: StealTime) -> Step | None:
        """The store that is next. Run delay is sampled when the first one is due, and not when it is planned."""
        if package.update == PLANNED:
            package.update = BEGUN
            steal.begin(self._run_delay_ns(package), halves=self._halves)
        return steal.step(self._ram.load)

    def _run_delay_ns(self, package: Package) -> int:
        return package.entity.run_delay_ns(self._now()) + package.added_ns

    def _store_all(self, package: Package, area: str, steps: Iterable[Step]) -> None:
        for step in steps:
            self._store(package, area, step)

    def _store(self, package: Package, area: str, step: Step) -> None:
        if self.needed is not None:
            self.needed(step.gpa, step.size)
        self.stores += 1
        self._ram.store(step.gpa, step.size, step.value)
        self._stored(package, area, step)
        if area == STEAL_TIME and package.steal is not None and package.steal.take_flush():
            package.vcpu.flush_tlb()
