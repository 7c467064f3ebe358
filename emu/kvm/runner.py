"""A whole guest on /dev/kvm: one thread per vCPU, the emulator's own port devices, and somebody who watches.

What is the same as on the emulator: image, RAM, entry state, ports, CPUID, why a run ends, the fields of the result.
What is not: time. It passes by itself here, so the books are Linux's: `ran` is the vCPU thread's CPU time, `stolen` its
run delay (the second number of /proc/thread-self/schedstat, which is what KVM publishes), `idle` the rest. What nobody
can know from outside, such as instructions and updates, is None.

HLT stays in the kernel, because the local APIC that ends it is there. So the watcher looks now and then: where every
vCPU thread has been asleep inside KVM_RUN for two looks in a row, it calls them back and asks each whether anything
could still wake it. Where nothing can, the run is over: `halted`. Threads that compute are never disturbed, since each
interruption would be one more update of the guest's steal time.

In Linux: kvm_cpu__start() in kvmtool's kvm-cpu.c; kvm_vcpu_halt() in virt/kvm/kvm_main.c.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from emu import abi
from emu.boot.entry import initial_state, prepare
from emu.boot.image import Image, place
from emu.bus.ports import PortBus, floating
from emu.devices import steal_time
from emu.devices.console import DEFAULT_CAP, Console
from emu.devices.exit_port import ExitPort
from emu.devices.marks import Marks
from emu.devices.migration_control import MigrationControl
from emu.faults import HostError
from emu.kvm import cpuid, ioctls, msr_exit
from emu.kvm.result import (
    EXIT,
    EXIT_LIMIT,
    HALTED,
    INTERRUPTED,
    OUTPUT_LIMIT,
    TIME_LIMIT,
    TRIPLE_FAULT,
    Result,
    VcpuResult,
)
from emu.kvm.system import System
from emu.kvm.thread import VcpuThread
from emu.kvm.vcpu import PortAccess, Vcpu
from emu.kvm.vm import Vm
from emu.ram import Ram

_LOOK_NS = 20_000_000
_NS_PER_SECOND = 1_000_000_000
_JOIN_TRIES = 200


class Settings(NamedTuple):
    """What a run on KVM is determined by, as far as anything is. `limit_ns` is wall-clock time."""

    vcpus: int = 1
    ram: int = 16 << 20
    start: str = "all"
    without: tuple[str, ...] = ()
    lax_cpuid: bool = False
    limit_ns: int = 20 * _NS_PER_SECOND
    exit_limit: int = 2_000_000
    output_limit: int = DEFAULT_CAP


class Runner:
    """`image` on KVM as `settings` say. `console` is called with each byte printed, from a vCPU's thread.

    Raises HostError where there is no usable /dev/kvm, or where image and settings do not fit.
    """

    def __init__(
        self, image: Image, settings: Settings = Settings(), *, console: Callable[[int], None] | None = None
    ) -> None:
        self.settings = settings
        self.reason: str | None = None
        self.shutdown: tuple[int, int] | None = None  # vCPU and RIP of a triple fault
        self.exits = 0
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()  # devices, and the end of the run
        self._live_console = console
        self._interrupted = False

        self.ram = Ram(settings.ram)
        place(image, self.ram, settings.vcpus)
        prepare(self.ram, image.entry, image.rights, settings.vcpus)
        self.console = Console(self._printed, settings.output_limit)
        self.exit_port = ExitPort()
        self.ports = PortBus()
        for device in (self.console, self.exit_port, Marks()):
            for base, count in device.ports:
                self.ports.attach(base, count, device)

        self.vcpus: list[Vcpu] = []
        self.migration = [MigrationControl() for _ in range(settings.vcpus)]
        with System() as system:
            self.vm = Vm(system, self.ram)
            try:
                if settings.lax_cpuid or "migration-control" not in settings.without:
                    self.vm.serve_migration_control()
                for number in range(settings.vcpus):
                    self._add_vcpu(number, system.supported_cpuid(), image)
            except BaseException:
                self._close()
                raise
        self._threads = [VcpuThread(vcpu, self._over.is_set, self._complete, self._failed) for vcpu in self.vcpus]

    def _add_vcpu(self, number: int, supported: cpuid.Leaves, image: Image) -> None:
        settings = self.settings
        table = cpuid.emulator_cpuid(number, settings.vcpus, settings.without)
        self.withheld = cpuid.withheld(table, supported)
        vcpu = Vcpu(self.vm, number, cpuid.pack_cpuid(table, supported), enforce=not settings.lax_cpuid)
        self.vcpus.append(vcpu)
        vcpu.set_state(initial_state(self.ram, image.entry, number, settings.vcpus))
        waits = settings.start == "bsp" and number > 0
        vcpu.set_mp_state(ioctls.KVM_MP_STATE_UNINITIALIZED if waits else ioctls.KVM_MP_STATE_RUNNABLE)

    def run(self, heartbeat: Callable[["Runner"], None] | None = None) -> Result:
        """Run to the end; `heartbeat` is called now and then, but never during `console`.

        Raises HostError where KVM cannot go on.
        """
        begin = time.monotonic_ns()
        for thread in self._threads:
            thread.start()
        try:
            self._watch(begin, heartbeat)
        finally:
            self._end(INTERRUPTED)
            self._join()
        wall_ns = time.monotonic_ns() - begin
        try:
            if self._error is not None:
                raise self._error
            vcpus = tuple(self._vcpu_result(thread) for thread in self._threads)
        finally:
            self._close()
        assert self.reason is not None
        return Result(self.exit_port.code, self.reason, None, wall_ns, None, vcpus, self.console.output)

    def interrupt(self) -> None:
        """End the run soon; for signal handlers."""
        self._interrupted = True

    # --- the watcher -------------------------------------------------------------------------------------------------

    def _watch(self, begin: int, heartbeat: Callable[["Runner"], None] | None) -> None:
        deadline = begin + self.settings.limit_ns
        asleep_before = None
        while True:
            left = min(_LOOK_NS, deadline - time.monotonic_ns())
            if left <= 0:
                self._end(TIME_LIMIT)
            elif self._interrupted:
                self._end(INTERRUPTED)
            if self._over.wait(max(left, 0) / _NS_PER_SECOND):
                return
            if heartbeat is not None:
                with self._lock:
                    heartbeat(self)
            asleep = self._all_asleep()
            if asleep is not None and asleep == asleep_before and self._nothing_can_wake():
                self._end(HALTED)
            asleep_before = asleep

    def _all_asleep(self) -> tuple[int, ...] | None:
        """How often each thread has entered, where all of them sleep inside KVM_RUN; else None."""
        counts = []
        for thread in self._threads:
            if not thread.asleep():
                return None
            counts.append(thread.entries)
        return tuple(counts)

    def _nothing_can_wake(self) -> bool:
        for thread in self._threads:
            thread.ask()
        return all(thread.answer() for thread in self._threads)

    # --- called by the vCPUs' threads --------------------------------------------------------------------------------

    def _complete(self, vcpu: Vcpu, reason: int) -> None:
        """Do what the guest asked for by leaving with `reason`. Raises HostError for what nobody can complete."""
        if reason == ioctls.KVM_EXIT_IO:
            with self._lock:
                self._port(vcpu, vcpu.port_access())
        elif reason == ioctls.KVM_EXIT_MMIO:
            access = vcpu.mmio_access()
            if not access.write:  # nobody drives these lines
                at = ioctls.RUN_MMIO_DATA
                vcpu.page[at : at + access.size] = floating(access.size).to_bytes(access.size, "little")
        elif reason in msr_exit.REASONS:
            msr_exit.complete(vcpu, reason, self.migration[vcpu.number])
        elif reason == ioctls.KVM_EXIT_SHUTDOWN:
            with self._lock:
                if self.reason is None:
                    self.shutdown = vcpu.number, vcpu.rip()
            self._end(TRIPLE_FAULT)
        else:
            raise vcpu.unexpected(reason)
        self.exits += 1
        if self.exits >= self.settings.exit_limit:
            self._end(EXIT_LIMIT)

    def _port(self, vcpu: Vcpu, access: PortAccess) -> None:
        page, size = vcpu.page, access.size
        for at in range(access.data_at, access.data_at + access.repeats * size, size):
            if self.reason is not None:
                return  # the run has ended on another vCPU: nothing is printed after the end
            if access.out:
                self.ports.write(access.port, size, int.from_bytes(page[at : at + size], "little"))
            else:
                page[at : at + size] = self.ports.read(access.port, size).to_bytes(size, "little")
            if self.exit_port.code is not None:
                self._finish(EXIT)
            elif self.console.overflow:
                self._finish(OUTPUT_LIMIT)

    def _failed(self, error: BaseException) -> None:
        """A vCPU's thread cannot go on; the run ends, and `run` raises this."""
        with self._lock:
            if self._error is None and self.reason is None:
                self._error = error
        self._end(INTERRUPTED)

    def _printed(self, byte: int, port: int) -> None:
        if self._live_console is not None:
            self._live_console(byte)

    def _end(self, reason: str) -> None:
        with self._lock:
            self._finish(reason)

    def _finish(self, reason: str) -> None:
        """The first reason stands. The lock is held."""
        if self.reason is None:
            self.reason = reason
            self._over.set()

    # --- the end -----------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        # A kick that meets a thread on its way into KVM_RUN is remembered there; still, nothing may rest on one kick.
        for thread in self._threads:
            for _ in range(_JOIN_TRIES):
                if not thread.is_alive():
                    break
                thread.vcpu.kick()
                thread.join(_LOOK_NS / _NS_PER_SECOND)
            else:
                raise HostError(f"vCPU {thread.vcpu.number} does not come back from KVM_RUN", "/dev/kvm")

    def _vcpu_result(self, thread: VcpuThread) -> VcpuResult:
        msr = thread.vcpu.get_msr(abi.MSR_KVM_STEAL_TIME) or 0
        gpa, size = msr & abi.KVM_STEAL_ADDRESS_MASK, abi.KVM_STEAL_TIME_SIZE
        area = None
        if msr & abi.KVM_MSR_ENABLED and self.ram.holds(gpa, size):
            area = steal_time.decode(self.ram.read(gpa, size))
        # CPU time and run delay are counted by the scheduler's own clock, which may end a moment later than ours.
        idle_ns = max(thread.elapsed_ns - thread.ran_ns - thread.stolen_ns, 0)
        books = thread.ran_ns, thread.stolen_ns, idle_ns
        return VcpuResult(thread.vcpu.number, *books, sum(books), None, None, msr, area)

    def _close(self) -> None:
        for vcpu in self.vcpus:
            vcpu.close()
        self.vm.close()


def run(image: Image, settings: Settings = Settings(), *, console: Callable[[int], None] | None = None) -> Result:
    """Run `image` to its end; see Runner."""
    return Runner(image, settings, console=console).run()
