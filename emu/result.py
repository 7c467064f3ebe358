"""How a run ended: the reasons, the books, the areas.

In Linux: /proc/<pid>/schedstat for the host's side of the books.
"""

from typing import NamedTuple

from emu.devices.steal_time import Area

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


class Result(NamedTuple):
    """A run's result. `reason` is one of this module's names; `exit_code` the byte written to port 0xF4, else None.

    `virtual_ns` is the virtual time reached, `instructions` the units of guest work of all vCPUs, `console` what was
    printed.
    """

    exit_code: int | None
    reason: str
    virtual_ns: int
    instructions: int
    vcpus: tuple[VcpuResult, ...]
    console: bytes
