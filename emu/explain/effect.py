"""What an instruction did, by its mnemonic and what is different afterwards.

Sources: Intel SDM volume 2, condition codes (appendix B, "tttn" encoding).
"""

from collections.abc import Callable

from emu.state import GENERAL, CpuState

FLAGS = {0: "CF", 2: "PF", 4: "AF", 6: "ZF", 7: "SF", 9: "IF", 10: "DF", 11: "OF"}
_CARRY, _PARITY, _ZERO, _SIGN, _OVERFLOW = 1 << 0, 1 << 2, 1 << 6, 1 << 7, 1 << 11


def _less(flags: int) -> bool:
    return bool(flags & _SIGN) != bool(flags & _OVERFLOW)


# Mnemonic -> what it asks, and whether that is so.
BRANCHES: dict[str, tuple[str, Callable[[int], bool]]] = {
    "je": ("equal, ZF = 1", lambda flags: bool(flags & _ZERO)),
    "jne": ("not equal, ZF = 0", lambda flags: not flags & _ZERO),
    "jb": ("below, CF = 1", lambda flags: bool(flags & _CARRY)),
    "jae": ("not below, CF = 0", lambda flags: not flags & _CARRY),
    "jbe": ("below or equal, CF = 1 or ZF = 1", lambda flags: bool(flags & (_CARRY | _ZERO))),
    "ja": ("above, CF = 0 and ZF = 0", lambda flags: not flags & (_CARRY | _ZERO)),
    "jl": ("less, SF differs from OF", _less),
    "jge": ("not less, SF equals OF", lambda flags: not _less(flags)),
    "jle": ("less or equal, ZF = 1 or SF differs from OF", lambda flags: bool(flags & _ZERO) or _less(flags)),
    "jg": ("greater, ZF = 0 and SF equals OF", lambda flags: not flags & _ZERO and not _less(flags)),
    "js": ("negative, SF = 1", lambda flags: bool(flags & _SIGN)),
    "jns": ("not negative, SF = 0", lambda flags: not flags & _SIGN),
    "jo": ("overflow, OF = 1", lambda flags: bool(flags & _OVERFLOW)),
    "jno": ("no overflow, OF = 0", lambda flags: not flags & _OVERFLOW),
    "jp": ("parity even, PF = 1", lambda flags: bool(flags & _PARITY)),
    "jnp": ("parity odd, PF = 0", lambda flags: not flags & _PARITY),
}
_SIZES = {
    **{name: (name, 64) for name in GENERAL},
    **{"e" + name[1:]: (name, 32) for name in GENERAL[:8]},
    **{name[1:]: (name, 16) for name in GENERAL[:8]},
    **{name[1] + "l": (name, 8) for name in ("rax", "rbx", "rcx", "rdx")},
    **{name[1:] + "l": (name, 8) for name in ("rsi", "rdi", "rbp", "rsp")},
    **{f"{name}{suffix}": (name, size) for name in GENERAL[8:] for suffix, size in (("d", 32), ("w", 16), ("b", 8))},
}


def effect(text: str, before: CpuState, after: CpuState) -> str:
    """One sentence on an instruction: `text` as disassembled, and the vCPU's state before and after it."""
    mnemonic, _, rest = text.partition(" ")
    operands = [one.strip() for one in rest.split(",")]
    if mnemonic in BRANCHES:
        asks, holds = BRANCHES[mnemonic]
        taken = holds(before.rflags)
        return f"{mnemonic}: {'so it is' if taken else 'not so'} ({asks}), the branch is {'' if taken else 'not '}taken"
    if mnemonic in ("cmp", "test") and len(operands) == 2:
        told = _compared(mnemonic, operands, before)
        if told:
            return f"{mnemonic}: {told}"
    if mnemonic == "jmp":
        return f"jmp: goes on at {after.rip:#x}"
    if mnemonic == "call":
        return f"call: goes on at {after.rip:#x}, and the stack keeps where to return to"
    if mnemonic == "ret":
        return f"ret: returns to {after.rip:#x}"
    pairs = zip(GENERAL, before.general, after.general, strict=True)
    changed = [f"{name} becomes {new:#x}" for name, old, new in pairs if old != new and name != "rsp"]
    flipped = before.rflags ^ after.rflags
    changed += [f"{name} becomes {after.rflags >> bit & 1}" for bit, name in FLAGS.items() if flipped >> bit & 1]
    return f"{mnemonic}: {', '.join(changed) or 'no register changes'}"


def _compared(mnemonic: str, operands: list[str], before: CpuState) -> str:
    values = [_value(one, before) for one in operands]
    if None in values:
        return ""
    first, second = (int(one) for one in values if one is not None)
    if mnemonic == "test":
        found = first & second
        return f"{first:#x} and {second:#x} have {'no bit' if not found else f'the bits {found:#x}'} in common"
    relation = "equal" if first == second else f"different, the first is {'smaller' if first < second else 'larger'}"
    return f"{first:#x} and {second:#x} are {relation}"


def _value(operand: str, state: CpuState) -> int | None:
    """The value of a register or of a number; None for what stands in memory."""
    if operand in _SIZES:
        name, bits = _SIZES[operand]
        return state.general[GENERAL.index(name)] & (1 << bits) - 1
    try:
        return int(operand, 0) & (1 << 64) - 1
    except ValueError:
        return None
