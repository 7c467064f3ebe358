"""What gdb is told of the machine: its registers in gdb's order, and its memory.

Sources: the GDB manual, appendix "Target Descriptions" (feature org.gnu.gdb.i386.core), and gdb/features/i386.
"""

from typing import NamedTuple

from emu import abi
from emu.explain.step import bits_of
from emu.faults import GuestFault
from emu.machine import Machine
from emu.package import Package
from emu.state import GENERAL, SEGMENTS

_GDB64 = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
_GDB32 = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
_FPU = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
MSRS = {
    "kvm_wall_clock": abi.MSR_KVM_WALL_CLOCK_NEW,
    "kvm_system_time": abi.MSR_KVM_SYSTEM_TIME_NEW,
    "kvm_async_pf_en": abi.MSR_KVM_ASYNC_PF_EN,
    "kvm_steal_time": abi.MSR_KVM_STEAL_TIME,
    "kvm_pv_eoi_en": abi.MSR_KVM_PV_EOI_EN,
    "kvm_poll_control": abi.MSR_KVM_POLL_CONTROL,
}


class Register(NamedTuple):
    """One register as gdb knows it; `bits` wide."""

    name: str
    bits: int
    type: str


def registers(wide: bool) -> list[Register]:
    """All registers in the order of their numbers, of 64-bit or of 32-bit code."""
    size = 64 if wide else 32
    general = _GDB64 if wide else _GDB32
    pointers = {"rbp": "data_ptr", "rsp": "data_ptr", "ebp": "data_ptr", "esp": "data_ptr"}
    found = [Register(name, size, pointers.get(name, f"int{size}")) for name in general]
    found.append(Register("rip" if wide else "eip", size, "code_ptr"))
    found.append(Register("eflags", 32, "int32"))
    found += [Register(name, 32, "int32") for name in _SEGMENTS]
    found += [Register(f"st{number}", 80, "i387_ext") for number in range(8)]
    found += [Register(name, 32, "int") for name in _FPU]
    return found + [Register(name, 64, "uint64") for name in MSRS]


def description(wide: bool) -> str:
    """The target description, as XML."""
    rows = registers(wide)
    core = [one for one in rows if one.name not in MSRS]

    def told(one: Register) -> str:
        group = ' group="float"' if one.name.startswith(("st", "f")) and one.bits != 64 and one.name != "fs" else ""
        return f'<reg name="{one.name}" bitsize="{one.bits}" type="{one.type}"{group}/>'

    return (
        '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">'
        f"<architecture>{'i386:x86-64' if wide else 'i386'}</architecture>"
        f'<feature name="org.gnu.gdb.i386.core">{"".join(map(told, core))}</feature>'
        f'<feature name="org.emu.kvm">{"".join(told(one) for one in rows if one.name in MSRS)}</feature></target>'
    )


def memory_map(machine: Machine) -> str:
    """The memory map, as XML: all of the guest's RAM."""
    return (
        '<?xml version="1.0"?><!DOCTYPE memory-map PUBLIC "+//IDN gnu.org//DTD GDB Memory Map V1.0//EN"'
        ' "http://sourceware.org/gdb/gdb-memory-map.dtd">'
        f'<memory-map><memory type="ram" start="0x0" length="{machine.ram.size:#x}"/></memory-map>'
    )


def is_wide(machine: Machine) -> bool:
    """Whether the guest is entered as 64-bit code; gdb cannot be told otherwise later."""
    return bits_of(machine.packages[0].vcpu.state()) == 64


def values(package: Package, wide: bool) -> list[bytes | None]:
    """The registers of a vCPU, little-endian, None for one that cannot be read."""
    state = package.vcpu.state()
    general = dict(zip(GENERAL, state.general, strict=True))
    segments = dict(zip(SEGMENTS, state.segments, strict=True))
    found: list[bytes | None] = []
    for one in registers(wide):
        size = one.bits // 8
        value: int | None = 0
        if one.name in general:
            value = general[one.name]
        elif one.name in _GDB32:
            value = general["r" + one.name[1:]] & 0xFFFFFFFF
        elif one.name in ("rip", "eip"):
            value = state.rip
        elif one.name == "eflags":
            value = state.rflags & 0xFFFFFFFF
        elif one.name in segments:
            value = segments[one.name].selector
        elif one.name.startswith("st"):
            value = state.st[int(one.name[2:])]
        elif one.name in MSRS:
            try:
                value = package.msrs.rdmsr(MSRS[one.name])
            except GuestFault:
                value = None
        else:
            value = {"fctrl": state.fpcw, "fstat": state.fpsw, "ftag": state.fptag}.get(one.name, 0)
        found.append(None if value is None else (value & (1 << one.bits) - 1).to_bytes(size, "little"))
    return found
