"""The readers of guests/readers/, and what exploring must say of each: the table of the tutorial and of the tests.

`python -m tests.explore` decides every line of it with up to three updates, and prints it.
"""

from typing import NamedTuple

from emu.explore.instance import Instance
from emu.explore.properties import AWAKE, CLOCK, CURRENT, ENDS, NO_FAULT, OWN_AREA, PROPERTIES, UNWRITTEN, ZEROED
from emu.explore.search import Report, Search
from emu.guest import load_guest

ALL = frozenset(PROPERTIES) - {AWAKE, CLOCK}
MODELS = ("kvm", "other-cpu")


class Line(NamedTuple):
    """Which property does not hold, None where all do: 64-bit code under kvm and other-cpu, then 32-bit code."""

    long_kvm: str | None
    long_other: str | None
    short_kvm: str | None
    short_other: str | None
    burst: int = 1


TABLE: dict[str, Line] = {
    "seqlock": Line(None, None, None, None),
    "no_check": Line(None, CURRENT, CURRENT, CURRENT),
    "odd_only": Line(None, CURRENT, CURRENT, CURRENT),
    "change_only": Line(None, CURRENT, None, CURRENT),
    "low_byte": Line(None, None, CURRENT, CURRENT, burst=128),
    "version_late": Line(None, CURRENT, CURRENT, CURRENT),
    "version_once": Line(None, CURRENT, CURRENT, CURRENT),
    "halves": Line(CURRENT, CURRENT, CURRENT, CURRENT),
    "stale_version": Line(ENDS, ENDS, ENDS, ENDS),
    "gives_up": Line(None, CURRENT, CURRENT, CURRENT),
    "stale_pointer": Line(OWN_AREA, OWN_AREA, OWN_AREA, OWN_AREA),
    "no_zeroing": Line(ZEROED, ZEROED, ZEROED, ZEROED),
    "no_enable": Line(OWN_AREA, OWN_AREA, OWN_AREA, OWN_AREA),
    "no_cpuid": Line(NO_FAULT, NO_FAULT, NO_FAULT, NO_FAULT),
    "writes_back": Line(UNWRITTEN, UNWRITTEN, UNWRITTEN, UNWRITTEN),
}


def cases() -> list[tuple[str, str, str | None, int]]:
    """(guest, host model, the property that does not hold or None, burst)."""
    found = []
    for name, line in TABLE.items():
        for suffix, verdicts in (("", line[:2]), ("32", line[2:4])):
            found += [
                (f"readers/{name}{suffix}", model, verdict, line.burst)
                for model, verdict in zip(MODELS, verdicts, strict=True)
            ]
    return found


def explore(guest: str, model: str, updates: int, burst: int = 1, *, halves: bool = False) -> list[Report]:
    """As `emu explore` does: where steal time is offered, and where it is not."""
    offered = Instance(load_guest(guest), model, updates, halves, burst, properties=ALL)
    reports = [Search(offered).run()]
    if reports[0].found is None:
        reports.append(Search(offered._replace(withheld=("steal-time",))).run())
    return reports


def violated(reports: list[Report]) -> str | None:
    """The property that does not hold, or None."""
    found = reports[-1].found
    return None if found is None else found.violation.property
