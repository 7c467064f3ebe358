"""Sequences that judge the promises of steal time and of CPUID, groups ST and CP of tutorials/steal-time.md."""

_ON = "wrmsr STEAL_TIME 0x200001; reenter; "

SEQUENCES: dict[str, tuple[str, ...]] = {
    "ST-1": (
        "rdmsr STEAL_TIME",
        "wrmsr STEAL_TIME 0x200001; rdmsr STEAL_TIME",
        "wrmsr STEAL_TIME 0xffffffffffffffc1; rdmsr STEAL_TIME",
        "wrmsr STEAL_TIME 0x200000; rdmsr STEAL_TIME",
    ),
    "ST-2": tuple(
        f"{_ON}wrmsr STEAL_TIME {value}; rdmsr STEAL_TIME; reenter"
        for value in ("0x200003", "0x200005", "0x200009", "0x200011", "0x200021", "0x20003e", "0x2", "0x20")
    ),
    "ST-3": (
        "wrmsr STEAL_TIME 0x1; reenter",
        "wrmsr STEAL_TIME 0x7fffc1; reenter",
        "wrmsr STEAL_TIME 0x200041; reenter",
    ),
    "ST-4": (
        "wrmsr STEAL_TIME 0x800001; rdmsr STEAL_TIME; reenter",
        "wrmsr STEAL_TIME 0x8000000000200001; rdmsr STEAL_TIME; reenter",
        "wrmsr STEAL_TIME 0x800001; reenter; wrmsr STEAL_TIME 0x200001; reenter",
    ),
    "ST-7": tuple(
        f"store 0x200008 {before} 4; {_ON}load 0x200008 4"
        for before in ("0x0", "0x1", "0x3", "0xfffffffd", "0xfffffffe", "0xffffffff")
    ),
    "ST-8": (
        f"store 0x200000 0x10000000000 8; {_ON}load 0x200000 8",
        f"store 0x200000 0xffffffffffffffff 8; {_ON}load 0x200000 8",
    ),
    "ST-9": ("reenter; reenter; " + _ON + "reenter; load 0x200000 8",),
    "ST-10": (
        "store 0x20000c 0xdeadbeef 4; store 0x200011 0xa5 1; store 0x200014 0xa5a5a5a5a5a5a5a5 8; "
        f"store 0x200038 0xa5a5a5a5a5a5a5a5 8; {_ON}memory 0x200000 64",
    ),
    "ST-12": ("wrmsr STEAL_TIME 0x200001; load 0x200008 4", _ON + "load 0x200008 4"),
    "ST-17": tuple(f"store 0x200010 {byte} 1; {_ON}load 0x200010 1" for byte in ("1", "2", "3", "0xff", "0xfd")),
    "ST-19": tuple(
        f"{_ON}wrmsr STEAL_TIME {value}; store 0x200000 0 8; store 0x200008 0 8; reenter; reenter"
        for value in ("0x200000", "0x40", "0")
    ),
    "ST-20": (_ON + "wrmsr STEAL_TIME 0; reenter; reenter; wrmsr STEAL_TIME 0x200001; reenter",),
    "ST-21": (_ON + "store 0x200040 5 8; wrmsr STEAL_TIME 0x200041; store 0x200008 0 8; reenter; reenter",),
    "ST-23": (_ON + "reset; rdmsr STEAL_TIME; reenter; wrmsr STEAL_TIME 0x200041; reenter",),
    "CP-1": ("cpuid 0x40000000", "cpuid 0x40000000 1"),
    "CP-2": ("cpuid 0x40000001", "cpuid 0x40000001 1"),
    "CP-4": tuple(
        f"rdmsr {msr}; wrmsr {msr} 0; rdmsr STEAL_TIME" for msr in ("0x4b564d09", "0x4b564d0a", "0x4b564dff")
    ),
}
