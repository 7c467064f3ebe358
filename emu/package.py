"""One vCPU with everything that is its alone: MSR bus, CPUID leaves, TSC, local APIC, steal-time device, books.

A processor package on a board is the same: the core, and the devices that no other core can reach. The machine joins
packages to what they share, which is RAM, ports and the host.

In Linux: struct kvm_vcpu in include/linux/kvm_host.h with struct kvm_vcpu_arch.
"""

from collections.abc import Callable
from typing import NamedTuple

from emu import abi
from emu.boot.reset import state_after_init
from emu.bus.cpuid import CpuidTable
from emu.bus.msr import MsrBus
from emu.devices import async_pf, kvmclock
from emu.devices.async_pf import AsyncPf
from emu.devices.hypercalls import Hypercalls
from emu.devices.kvmclock import KvmClock, SystemTime, WallClock
from emu.devices.lapic import Lapic
from emu.devices.migration_control import MigrationControl
from emu.devices.poll_control import PollControl
from emu.devices.pv_eoi import PvEoi
from emu.devices.pvclock import MasterClock
from emu.devices.startup import Sipi
from emu.devices.steal_time import StealTime
from emu.devices.tsc import Tsc
from emu.exits import Exit
from emu.host.entity import Entity
from emu.ram import Ram
from emu.scenario import FEATURES, Config
from emu.state import CpuState
from emu.stateful import State, Stateful
from emu.vcpu.cpu_msrs import CpuMsrs
from emu.vcpu.engine import Engine
from emu.vcpu.vcpu import Vcpu

# The hypercalls that can be offered, by the names under which they can be withheld.
HYPERCALLS = {
    "pv-unhalt": abi.KVM_FEATURE_PV_UNHALT,
    "pv-send-ipi": abi.KVM_FEATURE_PV_SEND_IPI,
    "pv-sched-yield": abi.KVM_FEATURE_PV_SCHED_YIELD,
}
# What a guest is not told of where a feature is withheld: the feature, and what cannot be without it.
UNTOLD: dict[str, tuple[int, ...]] = {
    "clocksource": kvmclock.FEATURES,
    "steal-time": (abi.KVM_FEATURE_STEAL_TIME, abi.KVM_FEATURE_PV_TLB_FLUSH),
    "pv-eoi": PvEoi.features,
    "pv-tlb-flush": (abi.KVM_FEATURE_PV_TLB_FLUSH,),
    "poll-control": PollControl.features,
    "migration-control": MigrationControl.features,
    **{name: (bit,) for name, bit in (*HYPERCALLS.items(), *async_pf.FEATURE_NAMES.items())},
    "async-pf": async_pf.FEATURES,
}

# An update that the host model other-cpu spreads over time: its first store is still to come, or was performed.
PLANNED, BEGUN = "planned", "begun"
SPREAD = frozenset((PLANNED, BEGUN))  # its next store comes without being asked for
BY_HAND = "by-hand"  # begun, and each of its stores is asked for from outside


class Clocks(NamedTuple):
    """What the vCPUs of one machine have in common: the clock that they show, and the time of day it began."""

    master: MasterClock
    wall: WallClock

    def state(self) -> State:
        return self.master.state(), self.wall.state()

    def load(self, state: State) -> None:
        for clock, of_clock in zip(self, state, strict=True):
            clock.load(of_clock)


class Lie(NamedTuple):
    """How the next exit of a kind, "cpuid", "rdmsr" or "wrmsr", is answered instead of truly: an MSR access is refused
    with #GP; or of the answer only the bits in `keep` are kept, and those in `flip` are turned over. Of CPUID's answer
    that is register number `register`, of EAX, EBX, ECX, EDX."""

    exit: str
    refuse: bool
    register: int
    keep: int
    flip: int

    def about(self, value: int) -> int:
        """What is said where `value` is the truth."""
        return value & self.keep ^ self.flip


