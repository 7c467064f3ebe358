"""The host's side of steal time."""

from interface import (
    KVM_MSR_ENABLED,
    KVM_STEAL_TIME_SIZE,
    KVM_VCPU_PREEMPTED,
    MSR_KVM_STEAL_TIME,
    PREEMPTED,
    STEAL,
    VERSION,
    GeneralProtection,
)


class StealTime:
    def __init__(self, ram_holds):
        self.ram_holds = ram_holds
        self.value = 0
        self.told = 0  # of the run delay
        self.served = None  # the area of the last update
        self.shown = False  # whether the preempted byte says so

    def rdmsr(self, msr):
        if msr != MSR_KVM_STEAL_TIME:
            raise GeneralProtection
        return self.value

    def wrmsr(self, msr, value):
        if msr != MSR_KVM_STEAL_TIME:
            raise GeneralProtection
        self.value = value

    def update(self, run_delay_ns, load):
        if not self.usable():
            return
        area = self.served = self.area()
        self.shown = False
        yield area + PREEMPTED, 1, 0
        version = load(area + VERSION, 4)
        version += 1 + (version & 1)
        yield area + VERSION, 4, version % 2**32
        steal = load(area + STEAL, 8) + run_delay_ns - self.told
        self.told = run_delay_ns
        yield area + STEAL, 8, steal % 2**64
        yield area + VERSION, 4, (version + 1) % 2**32

    def preempt(self):
        if self.usable() and self.served == self.area() and not self.shown:
            self.shown = True
            yield self.area() + PREEMPTED, 1, KVM_VCPU_PREEMPTED

    def reset(self):
        self.value = 0

    def area(self):
        return self.value & ~(KVM_STEAL_TIME_SIZE - 1)

    def usable(self):
        return bool(self.value & KVM_MSR_ENABLED) and self.ram_holds(self.area(), KVM_STEAL_TIME_SIZE)
