"""The specification of KVM's paravirtual MSRs as one table and a few rules: the judge that is neither emulator nor KVM.

It knows numbers and nothing else of the project, so that a mistake in a device cannot be in here as well. It says what
an operation does to the registers and to memory, and of each byte that the host stores what may be expected of it: an
amount of time, a version, a mark, or exactly this.

Three quirks can be switched on. K1: a refused WRMSR to ASYNC_PF_EN is remembered where its address is what was wrong.
K2: the steal that a WRMSR asks for is stored at the next entry, not before the next instruction. K4: a
system time that would cross a page leaves the one before in force. See `emu.conform.known`.

In Linux: kvm_set_msr_common(), record_steal_time() and kvm_vcpu_reset() in arch/x86/kvm/x86.c.
"""

from collections.abc import Callable
from typing import NamedTuple

from emu import abi

K1, K2, K4 = "K1", "K2", "K4"

# What a byte that the host has stored is: how it may differ where time passes differently.
STEAL, VERSION, CLOCK_VERSION, PREEMPTED, AMOUNT = "steal", "version", "clock-version", "preempted", "amount"

FEATURES = (
    *(abi.KVM_FEATURE_CLOCKSOURCE, abi.KVM_FEATURE_CLOCKSOURCE2, abi.KVM_FEATURE_ASYNC_PF, abi.KVM_FEATURE_STEAL_TIME),
    *(abi.KVM_FEATURE_PV_EOI, abi.KVM_FEATURE_PV_UNHALT, abi.KVM_FEATURE_PV_TLB_FLUSH),
    *(abi.KVM_FEATURE_ASYNC_PF_VMEXIT, abi.KVM_FEATURE_PV_SEND_IPI, abi.KVM_FEATURE_POLL_CONTROL),
    *(abi.KVM_FEATURE_PV_SCHED_YIELD, abi.KVM_FEATURE_ASYNC_PF_INT, abi.KVM_FEATURE_MIGRATION_CONTROL),
    abi.KVM_FEATURE_CLOCKSOURCE_STABLE_BIT,
)


class Rule(NamedTuple):
    """One register. `reserved` bits raise #GP; `enable` bits, all set, make `size` bytes at the address be looked for
    in RAM, and #GP follows where they are not. `reads_zero`: a write leaves nothing to be read. `leaves`: KVM has not
    got it, so that each access, refused or not, leaves to user space and enters again."""

    reserved: int = 0
    power_up: int = 0
    init_clears: bool = True
    enable: int | None = None
    address: int = 0
    size: int = 0
    reads_zero: bool = False
    leaves: bool = False


_U64 = (1 << 64) - 1
TABLE = {
    abi.MSR_KVM_STEAL_TIME: Rule(reserved=abi.KVM_STEAL_RESERVED_MASK),
    abi.MSR_KVM_ASYNC_PF_EN: Rule(
        reserved=abi.KVM_ASYNC_PF_RESERVED_MASK,
        enable=abi.KVM_ASYNC_PF_ENABLED | abi.KVM_ASYNC_PF_DELIVERY_AS_INT,
        address=abi.KVM_ASYNC_PF_ADDRESS_MASK,
        size=abi.KVM_APF_SIZE,
    ),
    abi.MSR_KVM_ASYNC_PF_INT: Rule(reserved=_U64 & ~abi.KVM_ASYNC_PF_VEC_MASK),
    abi.MSR_KVM_ASYNC_PF_ACK: Rule(reads_zero=True),
    abi.MSR_KVM_PV_EOI_EN: Rule(
        reserved=(abi.KVM_PV_EOI_ALIGNMENT - 1) & ~abi.KVM_MSR_ENABLED,
        enable=abi.KVM_MSR_ENABLED,
        address=_U64 & ~abi.KVM_MSR_ENABLED,
        size=1,
    ),
    abi.MSR_KVM_SYSTEM_TIME_NEW: Rule(),
    abi.MSR_KVM_WALL_CLOCK_NEW: Rule(init_clears=False),
    abi.MSR_KVM_POLL_CONTROL: Rule(
        reserved=_U64 & ~abi.KVM_POLL_CONTROL_ENABLED, power_up=abi.KVM_POLL_CONTROL_ENABLED, init_clears=False
    ),
    abi.MSR_KVM_MIGRATION_CONTROL: Rule(
        reserved=_U64 & ~abi.KVM_MIGRATION_READY, power_up=abi.KVM_MIGRATION_READY, init_clears=False, leaves=True
    ),
}
SAME_REGISTER = {
    abi.MSR_KVM_SYSTEM_TIME: abi.MSR_KVM_SYSTEM_TIME_NEW,
    abi.MSR_KVM_WALL_CLOCK: abi.MSR_KVM_WALL_CLOCK_NEW,
}


