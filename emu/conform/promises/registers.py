"""Sequences that judge the other registers of the family, what INIT and what migration do to each.

Groups AP, EO, PC, MC, EF and RS of tutorials/paravirtual-family.md.
"""

_VALUES = {
    "STEAL_TIME": "0x200001",
    "ASYNC_PF_EN": "0x200849",
    "ASYNC_PF_INT": "0x40",
    "PV_EOI_EN": "0x200881",
    "SYSTEM_TIME": "0x200101",
    "WALL_CLOCK": "0x200400",
    "POLL_CONTROL": "0",
    "MIGRATION_CONTROL": "0",
}
_REFUSED = {"STEAL_TIME": "0x200003", "ASYNC_PF_EN": "0x200859", "ASYNC_PF_INT": "0x140", "PV_EOI_EN": "0x200883"}
_WRITE_ALL = "".join(f"wrmsr {msr} {value}; " for msr, value in _VALUES.items())
_READ_ALL = "; ".join(f"rdmsr {msr}" for msr in (*_VALUES, "ASYNC_PF_ACK", "SYSTEM_TIME_NEW", "WALL_CLOCK_NEW"))
_KEPT_BY_INIT = ("WALL_CLOCK", "POLL_CONTROL", "MIGRATION_CONTROL")


def _reads_back(msr: str, *values: str) -> tuple[str, ...]:
    return tuple(f"wrmsr {msr} {value}; rdmsr {msr}" for value in values)


def _refuses(msr: str, before: str, *values: str) -> tuple[str, ...]:
    return tuple(f"wrmsr {msr} {before}; wrmsr {msr} {value}; rdmsr {msr}; reenter" for value in values)


def _taken_and_given(msr: str) -> str:
    return f"rdmsr {msr}; wrmsr {msr} 0; rdmsr {msr}; wrmsr {msr} 1; rdmsr {msr}"


SEQUENCES: dict[str, tuple[str, ...]] = {
    "AP-1": _reads_back("ASYNC_PF_EN", "0x20000b", "0x20000f", "0x200001", "0x200008", "0", "0x7fffc9", "0x9"),
    "AP-2": _refuses("ASYNC_PF_EN", "0x20000b", "0x20001b", "0x20002b", "0x10", "0x20"),
    "AP-3": (
        *_reads_back("ASYNC_PF_EN", "0x800001", "0x800008", "0x1000000000000001", "0xffffffffffffffc2"),
        *(f"wrmsr ASYNC_PF_EN {value}; reenter" for value in ("0x800009", "0x10000000009", "0xffffffffffffffc9")),
    ),
    "AP-4": _refuses("ASYNC_PF_EN", "0x20000b", "0x800009"),
    "AP-6": (
        *_reads_back("ASYNC_PF_INT", "0", "0x10", "0x20", "0xff"),
        *_refuses("ASYNC_PF_INT", "0x20", "0x100", "0x100000000", "0x8000000000000000"),
    ),
    "AP-7": _reads_back("ASYNC_PF_ACK", "0", "1", "2", "0xffffffffffffffff"),
    "EO-1": (
        *_reads_back("PV_EOI_EN", "0x200001", "0x200005", "0x200000", "0", "0x1", "0x7ffffd"),
        *_refuses("PV_EOI_EN", "0x200001", "0x200002", "0x200003", "0x2", "0x3"),
    ),
    "EO-2": (
        *_reads_back("PV_EOI_EN", "0x800000", "0xfffffffffffffffc"),
        *_refuses("PV_EOI_EN", "0x200001", "0x800001", "0x10000000001", "0xfffffffffffffffd"),
    ),
    "PC-1": (_taken_and_given("POLL_CONTROL"),),
    "PC-2": tuple(
        one
        for before in ("0", "1")
        for one in _refuses("POLL_CONTROL", before, "2", "3", "0x100", "0x100000000", "0x8000000000000001")
    ),
    "MC-1": (_taken_and_given("MIGRATION_CONTROL"),),
    "MC-2": tuple(
        one
        for before in ("0", "1")
        for one in _refuses("MIGRATION_CONTROL", before, "2", "3", "0x100000000", "0x8000000000000001")
    ),
    "MC-3": ("wrmsr MIGRATION_CONTROL 0; reset; rdmsr MIGRATION_CONTROL", "reset; rdmsr MIGRATION_CONTROL"),
    "PC-3": ("wrmsr POLL_CONTROL 0; reset; rdmsr POLL_CONTROL", "reset; rdmsr POLL_CONTROL"),
    "EF-2": ("cpuid 0x40000001",),
    "EF-4": tuple(f"{_WRITE_ALL}wrmsr {msr} {value}; {_READ_ALL}" for msr, value in _REFUSED.items()),
    "RS-1": (_READ_ALL,),
    "RS-2": (
        *(f"wrmsr {msr} {value}; reset; rdmsr {msr}" for msr, value in _VALUES.items() if msr not in _KEPT_BY_INIT),
        "wrmsr STEAL_TIME 0x200001; reenter; reset; store 0x200000 0 8; store 0x200008 0 8; reenter; "
        "memory 0x200000 64",
        "wrmsr SYSTEM_TIME 0x200101; reset; store 0x200100 0 4; reenter; load 0x200100 4",
    ),
    "RS-3": tuple(f"wrmsr {msr} {_VALUES[msr]}; reset; rdmsr {msr}" for msr in _KEPT_BY_INIT),
    "RS-4": (f"{_WRITE_ALL}save-restore; {_READ_ALL}",),
    "RS-5": (
        "wrmsr WALL_CLOCK 0x200400; load 0x200400 4; save-restore; load 0x200400 4",
        "wrmsr SYSTEM_TIME 0x200101; load 0x200100 4; save-restore; load 0x200100 4",
        "wrmsr STEAL_TIME 0x200001; reenter; save-restore; load 0x200008 4",
    ),
    "RS-6": ("wrmsr STEAL_TIME 0x200001; reenter; store 0x200000 0 8; save-restore; load 0x200000 8",),
}
