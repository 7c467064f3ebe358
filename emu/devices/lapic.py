"""The local APIC of one vCPU: its timer, its vectors, which of them may interrupt, and what it sends to the others.

Time is asked for and never passes by itself: `due_ps` says when something will happen, `tick` makes it happen. Messages
to other APICs are laid down in an outbox: `take_ipis` says what was sent, `receive` is where it arrives.

In xAPIC mode, in which a vCPU starts, the registers are a window in memory, and a bit that is not there is ignored. In
x2APIC mode they are MSRs, and such a bit is refused. A register has one number in both: its MSR counted from
X2APIC_MSR, its offset in the window divided by APIC_MMIO_STRIDE.

Sources: Intel SDM volume 3, chapter "APIC" (registers, timer, x2APIC mode and its transitions).

In Linux: arch/x86/kvm/lapic.c, kvm_lapic_reg_write() and kvm_apic_has_interrupt().
"""

from collections.abc import Callable

from emu import abi
from emu.devices.apic_address import ApicAddress
from emu.devices.apic_timer import ApicTimer
from emu.devices.interrupts import Interrupts
from emu.devices.ipi import Ipi, decode
from emu.devices.startup import Startup
from emu.devices.tsc import Tsc
from emu.faults import general_protection
from emu.stateful import State

_DISABLED = 0
_XAPIC = abi.APICBASE_ENABLE
_X2APIC = abi.APICBASE_ENABLE | abi.APICBASE_X2APIC
_MODES_AFTER = {_DISABLED: (_DISABLED, _XAPIC), _XAPIC: (_DISABLED, _XAPIC, _X2APIC), _X2APIC: (_DISABLED, _X2APIC)}
_APICBASE_BITS = abi.APICBASE_BSP | _X2APIC | abi.APICBASE_ADDRESS_MASK

_SOURCE = abi.APIC_VECTOR_MASK | abi.APIC_LVT_MASKED
_PIN = _SOURCE | abi.APIC_LVT_DELIVERY_MODE | abi.APIC_LVT_POLARITY | abi.APIC_LVT_LEVEL_TRIGGER
_LVT_BITS = {
    abi.APIC_LVTT: _SOURCE | abi.APIC_LVT_TIMER_MODE,
    abi.APIC_LVTTHMR: _SOURCE | abi.APIC_LVT_DELIVERY_MODE,
    abi.APIC_LVTPC: _SOURCE | abi.APIC_LVT_DELIVERY_MODE,
    abi.APIC_LVT0: _PIN,
    abi.APIC_LVT1: _PIN,
    abi.APIC_LVTERR: _SOURCE,
}
_LVT_STATUS = abi.APIC_LVT_SEND_PENDING | abi.APIC_LVT_REMOTE_IRR  # read-only, so written back without effect

_BITMAPS = (abi.APIC_ISR, abi.APIC_TMR, abi.APIC_IRR)
_BITMAP_REGISTERS = abi.VECTORS // 32
_WORD = (1 << 32) - 1


