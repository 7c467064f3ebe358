"""What a confined program may use, and how its run ended.

In Linux: setrlimit(2); kernel/signal.c ends what goes beyond.
"""

from typing import NamedTuple

# How a run ended, besides by itself.
ENDED, CPU, WALL, MEMORY, OUTPUT = "ended", "cpu", "wall", "memory", "output"


class Limits(NamedTuple):
    """`cpu_s` seconds of CPU time and `wall_s` of waiting, `memory` bytes of it and `output` bytes written to its
    standard output; it makes files of at most `file` bytes each, and other processes only where `processes` are."""

    cpu_s: int = 5
    wall_s: int = 20
    memory: int = 512 << 20
    output: int = 1 << 20
    file: int = 16 << 20
    processes: bool = False
    files: bool = False


class Confined(NamedTuple):
    """How a confined run ended: `status` as the shell says it, what it wrote, and which limit ended it, if one did."""

    status: int
    output: bytes
    errors: bytes
    ended: str
