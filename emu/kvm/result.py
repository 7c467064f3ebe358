"""How a run on KVM ended: the emulator's fields, with what can be known from outside.

In Linux: /proc/<pid>/schedstat, proc_pid_schedstat() in fs/proc/base.c.
"""

from typing import Any, NamedTuple

from emu.devices.steal_time import Area

# As in emu.result, which this room does not know; a test compares.
EXIT, HALTED, TRIPLE_FAULT, INTERRUPTED = "exit", "halted", "triple-fault", "interrupted"
TIME_LIMIT, EXIT_LIMIT, OUTPUT_LIMIT = "time-limit", "exit-limit", "output-limit"


class VcpuResult(NamedTuple):
    """One vCPU's books in nanoseconds of the host's clock: ran + stolen + idle = elapsed, since its thread began.

    `stolen_ns` is the thread's whole run delay. `area` is None where none is registered in RAM.
    """

    id: int
    ran_ns: int
    stolen_ns: int
    idle_ns: int
    elapsed_ns: int
    instructions: None
    updates: None
    msr: int
    area: Area | None


class Result(NamedTuple):
    """How a run ended; fields as in emu.machine.Result, None where KVM does not tell, and `wall_ns` for real time."""

    exit_code: int | None
    reason: str
    virtual_ns: None
    wall_ns: int
    instructions: None
    vcpus: tuple[VcpuResult, ...]
    console: bytes
    fault: None = None
    where: tuple[()] = ()

    def as_json(self) -> dict[str, Any]:
        """The object that --json prints. The console is decoded as UTF-8, with U+FFFD for bytes that are none."""
        vcpus = [{**one._asdict(), "area": None if one.area is None else one.area._asdict()} for one in self.vcpus]
        return {**self._asdict(), "vcpus": vcpus, "console": self.console.decode("utf-8", "replace")}