class Lapic(Interrupts):
    """The APIC of vCPU `apic_id`, as after reset: xAPIC mode, software-disabled, everything masked.

    `now` tells virtual time in picoseconds. vCPU 0 is the bootstrap processor. `startup` holds INIT and start-up IPIs,
    `nmi` says that an NMI came; `waiting`: this vCPU begins by waiting for a start-up IPI.
    """

    features: tuple[int, ...] = ()
    cpuid_bits = (
        (abi.CPUID_FEATURES, "edx", abi.CPUID_1_EDX_APIC),
        (abi.CPUID_FEATURES, "ecx", abi.CPUID_1_ECX_X2APIC),
        (abi.CPUID_FEATURES, "ecx", abi.CPUID_1_ECX_TSC_DEADLINE),
    )
    fields = (*Interrupts.fields, "_base", "_spiv", "_errors", "_esr", "_icr", "_outbox", "nmi")
    parts = ("_timer", "_address", "startup")

    def __init__(self, now: Callable[[], int], tsc: Tsc, apic_id: int = 0, *, waiting: bool = False) -> None:
        super().__init__()
        self._now = now
        self._timer = ApicTimer(now, tsc)
        self.apic_id = apic_id
        self._address = ApicAddress(apic_id)
        self.startup = Startup(boot=apic_id == 0, waiting=waiting)
        self._base = abi.APIC_DEFAULT_PHYS_BASE | _XAPIC | (0 if apic_id else abi.APICBASE_BSP)
        self._outbox: tuple[Ipi, ...] = ()
        self.reset()

    def reset(self) -> None:
        """INIT: every register as after power-up, except IA32_APICBASE, which keeps the mode, and the ID."""
        self._timer.power_up()
        self.irr = 0
        self.isr = 0
        self.tpr = 0
        self._spiv = abi.APIC_VECTOR_MASK
        self._lvt = dict.fromkeys(_LVT_BITS, abi.APIC_LVT_MASKED)
        self._errors = 0
        self._esr = 0
        self._icr = 0
        self._address.reset()
        self.nmi = False

    def state(self) -> State:
        return (*super().state(), tuple(self._lvt.values()))

    def load(self, state: State) -> None:
        super().load(state[:-1])
        self._lvt = dict(zip(_LVT_BITS, state[-1], strict=True))

    @property
    def msrs(self) -> tuple[int, ...]:
        """Every MSR that this APIC answers for."""
        return _MSRS

    @property
    def x2apic(self) -> bool:
        """Whether the registers can be reached by MSRs."""
        return self._base & _X2APIC == _X2APIC

    @property
    def window_gpa(self) -> int | None:
        """Where the window of APIC_MMIO_SIZE bytes is; None where there is none: in x2APIC mode, and while disabled."""
        return self._base & abi.APICBASE_ADDRESS_MASK if self._base & _X2APIC == _XAPIC else None

    @property
    def software_enabled(self) -> bool:
        """Whether the guest has enabled it in the spurious vector register: else it accepts no vector."""
        return bool(self._spiv & abi.APIC_SPIV_ENABLED)

    @property
    def spurious_vector(self) -> int:
        """What the CPU would be given for an interrupt that is withdrawn while it asks: nothing is then in service.

        Here it asks and is answered in one step, so that it never happens.
        """
        return self._spiv & abi.APIC_VECTOR_MASK

    @property
    def due_ps(self) -> int | None:
        """The virtual time from which `tick` would request an interrupt anew.

        None where nothing is armed, and where an expiry would change nothing: masked, or the vector already requested.
        """
        entry = self._lvt[abi.APIC_LVTT]
        if entry & abi.APIC_LVT_MASKED or self.irr >> (entry & abi.APIC_VECTOR_MASK) & 1:
            return None
        return self._timer.due_ps

    def tick(self, now_ps: int) -> None:
        """Let the timer expire, where it is due by `now_ps`."""
        if self._timer.expire(now_ps):
            self._raise_local(abi.APIC_LVTT)

    def acknowledge(self) -> int:
        """The CPU takes the pending vector: it is in service from now on. Raises ValueError where none is pending."""
        self.tick(self._now())  # an expiry up to now belongs to the request that is being taken, not to a later one
        return super().acknowledge()

    def accept(self, vector: int) -> None:
        """An edge-triggered interrupt arrives. Dropped where the APIC is disabled; vectors 0 to 15 are an error."""
        if not self.software_enabled:
            return
        if vector < abi.APIC_FIRST_VECTOR:
            self._raise_error(abi.APIC_ESR_RECVILL)
        else:
            self.irr |= 1 << vector

    def take_ipis(self) -> tuple[Ipi, ...]:
        """What has been sent since the last call, in order."""
        sent, self._outbox = self._outbox, ()
        return sent

    def addressed(self, ipi: Ipi) -> bool:
        """Whether a message is meant for this APIC; one that is switched off in IA32_APICBASE hears nothing."""
        return bool(self._base & abi.APICBASE_ENABLE) and self._address.matches(ipi, x2apic=self.x2apic)

    def receive(self, ipi: Ipi) -> None:
        """A message arrives. A level that goes away, SMI and ExtINT mean nothing here."""
        if ipi.mode == abi.APIC_DM_NMI:
            self.nmi = True
        elif ipi.mode == abi.APIC_DM_STARTUP:
            self.startup.sipi(ipi.vector)
        elif not ipi.asserted:
            return
        elif ipi.mode == abi.APIC_DM_INIT:
            self.startup.init()
        elif ipi.mode in (abi.APIC_DM_FIXED, abi.APIC_DM_LOWEST):
            self.accept(ipi.vector)

    def mmio_read(self, offset: int, size: int) -> int:
        """What a load of `size` bytes at `offset` in the window finds; ask only where there is a window.

        Zero where there is no readable register, which is an error that the guest can see, and for what reaches beyond
        the first 4 bytes of a register's 16, which is none.
        """
        register, at = divmod(offset, abi.APIC_MMIO_STRIDE)
        if at + size > 4:
            return 0
        self.tick(self._now())
        value = self._read(abi.X2APIC_MSR + register, _XAPIC_READ)
        if value is None:
            self._raise_error(abi.APIC_ESR_ILLREGA)
            return 0
        return value >> 8 * at & (1 << 8 * size) - 1

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """A store into the window: of 4 bytes to a register, with bits that are not there ignored, as is all else."""
        register, at = divmod(offset, abi.APIC_MMIO_STRIDE)
        if at or size != 4:
            return
        self.tick(self._now())
        msr = abi.X2APIC_MSR + register
        if msr in self._lvt:
            if value & abi.APIC_LVT_TIMER_MODE == abi.APIC_LVT_TIMER_MODE:
                value &= ~abi.APIC_LVT_TIMER_MODE  # the reserved mode cannot be refused here: one-shot
            self._write_lvt(msr, value & _LVT_BITS[msr])
        elif msr in _XAPIC_WRITE:
            _XAPIC_WRITE[msr](self, value)
        elif msr in _WRITE and msr not in _X2APIC_ONLY:
            bits, write = _WRITE[msr]
            write(self, value & bits)
        else:
            self._raise_error(abi.APIC_ESR_ILLREGA)
        self.tick(self._now())

    def rdmsr(self, msr: int) -> int:
        """Read a register; raises GuestFault where it does not exist, cannot be read or cannot be reached."""
        if msr == abi.MSR_IA32_APICBASE:
            return self._base
        self.tick(self._now())
        if msr == abi.MSR_IA32_TSC_DEADLINE:
            return self._timer.deadline
        if not self.x2apic:
            raise general_protection()
        value = self._read(msr, _X2APIC_READ)
        if value is None:
            raise general_protection()
        return value

    def wrmsr(self, msr: int, value: int) -> None:
        """Write a register; raises GuestFault, and then changes nothing, where rdmsr would or a reserved bit is set."""
        self.tick(self._now())  # what was due by now happened under the old settings
        if msr == abi.MSR_IA32_APICBASE:
            self._write_base(value)
        elif msr == abi.MSR_IA32_TSC_DEADLINE:
            self._timer.deadline = value
        elif not self.x2apic:
            raise general_protection()
        elif msr in self._lvt:
            self._write_lvt(msr, value)
        elif msr in _WRITE and not value & ~_WRITE[msr][0]:
            _WRITE[msr][1](self, value)
        else:
            raise general_protection()
        self.tick(self._now())  # a deadline in the past expires at once

    def _read(self, msr: int, of_mode: dict[int, Callable[["Lapic"], int]]) -> int | None:
        if msr in self._lvt:
            return self._lvt[msr]
        for first, vectors in zip(_BITMAPS, (self.isr, 0, self.irr), strict=True):
            if first <= msr < first + _BITMAP_REGISTERS:
                return vectors >> 32 * (msr - first) & _WORD
        read = of_mode.get(msr) or _READ.get(msr)
        return None if read is None else read(self)

    def _write_base(self, value: int) -> None:
        mode = value & _X2APIC
        if value & ~_APICBASE_BITS or mode not in _MODES_AFTER[self._base & _X2APIC]:
            raise general_protection()
        was = self._base & _X2APIC
        self._base = value & ~abi.APICBASE_BSP | self._base & abi.APICBASE_BSP
        if mode == _DISABLED:
            self.reset()
        elif was == _DISABLED:
            self._address.enable()
        elif mode != was:
            self._icr &= _WORD  # the destination has another form now

    def _write_lvt(self, msr: int, value: int) -> None:
        if value & ~(_LVT_BITS[msr] | _LVT_STATUS):
            raise general_protection()
        if msr == abi.APIC_LVTT:
            mode = value & abi.APIC_LVT_TIMER_MODE
            if mode == abi.APIC_LVT_TIMER_MODE:  # both bits: the one mode that is reserved
                raise general_protection()
            self._timer.set_mode(mode)
        self._lvt[msr] = value & _LVT_BITS[msr]
        if not self.software_enabled:
            self._lvt[msr] |= abi.APIC_LVT_MASKED

    def _write_tpr(self, value: int) -> None:
        self.tpr = value

    def _write_eoi(self, value: int) -> None:
        self.eoi()

    def _write_spiv(self, value: int) -> None:
        self._spiv = value
        if not value & abi.APIC_SPIV_ENABLED:
            for msr in self._lvt:
                self._lvt[msr] |= abi.APIC_LVT_MASKED

    def _write_esr(self, value: int) -> None:
        self._esr, self._errors = self._errors, 0

    def _write_initial_count(self, value: int) -> None:
        self._timer.initial_count = value

    def _write_divide(self, value: int) -> None:
        self._timer.divide = value

    def _write_self_ipi(self, value: int) -> None:
        if value < abi.APIC_FIRST_VECTOR:
            self._raise_error(abi.APIC_ESR_SENDILL)
        self.accept(value)

    def _write_icr(self, value: int) -> None:
        self._icr = value & ~abi.APIC_ICR_BUSY  # a message is on its way at once, so never pending
        destination = self._icr >> 32 if self.x2apic else self._icr >> 32 + abi.APIC_ID_SHIFT
        ipi = decode(self._icr, destination, self.apic_id)
        if ipi.mode in (abi.APIC_DM_FIXED, abi.APIC_DM_LOWEST) and ipi.vector < abi.APIC_FIRST_VECTOR:
            self._raise_error(abi.APIC_ESR_SENDILL)
        if ipi.shorthand == abi.APIC_DEST_SELF:
            self.receive(ipi)
        else:
            self._outbox += (ipi,)

    def _write_icr_low(self, value: int) -> None:
        self._write_icr(self._icr & _WORD << 32 | value & abi.APIC_ICR_BITS)

    def _write_icr_high(self, value: int) -> None:
        self._icr = (value & abi.APIC_ICR2_DEST) << 32 | self._icr & _WORD

    def _raise_local(self, lvt: int) -> None:
        entry = self._lvt[lvt]
        if not entry & abi.APIC_LVT_MASKED:
            self.accept(entry & abi.APIC_VECTOR_MASK)

    def _raise_error(self, error: int) -> None:
        self._errors |= error
        # An error interrupt with an illegal vector of its own must not report itself for ever.
        if self._lvt[abi.APIC_LVTERR] & abi.APIC_VECTOR_MASK >= abi.APIC_FIRST_VECTOR:
            self._raise_local(abi.APIC_LVTERR)


