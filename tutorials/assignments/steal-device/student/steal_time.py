"""The host's side of steal time: your device."""

from interface import GeneralProtection


class StealTime:
    def __init__(self, ram_holds):
        """`ram_holds(gpa, size)` says whether all these bytes are RAM."""
        self.ram_holds = ram_holds

    def rdmsr(self, msr):
        """The value of the MSR; raises GeneralProtection for any MSR but MSR_KVM_STEAL_TIME."""
        raise GeneralProtection

    def wrmsr(self, msr, value):
        """Register an area, or end the registration; raises GeneralProtection where that is refused."""
        raise GeneralProtection

    def update(self, run_delay_ns, load):
        """Yield the stores of an update, each as (gpa, size, value), in their order.

        `run_delay_ns` is the whole run delay of the vCPU since it was made, modulo 2**64; `load(gpa, size)` is what
        stands in memory now. The machine calls this before the vCPU runs again.
        """
        return []

    def preempt(self):
        """Yield the stores that tell that the vCPU was taken off its CPU."""
        return []

    def reset(self):
        """The vCPU is reset: its registration is forgotten."""
