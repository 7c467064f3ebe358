"""What came of one execution, and what must not have: the oracles.

In Linux: lib/Kconfig.debug is a list of those of the kernel itself.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from emu.explore.properties import CURRENT, ENDS, FORWARD, NO_FAULT, OWN_AREA, UNWRITTEN
from emu.faults import HostError
from emu.fuzz import records
from emu.fuzz.plan import Plan, Store
from emu.fuzz.target import Target

PASSES, OWN_MEMORY = "passes", "own-memory"
ORACLES = {
    CURRENT: "a read returns a value that was published, and current at some moment of the read",
    FORWARD: "no read returns less than an earlier one",
    OWN_AREA: "a read is of the area that is registered",
    UNWRITTEN: "the guest writes neither version nor steal of its area",
    OWN_MEMORY: "the guest stores into its own memory alone",
    ENDS: "once the host rests, the guest comes to an end",
    NO_FAULT: "no exception ends the run",
    PASSES: "the guest ends with a status that says that all is well",
}


class Read(NamedTuple):
    """A read that has ended: of which area, its value, what was current meanwhile (None: not known), and which area was
    registered then."""

    area: int
    value: int
    current: tuple[int, ...] | None
    registered: int | None


class Execution(NamedTuple):
    """What one execution came to. `rested` instructions of it were after the host's last store; `insns` are all,
    `accesses` those that touched the area.

    `ended` is "exit", "halt", "fault", "budget", or another reason of emu.result.
    """

    ended: str
    exit_code: int
    insns: int
    rested: int
    accesses: int
    reads: tuple[Read, ...]
    wrote: tuple[int, int] | None = None
    wild: int | None = None
    detail: str = ""


class Seen(NamedTuple):
    """What an oracle of one's own is shown of an execution: what it came to, what the host stored, and
    `load(gpa, size)` of the guest's memory at its end."""

    execution: Execution
    stores: tuple[Store, ...]
    load: Callable[[int, int], int]


Own = Callable[[Seen], str | None]


class Failure(NamedTuple):
    """An oracle that was violated, and why, in a sentence; the number of the read, where it is of one."""

    oracle: str
    why: str
    read: int | None = None


def failure(
    target: Target,
    plan: Plan,
    done: Execution,
    load: Callable[[int, int], int],
    own: Sequence[tuple[str, Own]] = (),
) -> Failure | None:
    """The first thing that should not have happened, or None. Raises HostError where an oracle of one's own fails."""
    if done.wrote is not None:
        return Failure(UNWRITTEN, f"the guest stores {done.wrote[1]} bytes at offset {done.wrote[0]} of its area")
    if done.wild is not None:
        return Failure(OWN_MEMORY, f"the guest stores at {done.wild:#x}, which is not its own")
    found = _of_reads(target, plan, done.reads)
    if found is not None:
        return found
    if done.ended == "fault":
        return Failure(NO_FAULT, done.detail or "an exception that nobody handled has ended the run")
    tampered = any(one.kind == records.ELSEWHERE and one.kind in target.events for one in plan.events)
    if done.ended == "budget" and plan.rests and not tampered and done.rested * 2 >= target.insns:
        return Failure(ENDS, f"the host has rested for {done.rested:,} instructions, and the guest goes on")
    if done.ended == "exit" and done.exit_code not in target.passes:
        return Failure(PASSES, f"the guest ends with status {done.exit_code}")
    for name, oracle in own:
        try:
            why = oracle(Seen(done, plan.stores, load))
        except Exception as error:
            raise HostError(f"this oracle failed ({type(error).__name__}: {error})", name) from None
        if not (why is None or isinstance(why, str)):
            raise HostError(f"it returned {why!r}", name, "return None where all is well, and else a sentence")
        if why is not None:
            return Failure(name.rpartition(":")[2], why)
    return None


def _of_reads(target: Target, plan: Plan, reads: tuple[Read, ...]) -> Failure | None:
    last: int | None = None
    for number, one in enumerate(reads):
        if one.area != one.registered:
            where = "none" if one.registered is None else f"the one at {one.registered:#x}"
            return Failure(OWN_AREA, f"the guest reads the area at {one.area:#x}, and has registered {where}", number)
        if target.host != records.HOSTILE and one.current is not None and one.value not in one.current:
            known = " and ".join(f"{value:#x}" for value in dict.fromkeys(one.current)) or "nothing"
            why = f"the read returns {one.value:#x}, and while it lasted {known} was current"
            return Failure(CURRENT, why, number)
        if last is not None and one.value < last and (plan.grows or target.clamps):
            why = f"the read returns {one.value:#x}, and one before it has returned {last:#x}"
            return Failure(FORWARD, why, number)
        last = one.value
    return None
