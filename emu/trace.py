"""The events: everything that happens in a run, in order, each with its virtual time.

Virtual time, seeds and inputs determine a run, so the same run gives the same events, byte for byte, on every machine.
`t` is always nanoseconds of virtual time. An event holds no path, host time or version. Tools read them as JSON lines.

In Linux: the tracepoints of arch/x86/kvm/trace.h and include/trace/events/sched.h.
"""

import json
from typing import Any, NamedTuple

FORMAT = 1


class Begin(NamedTuple):
    """The first event: what determines the run besides the guest's image. `image` is that image's SHA-256."""

    t: int
    format: int
    image: str
    config: dict[str, Any]


class Switch(NamedTuple):
    """A pCPU changes hands. `prev` and `next` are names such as `vcpu0` or `task1`, or `idle`.

    `why`: `start`, `quantum`, `preempted` (by a wake-up), `blocked`, `wake`, `yield` (to `next`), `script`; `away` and
    `back` where an edit made it wait.
    """

    t: int
    pcpu: int
    prev: str
    next: str
    why: str


class Wake(NamedTuple):
    """A blocked vCPU or task becomes runnable: from now on it waits until a pCPU is given to it."""

    t: int
    who: str


class ExitEvent(NamedTuple):
    """A vCPU left guest mode. `insns` is what it has retired so far; `detail` are the exit's own fields."""

    t: int
    vcpu: int
    insns: int
    exit: str
    rip: int
    detail: dict[str, Any]


class MsrWrite(NamedTuple):
    """A WRMSR met its owner: accepted, or refused with #GP and no change."""

    t: int
    vcpu: int
    msr: int
    value: int
    accepted: bool


class Store(NamedTuple):
    """One store of the host into a paravirtual area.

    Of `steal-time`, `step` is `preempted`, `odd`, `steal` (or `steal-low`, `steal-high`), `even`; `burst` is a
    version that many updates at once leave behind. Of `system-time` it is `odd`, `pad`, `tsc-timestamp`, `system-
    time`, `scale`, `even`; of `wall-clock` `odd`, `sec`, `nsec`, `even`; of `pv-eoi` `pv-eoi-set`, `pv-eoi-clear`; of
    `async-pf` `apf-flags`, `apf-token`.
    """

    t: int
    vcpu: int
    area: str
    step: str
    gpa: int
    size: int
    value: int


class Mmio(NamedTuple):
    """An instruction loaded or stored `size` bytes at `gpa`, a register of the vCPU's local APIC."""

    t: int
    vcpu: int
    gpa: int
    size: int
    value: int
    write: bool


class Swapped(NamedTuple):
    """The host took a page away (`out`), or it is there again (`in`)."""

    t: int
    gpa: int
    way: str


class PageMissing(NamedTuple):
    """A vCPU touched a page that is away. `action`: `inject` (it is told, by a #PF with `token`), `halt`, `wait`."""

    t: int
    vcpu: int
    gpa: int
    access: str
    action: str
    token: int


class Ipi(NamedTuple):
    """A vCPU's local APIC sent a message to the vCPUs `to`. `mode`: `fixed`, `lowest`, `nmi`, `init`, `startup`."""

    t: int
    vcpu: int
    mode: str
    vector: int
    to: tuple[int, ...]


class Trap(NamedTuple):
    """An exception or interrupt delivered through the guest's own IDT; `rip` is where it returns to."""

    t: int
    vcpu: int
    vector: int
    error: int | None
    address: int | None
    rip: int
    kind: str


class Console(NamedTuple):
    """One byte the guest printed."""

    t: int
    vcpu: int
    port: int
    byte: int


class Mark(NamedTuple):
    """The guest marks its read of an area: `begin` with the area's address, `end` with the value returned."""

    t: int
    vcpu: int
    mark: str
    value: int


class Account(NamedTuple):
    """One vCPU's books at this moment; ran + stolen + idle = elapsed, always."""

    t: int
    vcpu: int
    ran_ns: int
    stolen_ns: int
    idle_ns: int
    insns: int
    updates: int


class End(NamedTuple):
    """The last event: why the run ended."""

    t: int
    reason: str
    exit_code: int | None


Event = (
    Begin
    | Switch
    | Wake
    | ExitEvent
    | MsrWrite
    | Store
    | Mmio
    | Swapped
    | PageMissing
    | Ipi
    | Trap
    | Console
    | Mark
    | Account
    | End
)

NAMES = {
    Begin: "begin",
    Switch: "switch",
    Wake: "wake",
    ExitEvent: "exit",
    MsrWrite: "wrmsr",
    Store: "store",
    Mmio: "mmio",
    Swapped: "page",
    PageMissing: "missing",
    Ipi: "ipi",
    Trap: "trap",
    Console: "console",
    Mark: "mark",
    Account: "account",
    End: "end",
}


def to_json(event: Event) -> str:
    """The event as one line of JSON, keys in their declared order, without the newline."""
    return json.dumps({"event": NAMES[type(event)], **event._asdict()}, separators=(",", ":"))
