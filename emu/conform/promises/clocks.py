"""Sequences that judge the promises of the two clocks, groups WC and CK of tutorials/paravirtual-family.md."""

_VERSIONS = ("0x0", "0x1", "0x3", "0xfffffffd", "0xfffffffe", "0xffffffff")
_NUMBERS_OF_TIME = ("SYSTEM_TIME", "SYSTEM_TIME_NEW")
_NUMBERS_OF_WALL = ("WALL_CLOCK", "WALL_CLOCK_NEW")
_ANYTHING = ("0x200401", "0x200402", "0x800001", "0x10000000200001", "0xffffffffffffffff", "0x1", "0x0")
_ON = "wrmsr SYSTEM_TIME_NEW 0x200101; "

SEQUENCES: dict[str, tuple[str, ...]] = {
    "WC-1": tuple(
        f"wrmsr {number} {value}; rdmsr WALL_CLOCK; rdmsr WALL_CLOCK_NEW"
        for number in _NUMBERS_OF_WALL
        for value in _ANYTHING
    ),
    "WC-2": (
        "wrmsr WALL_CLOCK_NEW 0x200400; load 0x200400 4; store 0x200400 0 4; store 0x200404 0 8; reenter; reenter; "
        "memory 0x200400 12",
    ),
    "WC-3": tuple(f"store 0x200400 {found} 4; wrmsr WALL_CLOCK 0x200400; load 0x200400 4" for found in _VERSIONS),
    "WC-4": tuple(
        f"wrmsr WALL_CLOCK {gpa}; load {gpa} 4" for gpa in ("0x200401", "0x200402", "0x200403", "0x200ffa", "0x1")
    ),
    "WC-5": ("wrmsr WALL_CLOCK 0; memory 0 64", "wrmsr WALL_CLOCK 0x200400; wrmsr WALL_CLOCK_NEW 0; memory 0 64"),
    "WC-6": tuple(
        f"wrmsr WALL_CLOCK {gpa}; reenter"
        for gpa in ("0x7ffff4", "0x7ffff9", "0x7ffffc", "0x7ffffd", "0x800000", "0xfffffffffffffffc")
    ),
    "CK-1": tuple(
        f"wrmsr {number} {value}; rdmsr SYSTEM_TIME; rdmsr SYSTEM_TIME_NEW"
        for number in _NUMBERS_OF_TIME
        for value in _ANYTHING
    ),
    "CK-2": (
        "store 0x2000f8 0xa5a5a5a5a5a5a5a5 8; store 0x200104 0xa5a5a5a5 4; store 0x20011e 0xa5a5 2; "
        f"store 0x200120 0xa5a5a5a5a5a5a5a5 8; {_ON}load 0x200100 4; load 0x200104 4; load 0x20011e 2",
    ),
    "CK-3": tuple(f"store 0x200100 {found} 4; {_ON}load 0x200100 4" for found in _VERSIONS),
    "CK-4": tuple(
        f"wrmsr SYSTEM_TIME_NEW {gpa + 1:#x}; load {gpa:#x} 4"
        for gpa in (0, 0x200102, 0x200104, 0x20010A, 0x200FE0, 0x7FFFE0)
    ),
    "CK-5": (
        *(
            f"wrmsr SYSTEM_TIME_NEW {value}; rdmsr SYSTEM_TIME; reenter"
            for value in ("0x200fe3", "0x200fff", "0x7fffe3", "0x800001", "0xffffffffffffffff")
        ),
        _ON + "wrmsr SYSTEM_TIME_NEW 0x800001; store 0x200100 0 4; reenter; load 0x200100 4",
        _ON + "wrmsr SYSTEM_TIME_NEW 0x200ff1; reenter; load 0x200100 4",
    ),
    "CK-6": tuple(
        f"{_ON}wrmsr {number} {value}; store 0x200100 0 4; reenter; reenter; load 0x200100 4"
        for number in _NUMBERS_OF_TIME
        for value in ("0x200100", "0")
    ),
}