class Model:
    """A vCPU of the specification in `ram_size` bytes of zeroed RAM.

    `run_delay` tells the vCPU's run delay in ns; `last_steal` is what earlier updates have delivered of it. `memory`
    holds the bytes that are not 0; `kinds` says of those that the host has stored what they are, and which field
    (its address) each belongs to. `refusals` counts #GPs that K1 would remember, `late` updates that K2 would put off,
    `crossings` structures that K4 is about.
    """

    def __init__(
        self, ram_size: int, run_delay: Callable[[], int], last_steal: int = 0, quirks: frozenset[str] = frozenset()
    ) -> None:
        self.ram_size = ram_size
        self._run_delay = run_delay
        self.last_steal = last_steal
        self.updated = False
        self._quirks = quirks
        self.memory: dict[int, int] = {}
        self.kinds: dict[int, tuple[str, int]] = {}
        self._registers = {msr: rule.power_up for msr, rule in TABLE.items()}
        self._steal_due = self._time_due = self._migrating = False
        self._time_area: int | None = None
        self.refusals = self.late = self.crossings = 0

    # --- what the guest does -----------------------------------------------------------------------------------------

    def rdmsr(self, msr: int) -> int | None:
        """The value, or None for #GP(0)."""
        return self._registers.get(SAME_REGISTER.get(msr, msr))

    def wrmsr(self, msr: int, value: int) -> bool:
        """Whether it is accepted; False is #GP(0)."""
        msr = SAME_REGISTER.get(msr, msr)
        rule = TABLE.get(msr)
        if rule is None or value & rule.reserved:
            return False
        wants = rule.enable is not None and value & rule.enable == rule.enable
        if wants and not self._holds(value & rule.address, rule.size):
            if msr == abi.MSR_KVM_ASYNC_PF_EN:
                self.refusals += 1
                if K1 in self._quirks:
                    self._registers[msr] = value
            return False
        if not rule.reads_zero:
            self._registers[msr] = value
        if msr == abi.MSR_KVM_WALL_CLOCK_NEW:
            self._store_wall_clock(value)
        elif msr == abi.MSR_KVM_STEAL_TIME:
            self._steal_due = bool(value & abi.KVM_MSR_ENABLED)
        elif msr == abi.MSR_KVM_SYSTEM_TIME_NEW:
            self._register_time(value)
        if not self._migrating:
            self._serve(late=True)
        return True

    def load(self, gpa: int, size: int) -> bytes | None:
        """What the guest reads, or None for #PF."""
        if not self._holds(gpa, size):
            return None
        memory = self.memory
        return bytes([memory.get(at, 0) for at in range(gpa, gpa + size)])

    def store(self, gpa: int, value: int, size: int) -> bool:
        """Whether the guest's store takes place; False is #PF."""
        if not self._holds(gpa, size):
            return False
        self._put(gpa, value, size)
        if self.kinds:
            self._overwritten(gpa, size)
        return True

    # --- what the host does ------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """The vCPU was out of guest mode and enters again."""
        self._steal_due = True
        self._serve()

    def outside(self) -> None:
        """Something from outside, a timer of the host's perhaps, had the vCPU leave and enter: what waits is served."""
        self._serve()

    def init(self) -> None:
        """INIT: what belongs to the vCPU is forgotten, what has been delivered is not."""
        for msr, rule in TABLE.items():
            if rule.init_clears:
                self._registers[msr] = rule.power_up
        self._steal_due = self._time_due = False
        self._time_area = None

    def migrate(self) -> None:
        """A new vCPU in the same memory; each register is written again, with all that a write does."""
        saved, self._registers = self._registers, {msr: rule.power_up for msr, rule in TABLE.items()}
        self._registers[abi.MSR_KVM_WALL_CLOCK_NEW] = saved[abi.MSR_KVM_WALL_CLOCK_NEW]  # the VM's, not the vCPU's
        self._steal_due = self._time_due = False
        self._time_area = None
        self.last_steal = 0
        self.updated = False
        self._migrating = True  # requests wait for the first entry
        for msr, value in saved.items():
            if not TABLE[msr].reads_zero:
                self.wrmsr(msr, value)
        self._migrating = False

    # --- updates -----------------------------------------------------------------------------------------------------

    def _serve(self, late: bool = False) -> None:
        if self._time_due:
            self._time_due = False
            self._store_system_time()
        if self._steal_due and late:
            self.late += 1
            if K2 in self._quirks:
                return
        if self._steal_due:
            self._steal_due = False
            self._store_steal()

    def _store_steal(self) -> None:
        value = self._registers[abi.MSR_KVM_STEAL_TIME]
        area = value & abi.KVM_STEAL_ADDRESS_MASK
        if not value & abi.KVM_MSR_ENABLED or not self._holds(area, abi.KVM_STEAL_TIME_SIZE):
            return
        self._put(area + abi.KVM_STEAL_TIME_PREEMPTED, 0, 1, PREEMPTED)
        run_delay = self._run_delay()
        steal = self._get(area + abi.KVM_STEAL_TIME_STEAL, 8) + run_delay - self.last_steal
        self.last_steal = run_delay
        self.updated = True
        self._put(area + abi.KVM_STEAL_TIME_STEAL, steal, 8, STEAL)
        self._step_version(area + abi.KVM_STEAL_TIME_VERSION, VERSION)

    def _register_time(self, value: int) -> None:
        gpa, size = value & ~abi.KVM_MSR_ENABLED, abi.PVCLOCK_VCPU_TIME_INFO_SIZE
        self._time_due = True
        if not value & abi.KVM_MSR_ENABLED:
            self._time_area = None
        elif gpa // abi.PAGE_SIZE == (gpa + size - 1) // abi.PAGE_SIZE:
            self._time_area = gpa
        else:
            self.crossings += 1
            if K4 not in self._quirks:
                self._time_area = None

    def _store_system_time(self) -> None:
        gpa, size = self._time_area, abi.PVCLOCK_VCPU_TIME_INFO_SIZE
        if gpa is None or not self._holds(gpa, size):
            return
        self._put(gpa + abi.PVCLOCK_PAD0, 0, 4, PREEMPTED)
        # tsc_timestamp to flags; the two bytes after them are stored as zeroes.
        self._put(gpa + abi.PVCLOCK_TSC_TIMESTAMP, 0, abi.PVCLOCK_FLAGS + 1 - abi.PVCLOCK_TSC_TIMESTAMP, AMOUNT)
        self._put(gpa + abi.PVCLOCK_FLAGS + 1, 0, size - abi.PVCLOCK_FLAGS - 1, PREEMPTED)
        self._step_version(gpa + abi.PVCLOCK_VERSION, CLOCK_VERSION)

    def _store_wall_clock(self, gpa: int) -> None:
        if gpa == 0 or not self._holds(gpa, 4):
            return
        self._step_version(gpa + abi.PVCLOCK_WALL_CLOCK_VERSION, CLOCK_VERSION)
        end = min(gpa + abi.PVCLOCK_WALL_CLOCK_SIZE, self.ram_size)
        self._put(gpa + abi.PVCLOCK_WALL_CLOCK_SEC, 0, end - gpa - abi.PVCLOCK_WALL_CLOCK_SEC, AMOUNT)

    def _step_version(self, gpa: int, kind: str) -> None:
        found = self._get(gpa, 4)
        self._put(gpa, found + (found & 1) + 2, 4, kind)

    # --- memory ------------------------------------------------------------------------------------------------------

    def live(self, at: int) -> bool:
        """Whether the host may store at this byte by itself, now."""
        steal, time = self._registers[abi.MSR_KVM_STEAL_TIME], self._time_area
        in_steal = steal & 1 and 0 <= at - (steal & abi.KVM_STEAL_ADDRESS_MASK) < abi.KVM_STEAL_TIME_SIZE
        in_time = time is not None and 0 <= at - time < abi.PVCLOCK_VCPU_TIME_INFO_SIZE
        return bool(in_steal or in_time)

    def _overwritten(self, gpa: int, size: int) -> None:
        """The guest has stored where the host had: its bytes are exact again, unless the host may store once more."""
        kinds = self.kinds
        hit = {kinds[at] for at in range(gpa, gpa + size) if at in kinds}
        for kind, field in hit:
            length = _LENGTHS.get(kind, 1)
            whole = gpa <= field and field + length <= gpa + size
            for at in range(field, field + length):
                if kinds.get(at) != (kind, field):
                    continue
                if gpa <= at < gpa + size and not self.live(at):
                    del kinds[at]
                elif length > 1 and not whole:
                    kinds[at] = AMOUNT, at  # part of a number no longer obeys the rule of the number

    def _holds(self, gpa: int, size: int) -> bool:
        return 0 <= gpa <= self.ram_size - size

    def _get(self, gpa: int, size: int) -> int:
        return int.from_bytes([self.memory.get(at, 0) for at in range(gpa, gpa + size)], "little")

    def _put(self, gpa: int, value: int, size: int, kind: str | None = None) -> None:
        memory = self.memory
        for at in range(gpa, gpa + size):
            memory[at] = value & 0xFF
            value >>= 8
        if kind is None:
            return
        kinds = self.kinds
        single = kind in (PREEMPTED, AMOUNT)
        under = {old for at in range(gpa, gpa + size) if (old := kinds.get(at)) is not None}
        for old in under:
            if old[0] != kind or not single and old[1] != gpa:
                self._spoil(old)
                single, kind = True, AMOUNT
        for at in range(gpa, gpa + size):
            kinds[at] = kind, at if single else gpa

    def _spoil(self, field: tuple[str, int]) -> None:
        """Two structures lie over each other: what one takes for its version may be time, so all of it is an amount."""
        for at in range(field[1], field[1] + _LENGTHS.get(field[0], 1)):
            if self.kinds.get(at) == field:
                self.kinds[at] = AMOUNT, at


_LENGTHS = {STEAL: 8, VERSION: 4, CLOCK_VERSION: 4}
