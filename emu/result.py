"""How a run ended: the reasons, the books, the areas.

In Linux: /proc/<pid>/schedstat for the host's side of the books.
"""

from collections.abc import Sequence
from typing import NamedTuple

from emu.devices.steal_time import Area
from emu.exits import Shutdown
from emu.faults import exception
from emu.state import CpuState

EXIT, HALTED, TRIPLE_FAULT, INTERRUPTED = "exit", "halted", "triple-fault", "interrupted"
TIME_LIMIT, INSN_LIMIT, EXIT_LIMIT, OUTPUT_LIMIT = "time-limit", "insn-limit", "exit-limit", "output-limit"
LIMITS = (TIME_LIMIT, INSN_LIMIT, EXIT_LIMIT, OUTPUT_LIMIT)
RUNNING = "running"


class VcpuResult(NamedTuple):
    """One vCPU's books and steal-time area; times in nanoseconds, ran + stolen + idle = elapsed.

    `area` is None where none is registered in RAM. `stolen_ns` may exceed the area's steal: it counts up to the end,
    the area up to its last update.
    """

    id: int
    ran_ns: int
    stolen_ns: int
    idle_ns: int
    elapsed_ns: int
    instructions: int
    updates: int
    msr: int
    area: Area | None


def _bare(line: str) -> str:
    """`guest.c:7` of `folder/guest.c:7`."""
    return line.rpartition("/")[2]


class TripleFault(NamedTuple):
    """The exception that shut vCPU `vcpu` down: the first of the three, the one to be mended.

    `error` and `address` (CR2) are None where the vector has none; `rip` is the register's value at the instruction
    that faulted, `place` its symbol, offset and source line as far as they are known; `text` tells it in one sentence.
    """

    vcpu: int
    vector: int
    error: int | None
    address: int | None
    rip: int
    place: str
    text: str

    @classmethod
    def of(cls, shutdown: Shutdown, state: CpuState, source: bytes, vcpu: int, *, alone: bool) -> "TripleFault":
        """`shutdown` of vCPU `vcpu`, in `state`, in the program whose file is `source`; `alone` has no other vCPU."""
        from emu.code.places import linear, places

        place = places(source, [linear(state, shutdown.rip)])[0]
        # With a source line at hand the offset into the function says nothing more.
        symbol = place.symbol.partition("+")[0] if place.line else place.symbol
        where = place._replace(symbol=symbol, line=_bare(place.line)).named or f"{place.address:#x}"
        on = "" if alone else f" on vcpu{vcpu}"
        address = "" if shutdown.address is None else f" on {shutdown.address:#x}"
        text = f"triple fault{on}: {exception(shutdown.vector)}{address}, at {where}"
        return cls(vcpu, shutdown.vector, shutdown.error, shutdown.address, shutdown.rip, place.named, text)


class Whereabouts(NamedTuple):
    """Where a vCPU was when its run was cut short. `pc` is a linear address; unknown symbols and lines are empty."""

    vcpu: int
    pc: int
    symbol: str
    line: str

    @classmethod
    def of(cls, states: Sequence[CpuState], source: bytes) -> "tuple[Whereabouts, ...]":
        """The vCPUs in these states, in the program whose file is `source`."""
        from emu.code.places import linear, places

        found = places(source, [linear(state, state.rip) for state in states])
        return tuple(cls(number, *place) for number, place in enumerate(found))

    def __str__(self) -> str:
        symbol, line = f" <{self.symbol}>" if self.symbol else "", f" ({_bare(self.line)})" if self.line else ""
        return f"vcpu{self.vcpu} was at {self.pc:#x}{symbol}{line}"


class Result(NamedTuple):
    """A run's result. `reason` is one of this module's names; `exit_code` the byte written to port 0xF4, else None.

    `virtual_ns` is the virtual time reached, `instructions` the units of guest work of all vCPUs, `console` what was
    printed. `fault` tells of a triple fault; `where` has each vCPU's place, after a limit or an interruption alone.
    """

    exit_code: int | None
    reason: str
    virtual_ns: int
    instructions: int
    vcpus: tuple[VcpuResult, ...]
    console: bytes
    fault: TripleFault | None = None
    where: tuple[Whereabouts, ...] = ()
