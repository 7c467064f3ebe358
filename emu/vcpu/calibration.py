"""Finding what Unicorn 2.1 keeps to itself, by experiment, and refusing to run where an experiment fails.

Two places are needed that no public call names. *The instruction counter* of a counted run: an exit in the middle of a
run must tell how many instructions were retired. *The hidden state* in the context blob: the error code of an
exception, the interrupt shadow, the descriptor caches. Both are searched for by planting values and looking where they
appear; then a guest is entered whose hidden state is known, and every part is compared.

Measured on Unicorn 2.1.4; the distances are those of QEMU's CPUX86State, which the blob is an image of.

In Linux: nothing like it; a real processor documents its VMCB.
"""

import ctypes
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from emu import abi, state
from emu.faults import HostError
from emu.vcpu import vmcb

if TYPE_CHECKING:
    from emu.vcpu.engine import Engine, Hidden

_STRUCTURE_SEARCHED = 4096  # bytes of the engine's structure in which the counter must be found
_COUNT_MAGIC = 0x1234_5678_9ABC
PLANTED_RANGE = 0x1234_5678_9ABC_0000, 0x1234_5678_9ABC_FFFF  # of a hook, for find_range
_HOOK_SEARCHED = 64  # bytes of a hook in which its range must be found
# From the first general register, in bytes.
_FLAGS_SOURCE, _FLAGS_FORM = 152, 168
_HIDDEN_FLAGS, _SEGMENT_CACHES, _LDT_CACHE = 176, 184, 328
_FLAGS_READY = 1  # the form in which the source is the flags themselves
_CACHE = struct.Struct("<I4xQII")  # selector, base, limit, flags
_CACHE_STRIDE = 24
_ERROR_BEFORE_DR0 = 16
_FLAG_SHADOW, _FLAG_CS32, _FLAG_LMA, _FLAG_CS64, _FLAG_CPL = 1 << 3, 1 << 4, 1 << 14, 1 << 15, 3
_CS_BASE = _SEGMENT_CACHES + _CACHE_STRIDE + 8
_ERROR = struct.Struct("<I")
_FLAGS_AND_CS_BASE = struct.Struct(f"<I{_CS_BASE - _HIDDEN_FLAGS - 4}xQ")
_TASK_REGISTER = state.SEGMENTS.index("tr")
_CARRY_OUT = 0x8000_0918  # twice that is a selector beyond the GDT, with a carry and an overflow
_CARRY_OUT_FLAGS = abi.RFLAGS_CF | abi.RFLAGS_OF | abi.RFLAGS_AF | abi.RFLAGS_PF
_CACHE_ORDER = ("es", "cs", "ss", "ds", "fs", "gs")


class Layout(NamedTuple):
    """Offsets: `error` and `registers` in the context blob."""

    error: int
    registers: int

    def hidden(self, blob: Any) -> "Hidden":
        from emu.vcpu.engine import Hidden

        error = _ERROR.unpack_from(blob, self.error)[0]
        flags, cs_base = _FLAGS_AND_CS_BASE.unpack_from(blob, self.registers + _HIDDEN_FLAGS)
        return Hidden(
            error,
            flags & _FLAG_SHADOW != 0,
            flags & _FLAG_CPL,
            flags & _FLAG_CS64 != 0,
            flags & _FLAG_LMA != 0,
            cs_base,
            flags & _FLAG_CS32 != 0,
        )

    def without_general(self, blob: Any) -> bytes:
        """The blob without the general registers, RIP and flags, in whatever form the engine has these."""
        return bytes(blob[: self.registers]) + bytes(blob[self.registers + _HIDDEN_FLAGS :])

    def computed_flags(self, blob: Any) -> int | None:
        """The arithmetic flags where the engine has computed them but does not say so (Engine.settle_flags)."""
        form: int = struct.unpack_from("<I", blob, self.registers + _FLAGS_FORM)[0]
        if form == _FLAGS_READY:
            return None
        return int(struct.unpack_from("<Q", blob, self.registers + _FLAGS_SOURCE)[0]) & abi.RFLAGS_ARITHMETIC

    def set_shadow(self, blob: Any, shadow: bool) -> None:
        at = self.registers + _HIDDEN_FLAGS
        (flags,) = struct.unpack_from("<I", blob, at)
        struct.pack_into("<I", blob, at, flags & ~_FLAG_SHADOW | _FLAG_SHADOW * shadow)

    def segments(self, blob: Any) -> tuple[state.Segment, ...]:
        """The descriptor caches, in the order of state.SEGMENTS."""
        found = []
        for index in range(len(state.SEGMENTS)):
            at = self.registers + (_SEGMENT_CACHES if index < 6 else _LDT_CACHE - 6 * _CACHE_STRIDE)
            selector, base, limit, flags = _CACHE.unpack_from(blob, at + index * _CACHE_STRIDE)
            attributes = vmcb.attributes_of_flags(flags) | (vmcb.TSS_BUSY if index == _TASK_REGISTER else 0)
            found.append(state.Segment(selector & 0xFFFF, attributes, limit, base))
        return tuple(found)