_READ: dict[int, Callable[[Lapic], int]] = {
    abi.APIC_LVR: lambda apic: abi.APIC_VERSION_VALUE,
    abi.APIC_TASKPRI: lambda apic: apic.tpr,
    abi.APIC_PROCPRI: lambda apic: apic.ppr,
    abi.APIC_SPIV: lambda apic: apic._spiv,
    abi.APIC_ESR: lambda apic: apic._esr,
    abi.APIC_TMICT: lambda apic: apic._timer.initial_count,
    abi.APIC_TMCCT: lambda apic: apic._timer.current_count,
    abi.APIC_TDCR: lambda apic: apic._timer.divide,
}
_X2APIC_READ: dict[int, Callable[[Lapic], int]] = {
    abi.APIC_ID: lambda apic: apic.apic_id,
    abi.APIC_LDR: lambda apic: apic._address.x2apic_ldr,
    abi.APIC_ICR: lambda apic: apic._icr,
}
_XAPIC_READ: dict[int, Callable[[Lapic], int]] = {
    abi.APIC_ID: lambda apic: apic._address.xapic_register,
    abi.APIC_ARBPRI: lambda apic: 0,
    abi.APIC_LDR: lambda apic: apic._address.ldr,
    abi.APIC_DFR: lambda apic: apic._address.dfr,
    abi.APIC_ICR: lambda apic: apic._icr & _WORD,
    abi.APIC_ICR2: lambda apic: apic._icr >> 32,
}

