"""What a steal-time device meets: the numbers of the interface, and what it raises where the guest must get a #GP.

This file is given: it is replaced when your work is judged.
"""

MSR_KVM_STEAL_TIME = 0x4B564D03
KVM_MSR_ENABLED = 1
KVM_STEAL_RESERVED_MASK = 0x3E  # bits 1 to 5 must be 0
KVM_STEAL_TIME_SIZE = 64

# Offsets in the area.
STEAL = 0  # 8 bytes, nanoseconds
VERSION = 8  # 4 bytes
FLAGS = 12  # 4 bytes
PREEMPTED = 16  # 1 byte

KVM_VCPU_PREEMPTED = 1


class GeneralProtection(Exception):
    """The access is refused: the guest gets a #GP, and nothing has changed."""
