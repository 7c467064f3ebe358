"""One virtual CPU: its state, entering it for an exact number of instructions, and telling why it came back.

Several vCPUs share one engine, as threads share a processor: the one in it is *resident*, the others are parked.
`enter` runs the guest and turns what the engine reports into one of `emu.exits`; the `complete_*` methods finish the
instruction that an exit asked about. What is between an exit and its completion is the machine's business.

Units: a retired instruction, a REP iteration, an exit handled here and a delivery each count one.

In Linux: vcpu_enter_guest() in arch/x86/kvm/x86.c and svm_handle_exit() in arch/x86/kvm/svm/svm.c.
"""

from typing import Any

from emu import abi, exits, state
from emu.exits import Exit
from emu.stateful import State
from emu.vcpu import decode, port_io, special_moves, stack_fault, system_call, transfer, vmcb
from emu.vcpu.engine import Engine
from emu.vcpu.exit_codes import NO_EXIT, SYSCALL, SYSENTER, UNASSIGNED_FETCH, EngineError
from emu.vcpu.nested import Window
from emu.vcpu.paging import Paging, mapped, read_linear, translate
from emu.vcpu.special_moves import DR6

_DR6_SINGLE_STEP = 1 << 14
_MASK32 = 0xFFFFFFFF
# From the end of the lower half on, so many linear addresses are not canonical, and nothing can be fetched from there.
_LOW_HALF, _NOT_CANONICAL = 1 << 47, (1 << 64) - (1 << 48)
# The error code of a nested page fault; those of a #PF, in the same places.
_NPF_WRITE, _NPF_FETCH = 1 << 1, 1 << 4
_MOST_LATELY = 256


