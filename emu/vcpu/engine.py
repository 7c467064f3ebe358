"""The physical CPU: one Unicorn engine, of a model with SVM, that enters guests by executing VMRUN.

Unicorn cannot stop at WRMSR or HLT by itself. But the processor it emulates is an AMD one with virtualization, and in
*its* guest mode every instruction that a hypervisor may intercept stops exactly and costs nothing elsewhere. So this
module does what a hypervisor does: it keeps a host-only window of memory with a two-instruction stub (VMLOAD, VMRUN),
a VMCB and permission maps, and enters guests through that stub alone. Each change of privileged state goes that way.

Two things are private to Unicorn 2.1 and therefore measured at start and checked: where the context blob keeps
the hidden state (error code, interrupt shadow, descriptor caches), and where the engine counts instructions.
`emu.vcpu.calibration` does that and refuses to run where anything is not as expected.

Hooks here only remember and stop. What an exit means is told by `emu.vcpu.vcpu`, what happens next by `emu.machine`.

In Linux: svm_vcpu_run() in arch/x86/kvm/svm/svm.c and arch/x86/kvm/svm/vmenter.S.
"""

import ctypes
from typing import Any, NamedTuple, Protocol, cast

from unicorn import Uc, unicorn_const, x86_const  # type: ignore[attr-defined]
from unicorn import __version__ as unicorn_version  # type: ignore[attr-defined]
from unicorn.unicorn_const import UC_ERR_OK

from emu import abi, state
from emu.ram import Ram
from emu.vcpu import host_window, native, nested, port_io, vmcb
from emu.vcpu.blocks import Blocks
from emu.vcpu.calibration import Layout, check_version, find_blob, find_counter, verify
from emu.vcpu.exit_codes import NO_EXIT, SYSCALL, SYSENTER, UNASSIGNED_FETCH, EngineError
from emu.vcpu.host_window import HOST_CR4, HSAVE, IOPM, MSRPM, OPEN_MSRPM, STUB_INSNS, VMCB, WINDOW, WINDOW_SIZE
from emu.vcpu.one_by_one import OneByOne
from emu.vcpu.paging import Paging
from emu.vcpu.registers import Batch, uclib

GENERAL = tuple(name.upper() for name in state.GENERAL)
_FPU = (*(f"XMM{n}" for n in range(16)), *(f"FP{n}" for n in range(8)), "FPCW", "FPSW", "FPTAG", "MXCSR")
_MISC = vmcb.intercept_bits(
    *(vmcb.EXIT_TR_WRITE, vmcb.EXIT_RDTSC, vmcb.EXIT_RDPMC, vmcb.EXIT_CPUID, vmcb.EXIT_SWINT, vmcb.EXIT_PAUSE),
    *(
        vmcb.EXIT_HLT,
        vmcb.EXIT_INVLPGA,
        vmcb.EXIT_MSR,
        vmcb.EXIT_SHUTDOWN,
        vmcb.EXIT_VMRUN,
        vmcb.EXIT_VMMCALL,
        vmcb.EXIT_VMLOAD,
    ),
    *(vmcb.EXIT_VMSAVE, vmcb.EXIT_STGI, vmcb.EXIT_CLGI, vmcb.EXIT_SKINIT, vmcb.EXIT_RDTSCP, vmcb.EXIT_ICEBP),
    *(vmcb.EXIT_MONITOR, vmcb.EXIT_MWAIT, vmcb.EXIT_XSETBV),
)
_VINTR = vmcb.intercept_bits(vmcb.EXIT_VINTR)
_MSR_HSAVE_PA = 0xC0010117
EVERYWHERE = 1, 0  # the range of a hook that has none
SVM_BASE = 0x100  # the engine reports #VMEXIT code c as interrupt number SVM_BASE + c
_STALE_AT_ONCE = 64  # from so many pages on it is quicker to forget all translated code