def check_version(version: str) -> None:
    """Raises HostError for a Unicorn whose insides are not those of 2.1.4; `version` as the binding tells it."""
    numbers = [int(part) for part in version.split(".")[:3] if part.isdecimal()]
    if numbers[:2] != [2, 1] or numbers < [2, 1, 4]:
        raise HostError(
            f"Unicorn {version} cannot be used: 2.1.4 or a later 2.1 is needed", remedy="pip install unicorn==2.1.4"
        )


def find_counter(engine: "Engine", program: int) -> int:
    """The offset of the instruction counter; `program` is the address of two NOPs and a HLT for the host to run."""
    from emu.vcpu.registers import uclib

    handle = engine.handle
    uclib.uc_emu_start(
        handle, ctypes.c_uint64(program), ctypes.c_uint64(2**64 - 1), ctypes.c_uint64(0), ctypes.c_size_t(_COUNT_MAGIC)
    )
    image = ctypes.string_at(handle.value, _STRUCTURE_SEARCHED)
    pattern = struct.pack("<QQ", 3, _COUNT_MAGIC)
    if image.count(pattern) != 1:
        raise _unknown("its instruction counter is not where version 2.1 has it")
    return image.index(pattern)


def find_range(hook: ctypes.c_size_t) -> Any:
    """The two numbers in which the engine keeps the range of a hook that was added with PLANTED_RANGE."""
    image = ctypes.string_at(hook.value, _HOOK_SEARCHED)
    pattern = struct.pack("<QQ", *PLANTED_RANGE)
    if image.count(pattern) != 1:
        raise _unknown("the ranges of its hooks are not where version 2.1 has them")
    return (ctypes.c_uint64 * 2).from_address(hook.value + image.index(pattern))


def find_blob(engine: "Engine") -> Layout:
    """The offsets in the context blob, from planted debug and general registers."""
    from unicorn import x86_const

    uc = engine.uc
    debug = [0x1122_3344_5566_7700 + number for number in range(4)]
    general = 0xC1C2_C3C4_C5C6_C7C8
    for number, value in enumerate(debug):
        uc.reg_write(x86_const.UC_X86_REG_DR0 + number, value)
    uc.reg_write(x86_const.UC_X86_REG_RCX, general)
    blob = bytes(engine.read_blob())
    for number in range(4):
        uc.reg_write(x86_const.UC_X86_REG_DR0 + number, 0)
    uc.reg_write(x86_const.UC_X86_REG_RCX, 0)
    planted, register = struct.pack("<4Q", *debug), struct.pack("<Q", general)
    if blob.count(planted) != 1 or register not in blob:
        raise _unknown("its context blob is not laid out as in version 2.1")
    return Layout(blob.index(planted) - _ERROR_BEFORE_DR0, blob.index(register) - 8)


def verify(engine: "Engine") -> None:
    """Enter a guest with known hidden state that takes a #GP with a known error code in an interrupt shadow."""
    selector = 0x1230  # beyond the limit of the GDT
    engine.load_scratch("verify")
    planted = tuple(
        state.Segment(16 * index, state.BUSY_TSS if name == "tr" else state.DATA32, 0xFFFFF000 + index, index << 32)
        for index, name in enumerate(state.SEGMENTS)
    )
    block = engine.vmcb
    for name, segment in zip(state.SEGMENTS, planted, strict=True):
        if name not in ("cs", "ss"):
            block.set_segment(name, segment)
    engine.general["RAX"] = selector
    retired = engine.vmrun(16)
    hidden = engine.hidden()
    found = engine.segments()
    same = all(found[index] == planted[index] for index, name in enumerate(state.SEGMENTS) if name not in ("cs", "ss"))
    if engine.exit_code != vmcb.EXIT_EXCEPTION + abi.GP_VECTOR or retired != 1:
        raise _unknown("an intercepted #GP does not stop the guest exactly")
    if hidden.error != selector or not hidden.shadow or not same or not hidden.long or hidden.cpl:
        raise _unknown("its context blob does not hold the hidden state of version 2.1")
    engine.load_scratch("flags")
    engine.general["RAX"] = _CARRY_OUT
    engine.vmrun(16)
    if engine.hidden().shadow:
        raise _unknown("its context blob does not hold the hidden state of version 2.1")
    engine.settle_flags()
    if engine.read_register("RFLAGS") & abi.RFLAGS_ARITHMETIC != _CARRY_OUT_FLAGS:
        raise _unknown("the flags of an instruction in mid-block are not kept as in version 2.1")


def _unknown(what: str) -> HostError:
    return HostError(f"this build of Unicorn cannot be used, because {what}", remedy="install unicorn 2.1.4")
