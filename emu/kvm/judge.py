"""Real KVM as a judge: runs sequences of operations on /dev/kvm and says what came of each, thousands a second.

One VM serves many sequences. Between them it is cleaned: paravirtual MSRs off, the sequence's pages zero. What cannot
be cleaned carries over, as it does in KVM: `last_steal`, the run delay that has been delivered, so the first update of
a sequence adds what has accrued since the last update of an earlier one. `renewed` says that it began anew.

A whole sequence is one entry where the guest executes all of it; the host's operations split it. A sequence that
damages the stub, or does not come back, costs the VM and is told as HostError; the next one has a fresh VM.

In Linux: kvm_vcpu_reset(), kvm_get_msr_common() and kvm_set_msr_common() in arch/x86/kvm/x86.c.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from emu import abi
from emu.boot.entry import initial_state, prepare
from emu.bus.cpuid import CpuidTable
from emu.devices.migration_control import MigrationControl
from emu.faults import HostError
from emu.kvm import cpuid, ioctls, layout, msr_exit, operations, records, stub
from emu.kvm.operations import Conditions, Content, Done, Operation, Outcome
from emu.kvm.system import System
from emu.kvm.vcpu import KICKED, Vcpu
from emu.kvm.vm import Vm
from emu.kvm.watchdog import STUCK_SECONDS, Watchdog
from emu.ram import Ram
from emu.state import GENERAL, Table

# Two numbers of one register: restoring both would write the wall clock twice.
_NEW_NUMBER = {
    abi.MSR_KVM_WALL_CLOCK: abi.MSR_KVM_WALL_CLOCK_NEW,
    abi.MSR_KVM_SYSTEM_TIME: abi.MSR_KVM_SYSTEM_TIME_NEW,
}
_VCPUS_PER_VM = 64  # a new vCPU needs a new number, and the kernel keeps the old ones until the VM goes


class Judge:
    """A vCPU on /dev/kvm that executes sequences; for the thread that makes it. Close it, or use it in `with`.

    `conditions` are those of the last sequence; `renewed` tells that it ran in a fresh VM, with `last_steal` 0.
    Raises HostError where there is no usable /dev/kvm.
    """

    def __init__(self, table: CpuidTable | None = None) -> None:
        self._system = System()
        try:
            self._books = open("/proc/thread-self/schedstat", "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            self._system.close()
            raise HostError("this kernel does not tell a thread's run delay", str(error.filename)) from None
        import signal

        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        table = table or cpuid.judge_cpuid()
        self._packed = cpuid.pack_cpuid(table, self._system.supported_cpuid())
        self._serves = bool(table.query(abi.KVM_CPUID_FEATURES)[0] >> abi.KVM_FEATURE_MIGRATION_CONTROL & 1)
        self._watchdog = Watchdog()
        self._vm: Vm | None = None
        self.conditions = Conditions(0, 0, 0, 0, True)
        self.renewed = True
        self._fresh = False
        self.renew()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back."""
        import signal

        self._watchdog.close()
        self._drop()
        self._system.close()
        self._books.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def renew(self) -> None:
        """A fresh VM: nothing is carried over from the sequences before."""
        self._drop()
        ram = Ram(operations.RAM_SIZE)
        prepare(ram, stub.ENTRY, stub.RIGHTS, 1)
        stub.map_page_0(ram)
        ram.write(stub.STUB_GPA, stub.PAGE)
        self.ram = ram
        self._vm = Vm(self._system, ram)
        if self._serves:
            self._vm.serve_migration_control()
        self._number = 0
        self._vcpu = self._new_vcpu()
        start = initial_state(ram, stub.ENTRY, 0, 1)
        general = list(start.general)
        general[GENERAL.index("rsp")] = stub.STACK_TOP_GPA
        idtr = Table(len(stub.IDT) - 1, stub.STUB_GPA + stub.IDT_OFFSET)
        self._vcpu.set_state(start._replace(general=tuple(general), idtr=idtr))
        offered = [pair for pair in cpuid.PV_MSRS if self._vcpu.get_msr(pair[0]) is not None]
        self._offered = tuple(msr for msr, _ in offered)
        self._power_up = layout.pack_msrs(tuple(offered))
        self._fresh = True

    def sequence(self, operations_: Sequence[Operation]) -> list[Outcome]:
        """Run the operations on a clean vCPU and tell what came of each, one outcome per operation, in order.

        Raises HostError where the sequence killed or blocked the vCPU; ValueError for more than MAX_OPERATIONS.
        """
        if len(operations_) > operations.MAX_OPERATIONS:
            raise ValueError(f"a sequence has at most {operations.MAX_OPERATIONS} operations")
        if self._vm is None or self._number >= _VCPUS_PER_VM:
            self.renew()
        self.renewed, self._fresh = self._fresh, False
        self._clean()
        written = records.pack(operations_)
        self.ram.bytes[stub.RECORDS_GPA : stub.RECORDS_GPA + len(written)] = written
        before, boot_vcpu = self._read_books(), self._number == 0
        try:
            hosts = [self._host(operation) for operation in operations_ if records.of_host(operation)]
            self._enter()
        except BaseException:
            self._drop()
            raise
        after = self._read_books()
        self.conditions = Conditions(before[0], after[0], before[1], after[1], boot_vcpu)
        if self.ram.bytes[stub.STUB_GPA : stub.STUB_GPA + len(stub.PAGE)] != stub.PAGE:
            self._drop()
            raise HostError("a sequence had KVM write into the program that executes it", "/dev/kvm")
        return records.outcomes(self.ram.bytes, operations_, hosts)

    # --- one sequence ------------------------------------------------------------------------------------------------

    def _clean(self) -> None:
        if self._vcpu.request(ioctls.KVM_SET_MSRS, self._power_up) != len(self._offered):
            raise HostError("KVM does not let a paravirtual MSR be switched off", "/dev/kvm")
        self._migration = MigrationControl()  # ours: it goes with the guest, whatever vCPU of KVM executes it
        memory = self.ram.bytes
        for gpa, zeroes in _ZEROES:
            memory[gpa : gpa + len(zeroes)] = zeroes

    def _host(self, operation: Operation) -> Outcome:
        """Let the guest come as far as this operation of the host, and do it."""
        self._enter()
        return _HOST[type(operation)](self, operation)

    def _enter(self) -> None:
        vcpu = self._vcpu
        with self._watchdog.over(vcpu):
            reason = vcpu.enter()
            while reason in msr_exit.REASONS:
                msr_exit.complete(vcpu, reason, self._migration)
                reason = vcpu.enter()
        if reason == KICKED:
            raise HostError(f"a sequence did not come back within {STUCK_SECONDS} s", "/dev/kvm")
        if reason != ioctls.KVM_EXIT_IO:
            raise vcpu.unexpected(reason)

    def _read_books(self) -> tuple[int, int]:
        _, run_delay_ns, arrivals = os.pread(self._books.fileno(), 80, 0).split()
        return int(run_delay_ns), int(arrivals)

    # --- what the host does ------------------------------------------------------------------------------------------

    def _reenter(self, _: Operation) -> Outcome:
        return _DONE

    def _memory(self, operation: operations.Memory) -> Outcome:
        return Content(self.ram.read(operation.gpa, operation.size))

    def _reset(self, _: Operation) -> Outcome:
        vcpu = self._vcpu
        self._settle()
        regs, sregs = vcpu.regs(), vcpu.sregs()
        vcpu.init()
        vcpu.request(ioctls.KVM_SET_SREGS, bytes(sregs))
        vcpu.request(ioctls.KVM_SET_REGS, bytes(regs))
        vcpu.set_mp_state(ioctls.KVM_MP_STATE_RUNNABLE)
        return _DONE

    def _save_restore(self, _: Operation) -> Outcome:
        old = self._vcpu
        self._settle()
        regs, sregs = old.regs(), old.sregs()
        numbers = tuple(msr for msr in self._offered if _NEW_NUMBER.get(msr) not in self._offered)
        saved = tuple(zip(numbers, old.get_msrs(numbers), strict=True))
        old.request(ioctls.KVM_SET_MSRS, self._power_up)  # the old vCPU lives on until its VM goes
        self._number += 1
        new = self._new_vcpu()
        old.close()
        self._vcpu = new
        new.request(ioctls.KVM_SET_SREGS, bytes(sregs))
        new.request(ioctls.KVM_SET_REGS, bytes(regs))
        new.set_mp_state(ioctls.KVM_MP_STATE_RUNNABLE)
        while saved:  # KVM stops at a value that it refuses, such as one that a refused WRMSR left behind
            saved = saved[new.set_msrs(saved) + 1 :]
        return _DONE

    def _settle(self) -> None:
        """Complete the OUT by which the guest left: until then its registers are not what they will be."""
        vcpu = self._vcpu
        vcpu.page[ioctls.RUN_IMMEDIATE_EXIT] = 1
        vcpu.enter()

    # --- VMs ---------------------------------------------------------------------------------------------------------

    def _new_vcpu(self) -> Vcpu:
        assert self._vm is not None
        vcpu = Vcpu(self._vm, self._number, self._packed)
        vcpu.adopt()
        return vcpu

    def _drop(self) -> None:
        if self._vm is not None:
            self._vcpu.close()
            self._vm.close()
            self._vm = None


_DONE = Done()
_ZEROES = tuple((gpa, bytes(size)) for gpa, size in operations.PAGES)
_HOST: dict[type, Callable[[Judge, Any], Outcome]] = {
    operations.Reenter: Judge._reenter,
    operations.SaveRestore: Judge._save_restore,
    operations.Reset: Judge._reset,
    operations.Memory: Judge._memory,
}
