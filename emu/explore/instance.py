"""What is explored: a guest, the machine it runs on, what the host may do, and how far the search goes."""

from typing import NamedTuple

from emu import clock
from emu.boot.image import Image, needed_ram
from emu.code.disassembly import disassemble
from emu.code.symbols import Symbols
from emu.explore.properties import Own
from emu.faults import HostError
from emu.history.edits import Change, HostStore, HostUpdate
from emu.scenario import Config
from emu.state import GENERAL

# What each update adds to steal: both halves change, so that halves of two updates are never a value of any.
DELTA_NS = (1 << 32) + 1
MAX_UPDATES = 16
JUMP_NS = DELTA_NS  # so that an update which tells of one wait changes both halves as well
_OUTPUT_LIMIT = 16 << 10  # of one run: each byte is an exit, and a guest that prints for ever is to be found out soon
_REGISTERS = frozenset((*GENERAL, *("e" + name[1:] for name in GENERAL if not name[1:].isdecimal())))
_NEVER_PS = 10**6 * clock.UNITS["s"]


class Read(NamedTuple):
    """A read declared from outside: it begins where an instruction of `begins` is executed, and has returned the value
    in `register` where one of `ends` is."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    register: str

    @property
    def names(self) -> tuple[str, ...]:
        """The registers by the names of their 64 bits; of several, each gives 32 of them, the upper ones first."""
        return tuple("r" + name[1:] if name.startswith("e") else name for name in self.register.split("+"))


class Instance(NamedTuple):
    """What is explored.

    `updates` of each vCPU's area are placed: whole ones where `model` is "kvm", else store by store, with steal in
    `halves` or not. `burst` is how many whole updates one step may make, besides single ones.

    `switches` bounds the switches between vCPUs that were not asked for, `jumps` how often the one that runs is made to
    wait for JUMP_NS. `insn_limit` is the longest run, and `state_limit` the most states. With `reads` a run is looked
    at until each vCPU has made so many. `ram` is in bytes; 0: as much as the program needs.
    """

    image: Image
    model: str = "other-cpu"
    updates: int = 2
    halves: bool = False
    burst: int = 1
    vcpus: int = 1
    switches: int = 0
    jumps: int = 0
    read: Read | None = None
    withheld: tuple[str, ...] = ()
    insn_limit: int = 1_000_000
    state_limit: int = 200_000
    properties: frozenset[str] = frozenset()
    own: tuple[tuple[str, Own], ...] = ()
    reads: int = 0
    ram: int = 0

    def config(self) -> Config:
        """A machine on which nothing happens by itself: no task, no quantum that ends."""
        return Config(
            vcpus=self.vcpus,
            quantum_ps=_NEVER_PS,
            ram=self.ram or needed_ram(self.image, self.vcpus),
            without=self.withheld,
            insn_limit=self.insn_limit,
            output_limit=_OUTPUT_LIMIT,
            time_limit_ps=_NEVER_PS,
        )

    def updates_left(self, made: int, under_way: bool, vcpu: int) -> list[Change]:
        """What the host may do next with this vCPU's area, `made` updates having been made or begun."""
        if under_way:
            return [HostStore(vcpu, made * DELTA_NS, self.halves)]
        if made >= self.updates:
            return []
        delay = (made + 1) * DELTA_NS
        found: list[Change] = [
            HostStore(vcpu, delay, self.halves) if self.model == "other-cpu" else HostUpdate(vcpu, delay, 1)
        ]
        if self.burst > 1:
            found.append(HostUpdate(vcpu, delay, self.burst))
        return found


def read_of(image: Image, text: str) -> Read:
    """`function`, `function:register`, or `0xSTART-0xEND:register`. Raises HostError where it names nothing.

    A function's read begins at its first instruction and ends at each of its returns.
    """
    place, _, register = text.partition(":")
    register = register or "rax"
    for name in register.split("+"):
        if name not in _REGISTERS:
            raise HostError(f"there is no register {name!r}", "--read", "name one such as rax or eax, or edx+eax")
    first, dash, last = place.partition("-")
    if dash:
        try:
            return Read((int(first, 16),), (int(last, 16),), register)
        except ValueError:
            raise HostError(f"{place!r} is no pair of addresses", "--read", "write 0x100010-0x100040") from None
    symbols = Symbols.of(image.source)
    start = symbols.address(place)
    symbol = None if start is None else symbols.at(start)
    if start is None or symbol is None or not symbol.size:
        from emu.scenario import did_you_mean

        remedy = did_you_mean(place, symbols.names())
        raise HostError(f"there is no function {place!r} in the program", "--read", remedy)
    code = image.content(start, symbol.size)
    bits = 64 if image.entry.mode == "long" else 32
    ends = [one.address for one in disassemble(code, start, bits, symbol.size) if "ret" in one.text.split()]
    if not ends:
        raise HostError(f"{place} never returns", "--read", "name a function that does, or two addresses")
    return Read((start,), tuple(ends), register)
