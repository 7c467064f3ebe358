"""The emulator as a judge, with its engine: the guest that real KVM is given, instruction by instruction.

A machine of one vCPU executes the records of `emu.kvm.stub`; where it leaves, the host's operation is done to the
devices. This is a hundred times slower than `emu.conform.emulator` and asked for a sample: it shows that RDMSR, WRMSR,
CPUID, loads and stores reach the devices and memory, and that #GP and #PF reach the guest.

In Linux: vcpu_run() in arch/x86/kvm/x86.c.
"""

from collections.abc import Sequence
from typing import Any

from emu.boot.image import Image, Piece
from emu.conform.emulator import Devices
from emu.conform.expect import Observed, RunDelay
from emu.devices.kvmclock import WallClock
from emu.devices.pvclock import MasterClock
from emu.host.entity import Entity
from emu.kvm import operations, records, stub
from emu.kvm.operations import Operation, Outcome
from emu.machine import Machine
from emu.package import Clocks
from emu.scenario import MAX_DURATION_PS, Config
from emu.state import GENERAL, Table


class _Books:
    """The books of the machine's vCPU with a run delay of the sequence's own."""

    def __init__(self, entity: Entity, run_delay: RunDelay) -> None:
        self._entity = entity
        self._run_delay = run_delay

    def run_delay_ns(self, _now_ps: int) -> int:
        return self._run_delay()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entity, name)


class EngineEmulator:
    """A machine that executes sequences with its engine. Raises RuntimeError where a guest does not come back."""

    name = "emulator (engine)"

    def __init__(self) -> None:
        image = Image(stub.ENTRY, (Piece(stub.STUB_GPA, stub.PAGE, len(stub.PAGE)),), stub.RIGHTS, stub.PAGE, "stub")
        limits: dict[str, Any] = {"insn_limit": 10**15, "exit_limit": 10**12, "time_limit_ps": MAX_DURATION_PS}
        self._machine = Machine(image, Config(ram=operations.RAM_SIZE, **limits))
        stub.map_page_0(self._machine.ram)
        package = self._machine.packages[0]
        start = package.vcpu.state()
        general = list(start.general)
        general[GENERAL.index("rsp")] = stub.STACK_TOP_GPA
        idtr = Table(len(stub.IDT) - 1, stub.STUB_GPA + stub.IDT_OFFSET)
        package.vcpu.load(start._replace(general=tuple(general), idtr=idtr))
        self._books = package.entity

    def sequence(self, sequence: Sequence[Operation]) -> Observed:
        """One outcome for each operation, and the pages afterwards."""
        ram = self._machine.ram
        for gpa, size in operations.PAGES:
            ram.write(gpa, bytes(size))
        self._shared = Clocks(MasterClock(self._machine.config.tsc_khz), WallClock(ram.holds))
        self._run_delay = RunDelay()
        self._attach(Devices(ram, self._shared, self._run_delay, boot=True))
        ram.write(stub.RECORDS_GPA, records.pack(sequence))
        hosts: list[Outcome] = []
        for operation in sequence:
            if records.of_host(operation):
                self._enter()
                hosts.append(self._host(operation))
        self._enter()
        return Observed(
            records.outcomes(ram.bytes, sequence, hosts), tuple(ram.read(*page) for page in operations.PAGES)
        )

    def _enter(self) -> None:
        machine = self._machine
        machine.exit_port.code = None
        machine.reason = None
        package = machine.packages[0]
        package.steal.request()  # type: ignore[union-attr]
        if machine.run().reason != "exit":
            raise RuntimeError(f"the guest of a sequence ended with {machine.reason}")

    def _attach(self, devices: Devices) -> None:
        """Put these devices where the machine's own paravirtual ones were."""
        package: Any = self._machine.packages[0]
        package.steal, package.clock, package.pv_eoi = devices.steal, devices.clock, devices.pv_eoi
        package.msrs, package.cpuid = devices.msrs, devices.cpuid()
        package.entity = _Books(self._books, self._run_delay)
        self._devices = devices

    def _host(self, operation: Operation) -> Outcome:
        if isinstance(operation, operations.Memory):
            content = operations.Content(self._machine.ram.read(operation.gpa, operation.size))
            self._run_delay.entered()
            return content
        if isinstance(operation, operations.SaveRestore):
            old = self._devices
            self._attach(Devices(self._machine.ram, self._shared, self._run_delay, boot=False))
            self._devices.restore_from(old)
            self._machine._model.wrote_msr(self._machine.packages[0])
        elif isinstance(operation, operations.Reset):
            self._devices.reset()
        self._run_delay.entered()
        return operations.Done()