class Package(Stateful):
    """vCPU `number` in state `start`; `now` tells virtual time in picoseconds to its devices.

    `exit` is an exit that has been taken and not yet completed, `halting` tells of a HLT that was, or of an INIT;
    `parked` says that no interrupt can wake this vCPU again, `kicked` that its next HLT is not to sleep.
    `waiting` says that it sleeps until a page is back, whatever comes meanwhile.
    `update` is PLANNED or BEGUN (host model other-cpu), its next store due after `store_in` more instructions; BY_HAND;
    or None. `added_ns` is run delay that was added by hand. `lies` are those still to be told, one of each kind.
    """

    fields = ("exit", "halting", "parked", "kicked", "waiting", "update", "store_in", "added_ns", "lies")
    parts = ("tsc", "lapic", "steal", "clock", "async_pf", "pv_eoi", "poll", "migration")

    def __init__(
        self,
        engine: Engine,
        ram: Ram,
        number: int,
        start: CpuState,
        config: Config,
        now: Callable[[], int],
        entity: Entity,
        shared: Clocks,
    ) -> None:
        self.number = number
        self.entity = entity
        self.vcpu = Vcpu(engine, number, start)
        self.tsc = Tsc(now, config.tsc_khz)
        self.lapic = Lapic(now, self.tsc, number, waiting=config.start == "bsp" and number > 0)
        offered = [name for name in FEATURES if config.lax_cpuid or name not in config.without]
        untold = {bit for name in config.without for bit in UNTOLD[name]} if config.lax_cpuid else set()
        flushes = "pv-tlb-flush" in offered
        self.steal = StealTime(ram.holds, config.abi, tlb_flush=flushes) if "steal-time" in offered else None
        time = SystemTime(ram.holds, shared.master, self.tsc, boot=number == 0, profile=config.abi)
        self.clock = KvmClock(shared.wall, time) if "clocksource" in offered else None
        self.pv_eoi = PvEoi(ram.holds) if "pv-eoi" in offered else None
        self.async_pf = _async_pf(ram, number, config.abi, offered)
        self.hypercalls = Hypercalls(tuple(bit for name, bit in HYPERCALLS.items() if name in offered))
        self.poll = PollControl() if "poll-control" in offered else None
        self.migration = MigrationControl() if "migration-control" in offered else None
        self.msrs = MsrBus()
        self.msrs.attach(CpuMsrs.msrs, CpuMsrs(self.vcpu))
        self.msrs.attach(self.tsc.msrs, self.tsc)
        self.msrs.attach(self.lapic.msrs, self.lapic)
        devices: list[object] = [self.tsc, self.lapic, self.hypercalls]
        for device in (self.steal, self.clock, self.async_pf, self.pv_eoi, self.poll, self.migration):
            if device is not None:
                self.msrs.attach(device.msrs, device)
                devices.append(device)
        self.cpuid = CpuidTable(devices, apic_id=number, logical_cpus=config.vcpus, hypercalls=True, untold=untold)
        self.exit: Exit | None = None
        self.halting = False
        self.parked = False
        self.kicked = False
        self.waiting = False
        self.update: str | None = None
        self.store_in = 0
        self.added_ns = 0
        self.lies: tuple[Lie, ...] = ()

    def load_from(self, now: State, state: State) -> None:
        """`load`, by who is known to be in the state `now`: devices that are the same are left alone."""
        first = len(self.fields)
        for name, value in zip(self.fields, state, strict=False):
            setattr(self, name, value)
        for name, of_part, part_now in zip(self.parts, state[first:], now[first:], strict=True):
            if of_part != part_now:
                getattr(self, name).load(of_part)

    def lie(self, lie: Lie) -> None:
        """Answer the next exit of this kind so."""
        self.lies = (*(one for one in self.lies if one.exit != lie.exit), lie)

    def take_lie(self, exit_: str) -> Lie | None:
        """How an exit of this kind, which has come, is to be answered; None: truly."""
        for one in self.lies:
            if one.exit == exit_:
                self.lies = tuple(other for other in self.lies if other is not one)
                return one
        return None

    def alarm_ps(self) -> int | None:
        """When something of this package's own will happen by itself."""
        return None if self.parked or self.waiting else self.lapic.due_ps

    def start_over(self) -> None:
        """Do what an INIT or a start-up message that has arrived asks for, which is a unit of work."""
        event = self.lapic.startup.take()
        if event is None:
            return
        vcpu = self.vcpu
        if isinstance(event, Sipi):
            vcpu.load(state_after_init(vcpu.state(), event.selector, event.base, 0))
        else:
            vcpu.load(state_after_init(vcpu.state()))
            self.lapic.reset()
            for device in (self.steal, self.clock, self.async_pf, self.pv_eoi):
                if device is not None:
                    device.reset()
            self.halting = event.waits
        vcpu.charge(1)

    @property
    def tsc_aux(self) -> int:
        """What RDTSCP puts into ECX."""
        return self.vcpu.msrs[abi.MSR_TSC_AUX]


def _async_pf(ram: Ram, number: int, profile: str, offered: list[str]) -> AsyncPf | None:
    if "async-pf" not in offered:
        return None
    features = [bit for name, bit in async_pf.FEATURE_NAMES.items() if name in offered]
    return AsyncPf(ram.holds, number, profile, tuple(features[:1] if profile == "kvm-2011" else features))