class Vcpu:
    """vCPU `number` on `engine`, standing still in `start`. `retired` counts units of guest work since then.

    `window_gpa` is the page whose accesses exit because registers are there (the local APIC's), or None.
    """

    def __init__(self, engine: Engine, number: int, start: state.CpuState) -> None:
        self.engine = engine
        self.ram = engine.ram
        self.number = number
        self.retired = 0
        self.completions = 0
        self.used = 0
        self.patience: int | None = None
        self.debug = list(state.DEBUG_RESET)
        self.msrs: dict[int, int] = {}
        self._context: Any = engine.new_context()
        self._rip = 0
        self.window_gpa: int | None = None
        self._nests = False
        # Of the instruction that exited, for whoever completes it: in 64-bit code, under single-stepping.
        self._long = False
        self._stepping = False
        self._mistaken: int | None = None
        self._stepped = False
        self._trap_after_step = False
        self._port: port_io.PortRequest | None = None
        # A state that the engine has still to be given, and the MSRs of it that are kept here.
        self._owed: tuple[state.CpuState, dict[int, int]] | None = None
        # The engine's own form of states it was in lately, which it takes back much faster than they are described.
        self._lately: dict[tuple[state.CpuState, bool], Any] = {}
        # States by what the engine's blob was in them but for the general registers, with what is kept here.
        self._described: dict[bytes, tuple[Any, state.CpuState]] = {}
        self.load(start)

    # --- state -------------------------------------------------------------------------------------------------------

    def load(self, new: state.CpuState) -> None:
        """Become `new`, wholly. The general door for resets, edits and snapshots."""
        self._owed = None
        engine = self._reside()
        engine.close_window()
        self.msrs = transfer.kept_msrs(new)
        transfer.put(engine, new)
        self.debug = list(new.debug)
        self._nests = engine.nests
        engine.vmrun(0)
        # An exception here is one of fetching from the new RIP, which will come again when the guest is entered.
        fetching = vmcb.EXIT_EXCEPTION <= engine.exit_code < vmcb.EXIT_EXCEPTION + 32
        if not fetching and engine.exit_code != vmcb.EXIT_NPF and engine.exit_code not in (NO_EXIT, UNASSIGNED_FETCH):
            raise EngineError(f"a state was refused with exit {engine.exit_code:#x}")
        if new.shadow:
            engine.set_shadow(True)
        self._rip, self._stepped, self._trap_after_step = new.rip, False, new.trap

    def _remember(self, new: state.CpuState) -> None:
        """Keep the engine's own form of this state, in which it is."""
        engine = self.engine
        if engine.window_open or self._nests != engine.nests:
            return
        oldest = next(iter(self._lately)) if len(self._lately) >= _MOST_LATELY else None
        context = engine.new_context() if oldest is None else self._lately.pop(oldest)
        engine.lay_aside(context)
        self._lately[new, engine.nests] = context

    def _describe(self) -> state.CpuState:
        """The state of the guest in the engine."""
        self.engine.capture()
        debug, shadow = tuple(self.debug), self._shadow()
        return transfer.get(self.engine, self._rip, self.msrs, debug, shadow=shadow, trap=self._trap_after_step)

    def state(self) -> state.CpuState:
        """All of this vCPU, as it stands still now."""
        if self._owed is not None:
            owed, msrs = self._owed
            kept = owed.rip, owed.trap, owed.debug, msrs
            if not self._stepped and kept == (self._rip, self._trap_after_step, tuple(self.debug), self.msrs):
                return owed
        engine = self._reside()
        # All that the engine knows of a guest is in the blob; to describe it takes far longer than to compare it, and
        # what changes most is soon read.
        blob = engine.layout.without_general(engine.read_blob())
        ours = dict(self.msrs), tuple(self.debug), self._stepped, self._trap_after_step
        known = self._described.get(blob)
        if known is not None and known[0] == ours:
            engine.general.read()
            general, rflags = transfer.general_registers(engine)
            found = known[1]._replace(general=general, rip=self._rip, rflags=rflags)
        else:
            found = self._describe()
            if len(self._described) >= _MOST_LATELY:
                self._described.clear()
            self._described[blob] = ours, found
        # Right after a completed exit the engine's own form is not all of it.
        if not self._stepped and (found, engine.nests) not in self._lately:
            self._remember(found)
        return found

    def whole(self) -> State:
        """All of this vCPU, and what is known of an exit that has not been completed: for `become`."""
        pending = self._long, self._stepping, self._port
        return self.state(), self.retired, self.completions, self.window_gpa, pending

    def become(self, whole: State) -> None:
        """Become what `whole` said, of this vCPU or of one that was made alike, over the RAM of that moment.

        The engine hears of it when it is needed: who looks at many moments seldom enters them all.
        """
        new, self.retired, self.completions, self.window_gpa, pending = whole
        self.msrs, self.debug = transfer.kept_msrs(new), list(new.debug)
        self._owed = new, dict(self.msrs)
        self._rip, self._stepped, self._trap_after_step = new.rip, False, new.trap
        self._long, self._stepping, self._port = pending
        self._mistaken = None

    @property
    def rip(self) -> int:
        """RIP as the register has it: relative to CS outside 64-bit mode."""
        return self._rip

    @property
    def resident_context(self) -> Any:
        """Where this vCPU is kept while another one is in the engine."""
        return self._context

    def general(self, name: str) -> int:
        """A general register or RFLAGS, by its name in lower case, 64 bits wide."""
        return self._reside().read_register(name.upper())

    def set_general(self, name: str, value: int) -> None:
        """Set a general register, all 64 bits."""
        self._reside().write_register(name.upper(), value)

    def engine_msr(self, msr: int) -> int:
        """An MSR that lives in the engine."""
        return self._reside().msr(msr)

    def set_engine_msr(self, msr: int, value: int) -> None:
        """Set an MSR that lives in the engine; translations made under the old EFER are dropped."""
        self._reside().set_msr(msr, value)

    def paging(self) -> Paging:
        """The registers that decide how this vCPU's addresses are translated."""
        engine = self._reside()
        return engine.paging(engine.hidden())

    def translate(self, linear: int) -> int | None:
        """The guest-physical address of a linear one, or None."""
        return translate(self.ram, self.paging(), linear)

    def mapped(self, linear: int, size: int) -> list[tuple[int, int]]:
        """Where these bytes are, page by page: guest-physical address and size, as far as pages are present."""
        return list(mapped(self.ram, self.paging(), linear, size))

    def read_linear(self, linear: int, size: int) -> bytes:
        """Up to `size` bytes of guest memory, fewer where a page is missing."""
        return read_linear(self.ram, self.paging(), linear, size)

    @property
    def wide(self) -> bool:
        """Whether it executes 64-bit code."""
        return self._reside().hidden().long

    def pc(self) -> int:
        """The linear address of the next instruction."""
        hidden = self._reside().hidden()
        return self._rip if hidden.long else hidden.cs_base + self._rip & _MASK32

    def interruptible(self) -> bool:
        """Whether an interrupt may be delivered before the next instruction: IF set, no shadow, no trap owed."""
        if self._trap_after_step:
            return False
        return bool(self._reside().read_register("RFLAGS") & abi.RFLAGS_IF) and not self._shadow()

    def flush_tlb(self) -> None:
        """Forget all translations of addresses; another vCPU's are forgotten whenever vCPUs change places."""
        if self.engine.resident is self:
            self.engine.flush_tlb()

    def in_shadow(self) -> bool:
        """Whether the next instruction is in the shadow of STI or MOV SS, where not even an NMI is taken."""
        self._reside()
        return self._shadow()

    def cpl(self) -> int:
        """The current privilege level."""
        return self._reside().hidden().cpl

    def interrupts_enabled(self) -> bool:
        """IF, whatever the shadow."""
        return bool(self._reside().read_register("RFLAGS") & abi.RFLAGS_IF)

    def _nest(self) -> None:
        """Have guest-physical addresses translated as the host wants it now."""
        engine = self.engine
        if engine.nested.window != self.window_gpa:
            engine.nested.set_window(self.window_gpa)
            engine.flush_tlb()
        if self._nests != engine.nests:
            self.load(self.state())  # VMRUN alone switches nested paging on or off

    def _shadow(self) -> bool:
        # The flag stays up while the host completes the instruction that it covered.
        return not self._stepped and self.engine.hidden().shadow

    def _reside(self) -> Engine:
        engine = self.engine
        if engine.resident is not self:
            engine.make_resident(self)
        if self._owed is not None:
            self._give()
        return engine

    def _give(self) -> None:
        """Give the engine what it is owed; what has been changed here meanwhile stays."""
        assert self._owed is not None
        kept = self.msrs, self.debug, self._rip, self._stepped, self._trap_after_step
        new, engine = self._owed[0], self.engine
        context = self._lately.get((new, engine.nests))
        if context is None:
            self.load(new)
            if engine.exit_code == NO_EXIT:
                self._remember(new)
        else:
            self._owed = None
            engine.close_window()
            self._nests = engine.nests
            engine.take_up(context)
        self.msrs, self.debug, self._rip, self._stepped, self._trap_after_step = kept

    # --- entering ----------------------------------------------------------------------------------------------------

    def enter(self, budget_insns: int, *, window: bool = False, patience: int | None = None) -> Exit:
        """Run the guest for exactly `budget_insns` units, at least 1, unless an exit comes first; `used` counts them.

        `patience` bounds the exits that are completed here without anybody hearing of them: after so many the entry is
        over as if the budget were spent; the attribute of that name tells how many are left. With `window` an
        InterruptWindow exit is owed at the first boundary where an interrupt may be delivered.
        """
        engine = self._reside()
        self.used = 0
        self.patience = patience
        trap = self._trap_after_step
        if trap:
            return self._single_step_trap()
        if self._nests != engine.nests or self.window_gpa != engine.nested.window:
            self._nest()
        if not window and engine.window_open:
            engine.close_window()
        while True:
            if window and self._stepped and engine.window_open and engine.hidden().shadow:
                engine.set_shadow(False)  # it covered the instruction that the host has completed
            budget = budget_insns - self.used
            shadowed = window and not engine.window_open and self._shadow()
            if shadowed:
                ran = engine.run(self._rip, 1)  # VMRUN would end the shadow too early
            elif window and not engine.window_open:
                engine.capture()
                engine.general["RIP"] = self._rip
                ran = engine.vmrun(budget, window=True)
            else:
                ran = engine.run(self._rip, budget)
            self.used += ran
            self.retired += ran
            if ran:
                self._stepped = False
            code = engine.exit_code
            if code == NO_EXIT and engine.port is None:
                self._rip = engine.read_rip()
                if shadowed and self.used < budget_insns:
                    continue
                return exits.BudgetSpent()
            exit_ = self._port_exit() if code == NO_EXIT else self._decode(code)
            if exit_ is not None:
                return exit_
            self.completions += 1
            if self._mistaken is not None:
                continue
            # An exit that concerns nobody but this CPU was completed here, for one unit.
            self.used += 1
            self.retired += 1
            if self.patience is not None:
                self.patience -= 1
            if self.used >= budget_insns or self.patience == 0:
                return exits.BudgetSpent()
            if self._trap_after_step:
                return self._single_step_trap()

    def _single_step_trap(self) -> Exit:
        self._trap_after_step = False
        self.debug[DR6] |= _DR6_SINGLE_STEP
        return exits.Fault(self._rip, abi.DB_VECTOR, None, None)

    def charge(self, units: int) -> None:
        """Count work the host did in the guest's name: a completed exit, a delivery."""
        self.retired += units

    # --- what the exit was -------------------------------------------------------------------------------------------

    def _decode(self, code: int) -> Exit | None:
        engine = self.engine
        registers = engine.exit_registers
        registers.read()
        rip = self._rip = registers["RIP"]
        if vmcb.EXIT_EXCEPTION <= code < vmcb.EXIT_EXCEPTION + 32:
            return self._exception(code - vmcb.EXIT_EXCEPTION)
        if code == vmcb.EXIT_NPF:
            return self._nested_fault()
        if code == vmcb.EXIT_VINTR:
            engine.close_window()
            engine.write_register("RFLAGS", engine.read_register("RFLAGS") | abi.RFLAGS_IF)
            return exits.InterruptWindow(rip)
        if code == UNASSIGNED_FETCH:
            return exits.Fault(rip, abi.UD_VECTOR, None, None)  # ones are no instruction
        if engine.after == vmcb.EXIT_VINTR:
            engine.write_register("RFLAGS", engine.read_register("RFLAGS") | abi.RFLAGS_IF)
        if code == SYSCALL:
            return self._syscall()
        if code == SYSENTER:
            return self._undo_and_fault()
        found = self._instruction()
        engine.settle_flags()
        self._stepping = registers["RFLAGS"] & abi.RFLAGS_TF != 0
        if code == vmcb.EXIT_TR_WRITE:
            return self._load_task_register()
        expected = _EXPECTED.get(code)
        if found is None or (expected is not None and found.opcode not in expected and found.opcode not in decode.VEX):
            # The engine executed what an old translation led to, which the guest has changed without a flush. A CPU may
            # drop a translation at any time: now, so that both see the same.
            engine.flush_tlb()
            if self._mistaken == rip:
                raise EngineError(f"exit {code:#x} at {rip:#x}, where there is no such instruction")
            self._mistaken = rip
            return None
        self._mistaken = None
        opcode, length = found.opcode, found.length
        if decode.LOCK in found.prefixes or opcode in decode.VEX:
            return exits.Fault(rip, abi.UD_VECTOR, None, None)  # which the engine would overlook
        if code == vmcb.EXIT_MSR:
            msr = registers["RCX"] & _MASK32
            if opcode == decode.RDMSR:
                return exits.Rdmsr(rip, length, msr)
            return exits.Wrmsr(rip, length, msr, registers["RAX"] & _MASK32 | (registers["RDX"] & _MASK32) << 32)
        if code == vmcb.EXIT_CPUID:
            return exits.Cpuid(rip, length, registers["RAX"] & _MASK32, registers["RCX"] & _MASK32)
        if code == vmcb.EXIT_RDTSC or code == vmcb.EXIT_RDTSCP:
            return exits.Rdtsc(rip, length, opcode == decode.RDTSCP)
        if code == vmcb.EXIT_HLT:
            return exits.Hlt(rip, length)
        if code == vmcb.EXIT_PAUSE:
            return exits.Pause(rip, length)
        if code == vmcb.EXIT_VMMCALL:
            return exits.Hypercall(rip, length, engine.hidden().cpl, self._long)
        if code == vmcb.EXIT_SWINT:
            vector = {decode.INT3: abi.BP_VECTOR, decode.INTO: abi.OF_VECTOR}.get(opcode, found.operand)
            return exits.SoftwareInterrupt(rip, length, vector)
        if code == vmcb.EXIT_RDPMC:
            return exits.Fault(rip, abi.GP_VECTOR, 0, None)
        if opcode in decode.LMSW:
            return self._let_through(code)  # it can neither clear PE nor reach PG, so whatever it does is allowed
        if code < vmcb.EXIT_EXCEPTION:
            exit_ = special_moves.perform(engine, found, rip, self.debug)
            if exit_ is None:
                self._step(length)
            return exit_
        if vmcb.EXIT_VMRUN <= code <= vmcb.EXIT_SKINIT or code in _HIDDEN_INSTRUCTIONS:
            return exits.Fault(rip, abi.UD_VECTOR, None, None)  # SVM, MONITOR and the like are not offered
        raise EngineError(f"exit {code:#x} at {rip:#x} is not one that was asked for")

    def _instruction(self) -> decode.Instruction | None:
        hidden = self.engine.hidden()
        self._long = hidden.long
        paging = self.engine.paging(hidden)
        linear = self._rip if hidden.long else hidden.cs_base + self._rip & _MASK32
        code = read_linear(self.ram, paging, linear, min(decode.MAX_LENGTH, abi.PAGE_SIZE - linear % abi.PAGE_SIZE))
        found = decode.decode(code, hidden.long)
        if found is None and len(code) < decode.MAX_LENGTH:
            found = decode.decode(read_linear(self.ram, paging, linear, decode.MAX_LENGTH), hidden.long)
        return found

    def _exception(self, vector: int) -> Exit:
        engine = self.engine
        hidden = engine.hidden()
        computed = engine.computed_flags()
        error = hidden.error if vector in vmcb.WITH_ERROR_CODE else None
        address = None
        if vector == abi.PF_VECTOR:
            address = engine.vmcb.quad(vmcb.EXITINFO2)
            of_fetch = address - self.pc() & vmcb.MASK64 < decode.MAX_LENGTH
        else:
            of_fetch = vector == abi.GP_VECTOR and -decode.MAX_LENGTH < self._rip - _LOW_HALF < _NOT_CANONICAL
        if of_fetch and engine.refetch(self._rip):
            # The instruction was never fetched, so the engine has not counted it: there was none to take back.
            self.used += 1
            self.retired += 1
            computed = None
        if computed is not None and vector != abi.DB_VECTOR:
            engine.put_flags(computed)
        if vector == abi.GP_VECTOR and hidden.long and not error and not of_fetch:
            code = read_linear(self.ram, engine.paging(hidden), self._rip, decode.MAX_LENGTH)
            if stack_fault.by_stack(code, lambda number: engine.read_register(state.GENERAL[number].upper())):
                vector = abi.SS_VECTOR
        if vector == abi.UD_VECTOR:
            found = self._instruction()
            if found is not None and found.opcode == decode.VMCALL:
                return exits.Hypercall(self._rip, found.length, engine.hidden().cpl, self._long)
        elif vector == abi.DB_VECTOR:
            # A trap: the instruction that caused it is done.
            self.used += 1
            self.retired += 1
            self.debug[DR6] |= _DR6_SINGLE_STEP
        return exits.Fault(self._rip, vector, error, address)

    def _nested_fault(self) -> Exit:
        engine = self.engine
        gpa, error = engine.vmcb.quad(vmcb.EXITINFO2), engine.hidden().error
        computed = engine.computed_flags()
        if engine.refetch(self._rip):
            self.used += 1
            self.retired += 1
        elif computed is not None:
            engine.put_flags(computed)
        access = "fetch" if error & _NPF_FETCH else "write" if error & _NPF_WRITE else "read"
        return exits.NestedFault(self._rip, gpa, access)

    def _load_task_register(self) -> Exit | None:
        """LTR: let it through, and take it back where it has loaded no TSS, which the engine would accept."""
        rip = self._rip
        exit_ = self._let_through(vmcb.EXIT_TR_WRITE)
        if exit_ is None and not self.engine.segments()[state.SEGMENTS.index("tr")].selector & ~3:
            self.engine.recall()
            self._rip, self._stepped, self._trap_after_step = rip, False, False
            return exits.Fault(rip, abi.GP_VECTOR, 0, None)
        return exit_

    def _let_through(self, code: int) -> Exit | None:
        """Have the guest execute the instruction that exited with `code`, unintercepted. `Engine.recall` undoes it."""
        engine = self.engine
        engine.close_window()
        engine.remember()
        engine.capture()
        engine.general["RIP"] = self._rip
        engine.vmrun(1, free=code)
        trapped = engine.exit_code == vmcb.EXIT_EXCEPTION + abi.DB_VECTOR
        if engine.exit_code != NO_EXIT and not trapped:
            exit_ = self._decode(engine.exit_code)  # it faulted by itself
            engine.recall()
            return exit_
        self._rip = engine.read_rip()
        engine.capture()
        engine.vmrun(0)  # with everything intercepted again
        self._stepped = True
        self._trap_after_step = trapped
        return None

    def _undo_and_fault(self) -> Exit:
        """An instruction the engine let pass, but this CPU does not have: take its step back."""
        self._rip = self.engine.started
        self.used -= 1
        self.retired -= 1
        return exits.Fault(self._rip, abi.UD_VECTOR, None, None)

    def _syscall(self) -> Exit | None:
        """SYSCALL: the engine only steps over it; the change of privilege is made here."""
        engine = self.engine
        if not engine.msr(abi.MSR_EFER) & abi.EFER_SCE:
            return self._undo_and_fault()
        engine.close_window()
        self._trap_after_step = system_call.enter_kernel(engine, self._rip, self.msrs)
        self._rip = engine.read_rip()
        # SYSCALL itself was counted as retired by the engine; `enter` adds one for an exit completed here.
        self.used -= 1
        self.retired -= 1
        return None

    # --- ports -------------------------------------------------------------------------------------------------------

    def _port_exit(self) -> Exit:
        engine = self.engine
        request = engine.port
        assert request is not None
        self._port = request
        self._rip = engine.read_rip()
        if engine.after == vmcb.EXIT_VINTR:
            engine.write_register("RFLAGS", engine.read_register("RFLAGS") | abi.RFLAGS_IF)
        if request.string is not None:
            self._long = engine.hidden().long
            self._stepping = engine.read_register("RFLAGS") & abi.RFLAGS_TF != 0
            engine.settle_flags()
        # Like every instruction that the host completes, it counts when it is complete.
        self.used -= 1
        self.retired -= 1
        if not port_io.allowed(engine, self.paging, request):
            port_io.take_back(engine, request)
            self._rip = request.rip
            return exits.Fault(self._rip, abi.GP_VECTOR, 0, None)
        if engine.after == vmcb.EXIT_EXCEPTION + abi.DB_VECTOR:
            self._trap_after_step = True
        if request.value is None:
            return exits.PortIn(request.rip, request.port, request.size, request.string is not None)
        return exits.PortOut(request.rip, request.port, request.size, request.value)

    def complete_in(self, value: int) -> None:
        """Give the last PortIn its answer; its low `size` bytes count."""
        engine = self._reside()
        request = self._port
        assert request is not None
        self.charge(1)
        if request.string is None:
            port_io.put_result(engine, request, value)
        elif port_io.store_string(engine, self.paging(), request, value):
            self._step(request.string.length)
        else:
            self._step(0)

    def complete_out(self) -> None:
        """The last PortOut has been carried out."""
        self.charge(1)

    # --- registers in memory -----------------------------------------------------------------------------------------

    def complete_window(self, answers: dict[tuple[int, int], int]) -> tuple[Window, Exit]:
        """Do the instruction whose access to the window exited, with `answers` for what it loads: by offset and size.

        Where the result has `asked`, the instruction loaded something else: then it has not happened, and is to be done
        again with that answer too. Else the exit says how it ended: BudgetSpent, or whatever it raised besides.
        """
        engine = self._reside()
        engine.close_window()
        self._nest()  # another vCPU may have been entered since, whose window is elsewhere
        before = self._rip, self.retired, self.used, self._stepped, self._trap_after_step
        debug = list(self.debug)
        engine.remember()
        window = engine.let_through(answers)
        try:
            exit_ = self.enter(1)
        finally:
            engine.stop_at_window()
        if window.asked is not None:
            engine.recall()
            self._rip, self.retired, self.used, self._stepped, self._trap_after_step = before
            self.debug = debug
        return window, exit_

    # --- delivery (the rules are in emu.vcpu.delivery) --------------------------------------------------------------

    def prepare_delivery(self) -> Engine:
        """Bring this vCPU into the engine and write it out to the VMCB, for delivery to change."""
        engine = self._reside()
        engine.close_window()
        engine.capture()
        return engine

    def delivered(self, rip: int | None = None) -> None:
        """The engine now stands at the handler's first instruction, or where `rip` says."""
        self._rip = self.engine.read_rip() if rip is None else rip
        self._stepped = False
        self._trap_after_step = False
        self.charge(1)

    def not_delivered(self, rip: int, *, trap: bool) -> None:
        """The event found no way to its handler and is taken back; the engine stands at `rip`. `trap`: #DB is owed."""
        self._rip = rip
        self._stepped = False
        self._trap_after_step = trap

    # --- completing an exit ------------------------------------------------------------------------------------------

    def _step(self, length: int) -> None:
        self._rip = self._rip + length & (vmcb.MASK64 if self._long else _MASK32)
        self._stepped = True
        if self._stepping:
            self._trap_after_step = True

    def complete(self, exit_: Any) -> None:
        """Step over the instruction of an exit that leaves no result: WRMSR, PAUSE, HLT, MOV to CR8."""
        self._reside()
        self._step(exit_.length)
        self.charge(1)

    def complete_cpuid(self, exit_: exits.Cpuid, values: tuple[int, int, int, int]) -> None:
        """CPUID: (eax, ebx, ecx, edx)."""
        results = self._reside().results
        results["RAX"], results["RBX"], results["RCX"], results["RDX"] = values
        results.write()
        self.complete(exit_)

    def complete_rdmsr(self, exit_: exits.Rdmsr | exits.Rdtsc, value: int) -> None:
        """RDMSR or RDTSC: a 64-bit value, into EDX:EAX."""
        pair = self._reside().pair
        pair["RAX"], pair["RDX"] = value & _MASK32, value >> 32
        pair.write()
        self.complete(exit_)

    def complete_rdtsc(self, exit_: exits.Rdtsc, value: int, aux: int) -> None:
        """RDTSC, and for RDTSCP also the processor's number into ECX."""
        if exit_.aux:
            self._reside().write_register("RCX", aux)
        self.complete_rdmsr(exit_, value)

    def complete_register(self, exit_: exits.TprRead, value: int) -> None:
        """MOV from CR8."""
        self._reside().write_register(state.GENERAL[exit_.register].upper(), value)
        self.complete(exit_)

    def complete_hypercall(self, exit_: exits.Hypercall, result: int) -> None:
        """The hypercall's result, a signed number, into RAX (EAX outside 64-bit code)."""
        engine = self._reside()
        engine.write_register("RAX", result & (vmcb.MASK64 if self._long else _MASK32))
        self.complete(exit_)


