"""Microseconds per exit, complete: from the guest's instruction through its owner and back, trace off."""

import time
from statistics import median

from emu import abi
from emu.boot.image import flat_image
from emu.machine import Machine
from emu.scenario import Config

EXITS = 20_000
_LOAD_MSR = b"\xb9" + abi.MSR_KVM_STEAL_TIME.to_bytes(4, "little")  # mov ecx, MSR_KVM_STEAL_TIME
_ZERO = bytes.fromhex("31c031d2")  # xor eax, eax; xor edx, edx

# Each is a set-up and an instruction that exits; the loop around it costs two instructions, which are nothing here.
KINDS = {
    "RDMSR steal time": (_LOAD_MSR, bytes.fromhex("0f32")),
    "WRMSR steal time (disable)": (_LOAD_MSR + _ZERO, bytes.fromhex("0f30")),
    "WRMSR and the update it asks for": (
        _LOAD_MSR + bytes.fromhex("b80100200031d2"),
        bytes.fromhex("0f30"),
    ),
    "CPUID": (b"", bytes.fromhex("0fa2")),
    "RDTSC": (b"", bytes.fromhex("0f31")),
    "OUT (nobody home)": (bytes.fromhex("b000"), bytes.fromhex("e6e1")),
    "IN": (b"", bytes.fromhex("e4e1")),
    "PAUSE": (b"", bytes.fromhex("f390")),
    "VMMCALL": (b"", bytes.fromhex("0f01d9")),
}


def microseconds(setup: bytes, instruction: bytes) -> float:
    """Wall time of one exit, in a loop of EXITS of them."""
    code = setup + instruction
    back = len(instruction) + 2
    code += b"\xeb" + bytes((256 - back,))
    if instruction == bytes.fromhex("0fa2") or instruction == bytes.fromhex("0f32"):
        # CPUID and RDMSR overwrite their own input: set up each time.
        code = setup + instruction + b"\xeb" + bytes((256 - back - len(setup),))
    machine = Machine(flat_image(code, "bench", "long"), Config(exit_limit=EXITS, time_limit_ps=10**15))
    start = time.perf_counter()
    machine.run()
    return (time.perf_counter() - start) / EXITS * 1e6


def rows() -> list[tuple[str, float]]:
    """(kind, microseconds), medians of five."""
    return [(kind, median(microseconds(*code) for _ in range(5))) for kind, code in KINDS.items()]
