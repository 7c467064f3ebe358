"""The guests' C header, generated from `emu.abi`: `python -m emu.abi_header > guests/include/abi.h`.

Every integer of abi.py becomes one `#define` without a suffix, so that C and the assembler read the same line. The
headings of abi.py become comments. A test compares the result with the committed header.

In Linux: arch/x86/include/uapi/asm/kvm_para.h, the header that a guest kernel includes.
"""

import re
from pathlib import Path

from emu import abi

_HEADING = re.compile(r"# --- (?P<title>.+?) -+$")
_CONSTANT = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*) = (?P<value>[^#]*)")

# struct kvm_steal_time, field by field: the type, the declared name, the constant of its offset where it has one.
_STEAL_TIME_FIELDS = (
    ("uint64_t", "steal", "KVM_STEAL_TIME_STEAL"),
    ("uint32_t", "version", "KVM_STEAL_TIME_VERSION"),
    ("uint32_t", "flags", "KVM_STEAL_TIME_FLAGS"),
    ("uint8_t", "preempted", "KVM_STEAL_TIME_PREEMPTED"),
    ("uint8_t", "u8_pad[3]", ""),
    ("uint32_t", "pad[11]", ""),
)


def c_header() -> str:
    """The text of guests/include/abi.h; the same text for the same abi.py, always."""
    lines = [
        "/* Generated from emu/abi.py by `python -m emu.abi_header`. Change that file, not this one. */",
        "#ifndef EMU_ABI_H",
        "#define EMU_ABI_H",
    ]
    for line in Path(abi.__file__).read_text(encoding="utf-8").splitlines():
        if heading := _HEADING.match(line):
            lines += ["", f"/* {heading['title']} */"]
        elif constant := _CONSTANT.match(line):
            value = getattr(abi, constant["name"])
            if isinstance(value, int):
                lines.append(f"#define {constant['name']} {_literal(constant['value'].strip(), value)}")
    return "\n".join([*lines, "", *_c_only(), "", "#endif", ""])


def _literal(source: str, value: int) -> str:
    # A number keeps the spelling it has in abi.py; an expression such as `1 << 63` is not C, where int has 32 bits.
    number = source.replace("_", "")
    return number if number.isalnum() else f"0x{value:X}"


def _c_only() -> list[str]:
    # A NUL in a C string literal is written as an escape; the literal's own final NUL is not part of the signature.
    signature = "".join(chr(byte) if byte else r"\0" for byte in abi.KVM_SIGNATURE)
    lines = [
        "#ifndef __ASSEMBLER__",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
        f'#define KVM_SIGNATURE "{signature}"',
        "",
        "struct kvm_steal_time {",
        *(f"    {kind} {name};" for kind, name, _ in _STEAL_TIME_FIELDS),
        "} __attribute__((aligned(KVM_STEAL_TIME_SIZE)));",
        "",
        '_Static_assert(sizeof(struct kvm_steal_time) == KVM_STEAL_TIME_SIZE, "size");',
    ]
    for _, name, offset in _STEAL_TIME_FIELDS:
        if offset:
            lines.append(f'_Static_assert(offsetof(struct kvm_steal_time, {name}) == {offset}, "{name}");')
    return [*lines, "#endif"]


if __name__ == "__main__":
    print(c_header(), end="")