# Register -> the bits that may be written, and what a write does.
_WRITE: dict[int, tuple[int, Callable[[Lapic, int], None]]] = {
    abi.APIC_TASKPRI: (abi.APIC_TPRI_MASK, Lapic._write_tpr),
    abi.APIC_EOI: (0, Lapic._write_eoi),
    abi.APIC_SPIV: (abi.APIC_VECTOR_MASK | abi.APIC_SPIV_ENABLED | abi.APIC_SPIV_FOCUS_DISABLED, Lapic._write_spiv),
    abi.APIC_ESR: (0, Lapic._write_esr),
    abi.APIC_ICR: (_WORD << 32 | abi.APIC_ICR_BITS, Lapic._write_icr),
    abi.APIC_TMICT: (abi.APIC_TMICT_MASK, Lapic._write_initial_count),
    abi.APIC_TDCR: (abi.APIC_TDR_MASK, Lapic._write_divide),
    abi.APIC_SELF_IPI: (abi.APIC_VECTOR_MASK, Lapic._write_self_ipi),
}
_X2APIC_ONLY = (abi.APIC_SELF_IPI,)
_XAPIC_WRITE: dict[int, Callable[[Lapic, int], None]] = {
    abi.APIC_ID: lambda apic, value: apic._address.write_id(value),
    abi.APIC_LDR: lambda apic, value: apic._address.write_ldr(value),
    abi.APIC_DFR: lambda apic, value: apic._address.write_dfr(value),
    abi.APIC_ICR: Lapic._write_icr_low,
    abi.APIC_ICR2: Lapic._write_icr_high,
}

_MSRS = (
    abi.MSR_IA32_APICBASE,
    abi.MSR_IA32_TSC_DEADLINE,
    *_LVT_BITS,
    *(first + n for first in _BITMAPS for n in range(_BITMAP_REGISTERS)),
    *sorted(_READ.keys() | _X2APIC_READ.keys() | _WRITE.keys()),
)