class Hidden(NamedTuple):
    """What only the context blob shows: error code, shadow, CPL, 64-bit code, long mode, base of CS, 32-bit code."""

    error: int
    shadow: bool
    cpl: int
    long: bool
    lma: bool
    cs_base: int
    big: bool

    @property
    def bits(self) -> int:
        """Of the code: 16, 32 or 64."""
        return 64 if self.long else 32 if self.big else 16


class Resident(Protocol):
    """A guest that can be parked: it brings the place where it is kept."""

    @property
    def resident_context(self) -> Any: ...


class Engine:
    """One per machine, over its RAM. `exit_code`, `counter` and `port` describe the last run.

    `after` is a trap or an interrupt window that came at the boundary behind an IN, OUT or SYSCALL which stopped it.
    """

    def __init__(self, ram: Ram) -> None:
        check_version(unicorn_version)
        self.ram = ram
        uc = self.uc = Uc(unicorn_const.UC_ARCH_X86, unicorn_const.UC_MODE_64)
        # Opteron G5: SVM, SSE4 and RDTSCP, but neither RDRAND nor RDSEED, which would make runs differ.
        uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_OPTERON_G5)
        self.handle: Any = uc._uch
        self._ram_anchor = ctypes.c_char.from_buffer(ram.bytes)
        uc.mem_map_ptr(0, ram.size, unicorn_const.UC_PROT_ALL, ctypes.addressof(self._ram_anchor))
        self.nested = nested.NestedTables()
        self._tables_anchor = ctypes.c_char.from_buffer(self.nested.memory)
        self.window: nested.Window | None = None  # what the instruction under way does with an open window
        self.nests = False
        # In two pieces: to unmap a part of a region takes the engine a time that grows with the region.
        self._map_floating_bus(ram.size, nested.TABLES)
        self._map_floating_bus(nested.TABLES, nested.TABLES + nested.TABLES_SIZE)
        self._window = host_window.allocate()
        self._window_anchor = ctypes.c_char.from_buffer(self._window)
        uc.mem_map_ptr(WINDOW, WINDOW_SIZE, unicorn_const.UC_PROT_ALL, ctypes.addressof(self._window_anchor))
        self.vmcb = vmcb.Vmcb(memoryview(self._window)[VMCB : VMCB + vmcb.SIZE])
        self.vmcb.set_intercepts(_MISC, WINDOW + IOPM, WINDOW + MSRPM)
        self.vmcb.set_quad(vmcb.NESTED_CR3, self.nested.root)

        self.general = Batch(self.handle, (*GENERAL, "RIP", "RFLAGS"))
        self._entry_general = Batch(self.handle, tuple(name for name in GENERAL if name != "RSP"))
        self.own_tables = False  # whether a guest has ever had page tables of its own
        self.control = Batch(self.handle, ("CR0", "CR2", "CR3", "CR4"))
        self._tables = Batch(self.handle, ("GDTR", "IDTR"))
        self.fpu = Batch(self.handle, _FPU)
        self.exit_registers = Batch(self.handle, ("RIP", "RAX", "RCX", "RDX", "RFLAGS"))
        self.port_registers = Batch(self.handle, (*port_io.REGISTERS, "RIP"))
        self.flags = Batch(self.handle, ("RFLAGS",))
        self.results = Batch(self.handle, ("RAX", "RBX", "RCX", "RDX"))
        self.pair = Batch(self.handle, ("RAX", "RDX"))
        self._single = {name: Batch(self.handle, (name,)) for name in (*GENERAL, "RFLAGS", "RIP")}

        self._start = uclib.uc_emu_start
        self._stop = uclib.uc_emu_stop
        self._context_save = uclib.uc_context_save
        self._context_restore = uclib.uc_context_restore
        efer = uc.msr_read(abi.MSR_EFER)
        uc.msr_write(abi.MSR_EFER, efer | abi.EFER_SVME)
        uc.msr_write(_MSR_HSAVE_PA, WINDOW + HSAVE)
        uc.reg_write(x86_const.UC_X86_REG_CR4, HOST_CR4)
        uc.ctl_exits_enabled(True)  # frees HLT from its role as the engine's own stop marker
        self._add_hooks()
        self.exit_code = NO_EXIT
        self.counter = 0
        self.started = 0  # RIP of the SYSCALL or SYSENTER that the last run was stopped by
        self._listeners = 0
        self.one_by_one = OneByOne(self)
        self.fetching: bool | None = None  # whether a fault came from fetching, where that is known
        self.port: port_io.PortRequest | None = None
        self.after = NO_EXIT
        self.resident: Resident | None = None
        self.window_open = False
        self._stale: list[tuple[int, int]] = []
        ram.on_write(self._host_wrote)
        self._blob = uc.context_save()
        self._parked = uc.context_save()
        self._blob_bytes = _blob_memory(self._blob)
        counter = find_counter(self, host_window.program("count"))
        self._own_counter = ctypes.c_uint64.from_address(cast(Any, self.handle).value + counter)
        self._counter = self._own_counter if self.blocks is None else self.blocks.stepped
        if self.blocks is not None:
            self.start(host_window.program("wait"))  # uncounted: then the engine has no hook of its own any more
            self.blocks.attach()
        self.layout: Layout = find_blob(self)
        uc.reg_write(x86_const.UC_X86_REG_RAX, WINDOW + VMCB)
        self._host = uc.context_save()
        verify(self)
        if self.blocks is not None:
            self.remember()
            self._context_restore(self.handle, self._host.context)
            self.blocks.learn(host_window.program("spin"))
            self.recall()
            self.blocks.expect_long_runs()

    # --- construction ------------------------------------------------------------------------------------------------

    def _map_floating_bus(self, start: int, end: int) -> None:
        """Where no RAM is, reads give ones and writes vanish, as on a board with nothing there.

        Only what an open window leads to is somebody's; that is remembered here, or answered from what was prepared.
        """
        registers = nested.REGISTERS - start

        def read(_uc: Uc, offset: int, size: int, _data: object) -> int:
            window = self.window
            if window is None or not 0 <= offset - registers < abi.PAGE_SIZE:
                return (1 << 8 * size) - 1
            return window.load(offset - registers, size)

        def write(_uc: Uc, offset: int, size: int, value: int, _data: object) -> None:
            window = self.window
            if window is not None and 0 <= offset - registers < abi.PAGE_SIZE:
                window.store(offset - registers, size, value)

        self.uc.mmio_map(start, end - start, read, None, write, None)

    def nest(self, needed: bool) -> None:
        """Translate guest-physical addresses by the nested tables, or not; guests are to be entered anew.

        The tables are in the engine's memory only meanwhile: without them nothing would keep a guest from there.
        """
        if needed == self.nests:
            return
        self.nests = needed
        self.uc.mem_unmap(nested.TABLES, nested.TABLES_SIZE)
        if needed:
            address = ctypes.addressof(self._tables_anchor)
            self.uc.mem_map_ptr(nested.TABLES, nested.TABLES_SIZE, unicorn_const.UC_PROT_ALL, address)
        else:
            self._map_floating_bus(nested.TABLES, nested.TABLES + nested.TABLES_SIZE)
        self.flush_tlb()

    def let_through(self, answers: dict[tuple[int, int], int]) -> nested.Window:
        """Open the window, for one instruction: what it loads is answered from `answers`, what it stores is kept."""
        self.nested.open_window(True)
        self.flush_tlb()
        self.window = nested.Window(answers)
        return self.window

    def stop_at_window(self) -> None:
        """Close it again."""
        self.nested.open_window(False)
        self.flush_tlb()
        self.window = None

    def _add_hooks(self) -> None:
        void, u32, i32 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int
        self._port_hooks: list[ctypes.c_size_t] = []
        self._hooks: list[Any] = [
            ctypes.CFUNCTYPE(None, void, u32, void)(self._on_interrupt),
            ctypes.CFUNCTYPE(u32, void, u32, i32, void)(self._on_in),
            ctypes.CFUNCTYPE(None, void, u32, i32, u32, void)(self._on_out),
            ctypes.CFUNCTYPE(None, void, void)(self._on_syscall),
            ctypes.CFUNCTYPE(None, void, void)(self._on_sysenter),
            ctypes.CFUNCTYPE(ctypes.c_bool, void, void)(self._on_invalid),
            ctypes.CFUNCTYPE(None, void, void, void, void)(self._on_new_block),
        ]
        insn = unicorn_const.UC_HOOK_INSN
        kinds = (
            (unicorn_const.UC_HOOK_INTR, None),
            (insn, x86_const.UC_X86_INS_IN),
            (insn, x86_const.UC_X86_INS_OUT),
            (insn, x86_const.UC_X86_INS_SYSCALL),
            (insn, x86_const.UC_X86_INS_SYSENTER),
            (unicorn_const.UC_HOOK_INSN_INVALID, None),
            (unicorn_const.UC_HOOK_EDGE_GENERATED, None),
        )
        ports = x86_const.UC_X86_INS_IN, x86_const.UC_X86_INS_OUT
        self.blocks = Blocks(self, *self._hooks[1:3]) if native.library() is not None else None
        for callback, (kind, instruction) in zip(self._hooks, kinds, strict=True):
            if instruction not in ports:
                self.own_hook(kind, callback, *EVERYWHERE, *(() if instruction is None else (instruction,)))
            elif self.blocks is None:
                self._port_hooks.append(self.own_hook(kind, callback, *EVERYWHERE, instruction))
        if self.blocks is not None:
            for callback, instruction in zip(self.blocks.port_callbacks, ports, strict=True):
                number = self.own_hook(insn, callback, *EVERYWHERE, instruction, user=self.blocks.user)
                self._port_hooks.append(number)

    def hook(
        self, kind: int, callback: Any, first: int, last: int, *instruction: int, user: Any = None
    ) -> ctypes.c_size_t:
        """Have `callback`, which must stay alive, called for what is in this range; the number for `unhook`. It is
        given `user`. Code that is translated already does not call it: see `flush_code`."""
        if self.blocks is not None:
            self.blocks.end()
        self._listeners += 1
        return self.own_hook(kind, callback, first, last, *instruction, user=user)

    def own_hook(
        self, kind: int, callback: Any, first: int, last: int, *instruction: int, user: Any = None
    ) -> ctypes.c_size_t:
        """The same for what need not know how far the run has come."""
        number = ctypes.c_size_t()
        error = uclib.uc_hook_add(
            *(self.handle, ctypes.byref(number), ctypes.c_int(kind), callback, user),
            *(ctypes.c_uint64(first), ctypes.c_uint64(last), *map(ctypes.c_int, instruction)),
        )
        if error != UC_ERR_OK:
            raise EngineError(f"the engine refuses a hook of kind {kind} with error {error}")
        return number

    def unhook(self, numbers: list[ctypes.c_size_t]) -> None:
        """Take these hooks away, and forget all code that calls them."""
        self._listeners -= len(numbers)
        self.remove_own(numbers)

    def remove_own(self, numbers: list[ctypes.c_size_t]) -> None:
        """The same for those of `own_hook`."""
        while numbers:
            uclib.uc_hook_del(self.handle, numbers.pop())
        self.flush_code()

    def hand_over(self) -> None:
        """Let somebody else hear of IN and OUT, and count by the engine's count=."""
        if self.blocks is not None:
            self.blocks.detach()
            self.blocks, self._counter = None, self._own_counter
        self.remove_own(self._port_hooks)

    @property
    def counted(self) -> int:
        """How many instructions of this run have begun, those included that are not the guest's."""
        return int(self._counter.value)

    @property
    def counter_place(self) -> ctypes.c_uint64:
        """Where the engine itself counts the instructions of a run with count=, the one under way included."""
        return self._own_counter

    # --- hooks: remember and stop ------------------------------------------------------------------------------------

    def _on_interrupt(self, _uc: int, number: int, _data: int) -> None:
        if number >= SVM_BASE:
            code = number - SVM_BASE
            if code == vmcb.EXIT_VINTR:
                # The pending virtual interrupt is looked at before the stop request is: with IF left set, this hook
                # would be called for ever. The flag is put back where the exit is decoded.
                self.flags.read()
                self.flags["RFLAGS"] &= ~abi.RFLAGS_IF
                self.flags.write()
            if self.port is None and self.exit_code == NO_EXIT:
                self.exit_code = code
                self.counter = self._counter.value
            else:
                # The instruction that stopped the guest is over: a single-step trap or an interrupt comes after it.
                self.after = code
        # Below SVM_BASE: an exception number left over from an injection, which is no event.
        self._stop(self.handle)

    def _on_in(self, _uc: int, port: int, size: int, _data: int) -> int:
        self.counter = self._counter.value
        self._stop(self.handle)
        self.port = port_io.look(self, port, size)
        return self.port.before[0][1] & 0xFFFFFFFF

    def _on_out(self, _uc: int, port: int, size: int, value: int, _data: int) -> None:
        self.counter = self._counter.value
        self._stop(self.handle)
        self.port = port_io.seen(self, port, size, value & ((1 << 8 * size) - 1))

    def _on_syscall(self, _uc: int, _data: int) -> None:
        self.exit_code = SYSCALL
        self.counter = self._counter.value
        self.started = self.read_rip()
        self._stop(self.handle)

    def _on_sysenter(self, _uc: int, _data: int) -> None:
        self.exit_code = SYSENTER
        self.counter = self._counter.value
        self.started = self.read_rip()
        self._stop(self.handle)

    def _on_invalid(self, _uc: int, _data: int) -> bool:
        self._stop(self.handle)
        return True

    def _on_new_block(self, _uc: int, new: int, _old: int, _data: int) -> None:
        if self.one_by_one.stops_before(new):
            self.counter = self._counter.value
            self._stop(self.handle)

    def _host_wrote(self, gpa: int, size: int) -> None:
        self._stale.append((gpa, size))

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self, rip: int, insns: int) -> int:
        """Continue the guest that is in the engine at `rip` for at most `insns` (at least 1); the count retired.

        `exit_code` and `port` say why it stopped; NO_EXIT and None when the count did.
        """
        self._prepare(insns)
        return self._emulate(rip, insns, 0)

    def _prepare(self, insns: int, *, window: bool = False) -> None:
        if self._stale:
            self._drop_stale_code()
        if self.blocks is not None:
            if self._listeners or window or self.window_open or not self.blocks.wanted(insns):
                self.blocks.end()
            else:
                self.blocks.begin()

    def vmrun(
        self, insns: int, *, inject: int = 0, window: bool = False, free: int | None = None, scratch: bool = False
    ) -> int:
        """Enter the guest described by the VMCB, `general` and `fpu`; the count retired, or -1 where delivery faulted.

        `inject` is an EVENTINJ value; with `window` the first boundary at which an interrupt may be taken exits
        with EXIT_VINTR. A window that is open must be closed first. `free` is an exit code, of a write of CR0 or of
        what has a bit in INTERCEPT_MISC, that is not intercepted until the next `vmrun`. `scratch`: the guest is the
        host's own, and lives where no nested table leads.
        """
        self._prepare(insns, window=window)
        block = self.vmcb
        misc = _MISC if free is None or free < vmcb.MISC_FIRST else _MISC & ~vmcb.intercept_bits(free)
        block.free_cr0(free == vmcb.EXIT_CR_WRITE)
        block.set_quad(vmcb.INTERCEPT_MISC, misc | (_VINTR if window else 0))
        block.set_events(inject, vmcb.V_IRQ if window else 0)
        block.set_quad(vmcb.NESTED_CTL, vmcb.NESTED_ENABLED if self.nests and not scratch else 0)
        block.set_quad(vmcb.EFER, block.quad(vmcb.EFER) | abi.EFER_SVME)
        general, entry = self.general, self._entry_general
        block.set_quad(vmcb.RAX, general["RAX"])
        block.set_quad(vmcb.RSP, general["RSP"])
        block.set_quad(vmcb.RIP, general["RIP"])
        block.set_quad(vmcb.RFLAGS, general["RFLAGS"])
        self._context_restore(self.handle, self._host.context)
        for name in GENERAL:
            if name != "RSP" and name != "RAX":
                entry[name] = general[name]
        entry["RAX"] = WINDOW + VMCB
        entry.write()
        self.fpu.write()
        self.window_open = window
        return self._emulate(WINDOW, insns, STUB_INSNS)

    def entered(self) -> bool:
        """Whether `vmrun(0)` has put the guest where it was to go, be it to fault at once on fetching from there.

        A delivery that failed leaves RIP and RSP as they were; one that succeeded has pushed a frame.
        """
        if self.exit_code in (NO_EXIT, UNASSIGNED_FETCH):
            return True
        return self.read_rip() != self.general["RIP"] or self.read_register("RSP") != self.general["RSP"]

    def _emulate(self, rip: int, insns: int, overhead: int) -> int:
        self.exit_code = self.after = NO_EXIT
        self.port = None
        self.fetching = None
        blocks = self.blocks
        if blocks is None:
            return self.one_by_one.emulate(rip, insns, insns + overhead, overhead)
        if blocks.counts:
            ran = blocks.emulate(rip, insns, overhead)
        else:
            ran = self.one_by_one.emulate(rip, insns, insns + overhead, overhead)
        if insns:
            blocks.ran(ran)
        return ran

    def start(self, rip: int, count: int = 0) -> int:
        """Run until something stops it, which may be the engine's `count`; the engine's error."""
        error: int = self._start(
            self.handle, ctypes.c_uint64(rip), ctypes.c_uint64(2**64 - 1), ctypes.c_uint64(0), ctypes.c_size_t(count)
        )
        return error

    def computed_flags(self) -> int | None:
        """Where the guest has stopped at an instruction in mid-block: its true arithmetic flags, if they need settling.

        In a counted run the engine computes all flags before each instruction, into the place where it otherwise keeps
        an operand to compute them from. When the instruction does not complete, it forgets that it has. To be asked
        right after `hidden`, whose look at the engine serves this as well.
        """
        if self.blocks is not None and self.blocks.lazy:
            return None
        return self.layout.computed_flags(self._blob_bytes)

    def settle_flags(self) -> None:
        """Put the arithmetic flags right that an instruction which did not complete was to see; after `hidden`."""
        computed = self.computed_flags()
        if computed is not None:
            self.put_flags(computed)

    def put_flags(self, arithmetic: int) -> None:
        """Set the arithmetic flags, and no others."""
        flags = self.flags
        flags.read()
        flags["RFLAGS"] = flags["RFLAGS"] & ~abi.RFLAGS_ARITHMETIC | arithmetic
        flags.write()

    def refetch(self, rip: int) -> bool:
        """Whether the fault that `rip` just raised came from fetching the instruction (it is then not counted).

        A faulting instruction has no effect, so it may be asked to fault once more.
        """
        if self.fetching is not None:
            return self.fetching
        code, counter = self.exit_code, self.counter
        self.exit_code = NO_EXIT
        self.one_by_one.start(rip, 1)
        fetching = self.counter == 0
        self.exit_code, self.counter = code, counter
        return fetching

    # --- the guest in the engine -------------------------------------------------------------------------------------

    def make_resident(self, guest: Resident) -> None:
        """Put `guest` into the engine and park the one that was there."""
        if self.resident is not None:
            self.close_window()
            self._context_save(self.handle, self.resident.resident_context.context)
        self.resident = guest
        # Translations of addresses belong to the guest that left.
        self._context_restore(self.handle, guest.resident_context.context)
        self.flush_tlb()

    def new_context(self) -> Any:
        """A place to keep a guest while another one is in the engine."""
        return self.uc.context_save()

    def hidden(self) -> Hidden:
        """The hidden state of the guest in the engine."""
        self._context_save(self.handle, self._blob.context)
        return self.layout.hidden(self._blob_bytes)

    def paging(self, hidden: Hidden) -> Paging:
        """How the addresses of the guest in the engine are translated; `hidden` is its hidden state, read before."""
        control = self.control
        control.read()
        return Paging(control["CR0"], control["CR3"], control["CR4"], hidden.lma)

    def set_shadow(self, shadow: bool) -> None:
        """Put the interrupt shadow of a loaded state in force; VMRUN itself clears it."""
        self._context_save(self.handle, self._blob.context)
        self.layout.set_shadow(self._blob_bytes, shadow)
        self._context_restore(self.handle, self._blob.context)

    def read_register(self, name: str) -> int:
        """One general register, RFLAGS or RIP of the guest in the engine."""
        batch = self._single[name]
        batch.read()
        return batch[name]

    def write_register(self, name: str, value: int) -> None:
        """Set one general register or RFLAGS of the guest in the engine."""
        batch = self._single[name]
        batch[name] = value
        batch.write()

    def read_rip(self) -> int:
        """RIP of the guest in the engine."""
        return self.read_register("RIP")

    def capture(self) -> None:
        """Write the guest in the engine out to the VMCB, `general` and `fpu`, ready for `vmrun`."""
        self.general.read()
        self.control.read()
        self.fpu.read()
        self._tables.read()
        self._context_save(self.handle, self._blob.context)
        block, control = self.vmcb, self.control
        hidden = self.layout.hidden(self._blob_bytes)
        for name, segment in zip(state.SEGMENTS, self.layout.segments(self._blob_bytes), strict=True):
            if name == "ss":  # the engine takes the CPL from here
                segment = segment._replace(attributes=vmcb.with_dpl(segment.attributes, hidden.cpl))
            block.set_segment(name, segment)
        block.set_table(vmcb.GDTR, self._table("GDTR"))
        block.set_table(vmcb.IDTR, self._table("IDTR"))
        block.set_quad(vmcb.CR0, control["CR0"])
        block.set_quad(vmcb.CR2, control["CR2"])
        block.set_quad(vmcb.CR3, control["CR3"])
        block.set_quad(vmcb.CR4, control["CR4"])
        block.set_quad(vmcb.EFER, self.msr(abi.MSR_EFER))
        block.set_quad(vmcb.STAR, self.msr(abi.MSR_STAR))
        block.set_quad(vmcb.KERNEL_GS_BASE, self.msr(abi.MSR_KERNEL_GS_BASE))

    def segments(self) -> tuple[state.Segment, ...]:
        """The eight segment registers with their hidden parts, in the order of state.SEGMENTS."""
        self._context_save(self.handle, self._blob.context)
        return self.layout.segments(self._blob_bytes)

    def idtr(self) -> state.Table:
        """The interrupt descriptor table register of the guest in the engine."""
        self._tables.read()
        return self._table("IDTR")

    def _table(self, name: str) -> state.Table:
        quads, at = self._tables.quads, self._tables._index[name]
        return state.Table(quads[at + 2] & 0xFFFFFFFF, quads[at + 1])

    def msr(self, number: int) -> int:
        """An MSR that lives in the engine, of the guest in it."""
        # Read as the guest would: it must not be intercepted at that moment, or the engine leaves by a long jump
        # that nobody is there to catch.
        self.vmcb.set_quad(vmcb.MSRPM_BASE, WINDOW + OPEN_MSRPM)
        try:
            return int(self.uc.msr_read(number))
        finally:
            self.vmcb.set_quad(vmcb.MSRPM_BASE, WINDOW + MSRPM)

    def set_msr(self, number: int, value: int) -> None:
        """Set an MSR that lives in the engine, for the guest in it."""
        self.vmcb.set_quad(vmcb.MSRPM_BASE, WINDOW + OPEN_MSRPM)
        try:
            self.uc.msr_write(number, value)
            if number == abi.MSR_EFER:
                self.flush_tlb()
        finally:
            self.vmcb.set_quad(vmcb.MSRPM_BASE, WINDOW + MSRPM)

    def note_tables(self, cr3: int) -> None:
        """A guest has these page tables from now on."""
        self.own_tables = self.own_tables or cr3 != abi.PAGE_TABLES_GPA

    def set_control(self, name: str, value: int) -> None:
        """Set CR0, CR3 or CR4 for the guest in the engine, as its own MOV would; LMA follows CR0.PG."""
        self.uc.reg_write(getattr(x86_const, f"UC_X86_REG_{name}"), value)
        if name == "CR3":
            self.note_tables(value)
        if name != "CR0":  # there the engine flushes where a bit that matters has changed
            self.flush_tlb()

    def flush_tlb(self) -> None:
        self.uc.ctl(unicorn_const.UC_CTL_TLB_FLUSH, unicorn_const.UC_CTL_IO_WRITE)

    def flush_code(self) -> None:
        """Forget all translated code."""
        self.uc.ctl(unicorn_const.UC_CTL_TB_FLUSH, unicorn_const.UC_CTL_IO_WRITE)

    def under_way(self) -> int:
        """Within a hook: how many instructions this run has retired before the one that is under way."""
        return self.counted - 1 - self.one_by_one.before

    def read_blob(self) -> Any:
        """The context blob of this moment, as bytes; the next call overwrites it."""
        self._context_save(self.handle, self._blob.context)
        return self._blob_bytes

    # --- code that the host overwrote --------------------------------------------------------------------------------

    def _drop_stale_code(self) -> None:
        """Drop translations of what the host has written since the last entry, wherever guests map it.

        The engine names code by virtual address, so this is done from the host's side, where those are physical.
        """
        self._context_save(self.handle, self._blob.context)
        self._context_restore(self.handle, self._host.context)
        self.flush_tlb()
        if len(self._stale) > _STALE_AT_ONCE:
            self.flush_code()
        else:
            for gpa, size in self._stale:
                self.uc.ctl_remove_cache(gpa, gpa + size)
        self._stale.clear()
        self._context_restore(self.handle, self._blob.context)
        self.flush_tlb()

    # --- withdrawing an interrupt window -----------------------------------------------------------------------------

    def remember(self) -> None:
        """Keep the guest in the engine aside, whole, for `recall`; no window may be open."""
        self.lay_aside(self._parked)

    def recall(self) -> None:
        """Go back to what was kept aside."""
        self.take_up(self._parked)

    def lay_aside(self, place: Any) -> None:
        """Keep the guest in the engine, whole, in this place (`new_context`); no window may be open."""
        self._context_save(self.handle, place.context)

    def take_up(self, place: Any) -> None:
        """Have the guest that was laid aside there in the engine."""
        self._context_restore(self.handle, place.context)
        self.flush_tlb()

    def close_window(self) -> None:
        """Take back a pending virtual interrupt, if there is one.

        The engine forgets one only by delivering it; so it is delivered, to the scratch guest, while the real guest
        waits in the context blob. The VMCB and the register buffers are overwritten.
        """
        if not self.window_open:
            return
        self.window_open = False
        self._context_save(self.handle, self._parked.context)
        self.load_scratch("wait")
        self.vmrun(1, scratch=True)
        if self.exit_code != vmcb.EXIT_HLT:
            raise EngineError(f"the scratch guest left with {self.exit_code:#x}")
        self._context_restore(self.handle, self._parked.context)
        self.flush_tlb()

    def load_scratch(self, program: str) -> None:
        """Describe the scratch guest, about to run `program`, in the VMCB and the register buffers."""
        host_window.describe_scratch(program, self.vmcb, self.general)


def _blob_memory(blob: Any) -> Any:
    address = blob.context if isinstance(blob.context, int) else ctypes.cast(blob.context, ctypes.c_void_p).value
    return (ctypes.c_char * blob.size).from_address(address)