# What must stand where the engine stopped; the other exit codes are answered without looking.
_EXPECTED = {
    vmcb.EXIT_MSR: (decode.RDMSR, decode.WRMSR),
    vmcb.EXIT_CPUID: (decode.CPUID,),
    vmcb.EXIT_RDTSC: (decode.RDTSC, decode.RDTSCP),
    vmcb.EXIT_RDTSCP: (decode.RDTSCP,),
    vmcb.EXIT_HLT: (decode.HLT,),
    vmcb.EXIT_PAUSE: (decode.PAUSE,),
    vmcb.EXIT_VMMCALL: (decode.VMMCALL,),
    vmcb.EXIT_SWINT: (decode.INT, decode.INT3, decode.INTO),
    vmcb.EXIT_RDPMC: (decode.RDPMC,),
    vmcb.EXIT_CR_READ + 8: (decode.MOV_FROM_CR,),
    vmcb.EXIT_CR_WRITE: (decode.MOV_TO_CR, decode.CLTS, *decode.LMSW),
    **{vmcb.EXIT_CR_WRITE + number: (decode.MOV_TO_CR,) for number in (3, 4, 8)},
    **{vmcb.EXIT_DR_READ + number: (decode.MOV_FROM_DR,) for number in range(16)},
    **{vmcb.EXIT_DR_WRITE + number: (decode.MOV_TO_DR,) for number in range(16)},
}
_HIDDEN_INSTRUCTIONS = frozenset(
    (vmcb.EXIT_INVLPGA, vmcb.EXIT_ICEBP, vmcb.EXIT_MONITOR, vmcb.EXIT_MWAIT, vmcb.EXIT_XSETBV)
)
