"""The local APIC of one vCPU, driven by MSRs (x2APIC mode): its timer, its vectors, and which of them may interrupt.

Time is asked for and never passes by itself: `due_ps` says when something will happen, `tick` makes it happen. There is
no memory-mapped window: in xAPIC mode, in which a vCPU starts, the guest reaches IA32_APICBASE and no other register.

Sources: Intel SDM volume 3, chapter "APIC" (registers, timer, x2APIC mode and its transitions).

In Linux: arch/x86/kvm/lapic.c, kvm_lapic_reg_write() and kvm_apic_has_interrupt().
"""

from collections.abc import Callable

from emu import abi
from emu.devices.apic_timer import ApicTimer
from emu.devices.tsc import Tsc
from emu.faults import general_protection

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


class Lapic:
    """The APIC of vCPU `apic_id`, as after reset: xAPIC mode, software-disabled, everything masked.

    `now` tells virtual time in picoseconds. `irr` and `isr` are sets of vectors, bit n for vector n: requested, and in
    service. vCPU 0 is the bootstrap processor.
    """

    features: tuple[int, ...] = ()
    cpuid_bits = (
        (abi.CPUID_FEATURES, "edx", abi.CPUID_1_EDX_APIC),
        (abi.CPUID_FEATURES, "ecx", abi.CPUID_1_ECX_X2APIC),
        (abi.CPUID_FEATURES, "ecx", abi.CPUID_1_ECX_TSC_DEADLINE),
    )

    def __init__(self, now: Callable[[], int], tsc: Tsc, apic_id: int = 0) -> None:
        self._now = now
        self._timer = ApicTimer(now, tsc)
        self.apic_id = apic_id
        self._base = abi.APIC_DEFAULT_PHYS_BASE | _XAPIC | (0 if apic_id else abi.APICBASE_BSP)
        self.reset()

    def reset(self) -> None:
        """INIT: every register as after power-up, except IA32_APICBASE, which keeps the mode."""
        self._timer.power_up()
        self.irr = 0
        self.isr = 0
        self.tpr = 0
        self._spiv = abi.APIC_VECTOR_MASK
        self._lvt = dict.fromkeys(_LVT_BITS, abi.APIC_LVT_MASKED)
        self._errors = 0
        self._esr = 0

    @property
    def msrs(self) -> tuple[int, ...]:
        """Every MSR that this APIC answers for."""
        return _MSRS

    @property
    def x2apic(self) -> bool:
        """Whether the registers can be reached by MSRs."""
        return self._base & _X2APIC == _X2APIC

    @property
    def ppr(self) -> int:
        """The processor priority: the task's own or that of the vector in service, whichever class is higher."""
        serving = max(self.isr.bit_length() - 1, 0) & abi.APIC_PRIORITY_CLASS
        return max(self.tpr, serving)

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

    def pending(self) -> int | None:
        """The vector that would interrupt now, if IF allows: the highest requested, where its class exceeds PPR's."""
        vector = self.irr.bit_length() - 1
        deliverable = vector >= 0 and vector & abi.APIC_PRIORITY_CLASS > self.ppr & abi.APIC_PRIORITY_CLASS
        return vector if deliverable else None

    def acknowledge(self) -> int:
        """The CPU takes the pending vector: it is in service from now on. Raises ValueError where none is pending."""
        self.tick(self._now())  # an expiry up to now belongs to the request that is being taken, not to a later one
        vector = self.pending()
        if vector is None:
            raise ValueError("no interrupt is pending")
        self.irr &= ~(1 << vector)
        self.isr |= 1 << vector
        return vector

    def accept(self, vector: int) -> None:
        """An edge-triggered interrupt arrives. Dropped where the APIC is disabled; vectors 0 to 15 are an error."""
        if not self._spiv & abi.APIC_SPIV_ENABLED:
            return
        if vector < abi.APIC_FIRST_VECTOR:
            self._raise_error(abi.APIC_ESR_RECVILL)
        else:
            self.irr |= 1 << vector

    def rdmsr(self, msr: int) -> int:
        """Read a register; raises GuestFault where it does not exist, cannot be read or cannot be reached."""
        if msr == abi.MSR_IA32_APICBASE:
            return self._base
        self.tick(self._now())
        if msr == abi.MSR_IA32_TSC_DEADLINE:
            return self._timer.deadline
        if not self.x2apic:
            raise general_protection()
        if msr in self._lvt:
            return self._lvt[msr]
        for first, vectors in zip(_BITMAPS, (self.isr, 0, self.irr), strict=True):
            if first <= msr < first + _BITMAP_REGISTERS:
                return vectors >> 32 * (msr - first) & (1 << 32) - 1
        if msr not in _READ:
            raise general_protection()
        return _READ[msr](self)

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

    def _write_base(self, value: int) -> None:
        mode = value & _X2APIC
        if value & ~_APICBASE_BITS or mode not in _MODES_AFTER[self._base & _X2APIC]:
            raise general_protection()
        self._base = value & ~abi.APICBASE_BSP | self._base & abi.APICBASE_BSP
        if mode == _DISABLED:
            self.reset()

    def _write_lvt(self, msr: int, value: int) -> None:
        if value & ~(_LVT_BITS[msr] | _LVT_STATUS):
            raise general_protection()
        if msr == abi.APIC_LVTT:
            mode = value & abi.APIC_LVT_TIMER_MODE
            if mode == abi.APIC_LVT_TIMER_MODE:  # both bits: the one mode that is reserved
                raise general_protection()
            self._timer.set_mode(mode)
        self._lvt[msr] = value & _LVT_BITS[msr]
        if not self._spiv & abi.APIC_SPIV_ENABLED:
            self._lvt[msr] |= abi.APIC_LVT_MASKED

    def _write_tpr(self, value: int) -> None:
        self.tpr = value

    def _write_eoi(self, value: int) -> None:
        if self.isr:
            self.isr ^= 1 << self.isr.bit_length() - 1

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
    abi.APIC_ID: lambda apic: apic.apic_id,
    abi.APIC_LVR: lambda apic: abi.APIC_VERSION_VALUE,
    abi.APIC_TASKPRI: lambda apic: apic.tpr,
    abi.APIC_PROCPRI: lambda apic: apic.ppr,
    abi.APIC_LDR: lambda apic: apic.apic_id >> 4 << 16 | 1 << (apic.apic_id & 15),
    abi.APIC_SPIV: lambda apic: apic._spiv,
    abi.APIC_ESR: lambda apic: apic._esr,
    abi.APIC_TMICT: lambda apic: apic._timer.initial_count,
    abi.APIC_TMCCT: lambda apic: apic._timer.current_count,
    abi.APIC_TDCR: lambda apic: apic._timer.divide,
}

# Register -> the bits that may be written, and what a write does.
_WRITE: dict[int, tuple[int, Callable[[Lapic, int], None]]] = {
    abi.APIC_TASKPRI: (abi.APIC_TPRI_MASK, Lapic._write_tpr),
    abi.APIC_EOI: (0, Lapic._write_eoi),
    abi.APIC_SPIV: (abi.APIC_VECTOR_MASK | abi.APIC_SPIV_ENABLED | abi.APIC_SPIV_FOCUS_DISABLED, Lapic._write_spiv),
    abi.APIC_ESR: (0, Lapic._write_esr),
    abi.APIC_TMICT: (abi.APIC_TMICT_MASK, Lapic._write_initial_count),
    abi.APIC_TDCR: (abi.APIC_TDR_MASK, Lapic._write_divide),
    abi.APIC_SELF_IPI: (abi.APIC_VECTOR_MASK, Lapic._write_self_ipi),
}

_MSRS = (
    abi.MSR_IA32_APICBASE,
    abi.MSR_IA32_TSC_DEADLINE,
    *_LVT_BITS,
    *(first + n for first in _BITMAPS for n in range(_BITMAP_REGISTERS)),
    *sorted(_READ.keys() | _WRITE.keys()),
)
