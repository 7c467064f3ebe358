"""What a criterion asks: plain data, which says nothing of how it is judged.

In Linux: nothing like it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from emu.scenario import Config

ANSWERS, PROTOCOL = "answers", "protocol"


class Build(NamedTuple):
    """The program builds."""


class Run(NamedTuple):
    """A run on `config` ends with status `exit_code`. What is None or empty is not asked.

    `console` is all that it prints; `<steal 0>` in it stands for what vCPU 0 read last, `<steal all>` for the sum of
    what all did. Each vCPU's area got `updates` at least; each is `registered` at the end, or none; each vCPU made
    `reads` at least, and of them these `properties` hold; so many values were `refused` by the MSR, and survived.
    """

    config: "Config"
    exit_code: int
    console: str | None
    updates: int
    registered: bool | None
    reads: int
    properties: tuple[str, ...]
    refused: int = 0


class Explore(NamedTuple):
    """`properties` hold in every schedule of `instance`, whose program is still to be filled in."""

    settings: Mapping[str, Any]  # what Instance takes besides its image
    properties: tuple[str, ...]


class Device(NamedTuple):
    """A device of ABI `profile` is as it must be in so many `sequences` of up to `length` operations; `judge` is
    ANSWERS (as the reference answers) or PROTOCOL (when it may store what)."""

    profile: str
    seed: int
    sequences: int
    length: int
    operations: tuple[str, ...]
    judge: str = "answers"

    @classmethod
    def told(cls, values: Sequence[Any]) -> "Device":
        """One as JSON has it."""
        profile, seed, sequences, length, operations, judge = values
        return cls(profile, seed, sequences, length, tuple(operations), judge)


class Criterion(NamedTuple):
    """`title` says in one line what must be so."""

    name: str
    kind: str
    title: str
    points: int
    hidden: bool
    ask: Build | Run | Explore | Device
