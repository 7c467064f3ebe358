"""A guest under test: which program, from which moment on, under which host, and what it claims.

In Linux: nothing like it.
"""

from typing import Any, NamedTuple

from emu import abi, trace
from emu.boot.elf_file import with_entry
from emu.boot.image import Image, needed_ram
from emu.code.symbols import Symbols
from emu.explore.instance import Read as Declared
from emu.explore.instance import read_of
from emu.faults import HostError
from emu.fuzz.records import GROUPS, HOSTILE, HOSTS, LIES, ODD_HOST
from emu.guest import image_of, load_guest
from emu.machine import Machine
from emu.result import LIMITS
from emu.scenario import Config, did_you_mean, from_text
from emu.trace import Event
from emu.vcpu.paging import GIVEN_TABLES, table_pages

_NEVER_PS = 10**18  # no quantum ends by itself
_PROLOGUE_INSNS = 200_000_000  # before the moment at which a guest is entered: a kernel starts up first
_FIRST_STRETCH, _LONGEST_STRETCH = 4096, 1 << 20
_TIMES_PLAIN, _LEAST_INSNS = 8, 2000
REGISTERED = "registered"
DEFAULT_INSNS, MOST_INSNS = 0, 10_000_000


class Target(NamedTuple):
    """`image` on the machine of `config`, entered again and again at the moment `since`: "registered", where the guest
    has registered an area and the host has published in it for the first time, or a symbol.

    An execution is ended after `insns` instructions; 0: some times as many as with a host that does nothing. The guest
    passes where it exits with one of `passes`, or halts. `clamps` says that its clock never goes back, whatever the
    host does, and `also` which groups of events it survives besides (emu.fuzz.records.GROUPS). `read` names a function
    that reads the area and does not mark it, as for `emu explore --read`. `start` is the symbol at which `image` is
    entered; empty: its own entry point. `ram` is such as 64M; empty: as much as the
    program needs.
    """

    image: Image
    name: str
    host: str = ODD_HOST
    since: str = REGISTERED
    insns: int = DEFAULT_INSNS
    passes: tuple[int, ...] = (0,)
    clamps: bool = False
    oracles: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    read: str = ""
    ram: str = ""
    start: str = ""

    @property
    def declared(self) -> Declared | None:
        """Where the read that is declared begins and ends. Raises HostError where it names nothing."""
        return read_of(self.image, self.read) if self.read else None

    @property
    def events(self) -> frozenset[str]:
        """The kinds of events that its host does."""
        kinds = frozenset(kind for group in self.also for kind in GROUPS[group])
        return kinds if self.host == HOSTILE else kinds - LIES

    def config(self) -> Config:
        """A machine on which nothing happens by itself."""
        return Config(
            quantum_ps=_NEVER_PS,
            time_limit_ps=_NEVER_PS,
            ram=from_text({"ram": [self.ram]}).ram if self.ram else needed_ram(self.image),
            insn_limit=_PROLOGUE_INSNS + self.insns,
            exit_limit=_PROLOGUE_INSNS,
        )


def target_of(table: dict[str, Any]) -> Target:
    """A target from a table such as a target's TOML file is. Raises HostError, naming the key, for any slip in it."""
    known = {"guest": str, "host": str, "since": str, "insns": int, "passes": list, "clamps": bool, "read": str}
    known |= {"oracles": list, "also": list, "ram": str, "start": str}
    for key, value in table.items():
        if key not in known:
            raise HostError(f"there is no key {key!r}", "the target", did_you_mean(key, known))
        if type(value) is not known[key]:
            raise HostError(f"{key} cannot be {value!r}", "the target")
    if "guest" not in table:
        raise HostError("the key `guest` is missing", "the target", "name a program, such as my_kernel.elf")
    insns, passes = table.get("insns", DEFAULT_INSNS), table.get("passes", [0])
    if insns and not 100 <= insns <= MOST_INSNS:
        raise HostError(f"insns = {insns} cannot be used", "the target", f"give a number from 100 to {MOST_INSNS:,}")
    if not passes or not all(type(one) is int and 0 <= one <= 255 for one in passes):
        raise HostError(f"passes = {passes} cannot be used", "the target", "list statuses from 0 to 255")
    oracles = table.get("oracles", [])
    if not all(type(one) is str for one in oracles):
        raise HostError(f"oracles = {oracles} cannot be used", "the target", "list such as mine.py:never_zero")
    also = table.get("also", [])
    for one in also:
        if one not in GROUPS:
            raise HostError(f"there is no group of events {one!r}", "--also", did_you_mean(str(one), GROUPS))
    rest: dict[str, Any] = {
        key: table[key] for key in ("host", "since", "clamps", "read", "ram", "start") if key in table
    }
    rest["also"] = tuple(sorted(set(also)))
    image = load_guest(table["guest"])
    if rest.get("start"):
        image = started_at(image, rest["start"])
    found = Target(image, table["guest"], insns=insns, passes=tuple(passes), oracles=tuple(oracles), **rest)
    if found.host not in HOSTS:
        raise HostError(f"there is no host {found.host!r}", "--host", did_you_mean(found.host, HOSTS))
    _ = found.declared, found.config()  # which raise what is wrong
    return found


def started_at(image: Image, name: str) -> Image:
    """The same program, entered at this symbol, in the mode in which its file is entered. Raises HostError where it has
    none of that name, or no code stands there."""
    linear = _address(image, name, "--start")
    gpa = image.gpa_of(linear)
    if not any(one.executable and one.gpa <= gpa < one.gpa + one.size for one in image.rights):
        raise HostError(f"no code stands at {name!r} ({linear:#x})", "--start", "name a function")
    return image_of(with_entry(image.source, gpa), image.where)


def _address(image: Image, name: str, flag: str) -> int:
    symbols = Symbols.of(image.source)
    address = symbols.address(name)
    if address is None:
        raise HostError(f"there is no function {name!r} in the program", flag, did_you_mean(name, symbols.names()))
    return address


class Beginning(NamedTuple):
    """Where an execution begins: a position, and the area that is registered there, or None."""

    position: int
    area: int | None


def bounded(target: Target, plain_insns: int) -> Target:
    """The target with a bound of instructions, if it has none: `plain_insns` are those of a run without the host."""
    return target if target.insns else target._replace(insns=max(_TIMES_PLAIN * plain_insns, _LEAST_INSNS))


def beginning(target: Target) -> Beginning:
    """The moment from which this target is entered. Raises HostError where the guest does not come to it."""
    found: list[int] = []

    def heard(event: Event) -> None:
        if type(event) is trace.MsrWrite and event.msr == abi.MSR_KVM_STEAL_TIME and event.accepted and event.value & 1:
            found.append(machine.arriving())

    machine = Machine(target.image, target.config(), trace=heard)
    if target.since != REGISTERED:
        return _at_symbol(machine, target.since)
    _run_until(machine, found)
    if not found:
        why = "a limit ended it" if machine.reason in LIMITS else f"its end was: {machine.reason}"
        raise HostError(
            f"the guest registers no area ({why})", target.name, "name another moment with --since FUNCTION"
        )
    machine = Machine(target.image, target.config())
    machine.run_to(found[0])
    steal = machine.packages[0].steal
    assert steal is not None
    while machine.reason is None and steal.requested:
        machine.run_to(machine.position + 1)
    return Beginning(machine.position, steal.area_gpa if steal.enabled else None)


def _run_until(machine: Machine, found: list[int]) -> None:
    """Run on until something has been found, or to the end."""
    stretch = _FIRST_STRETCH
    while machine.reason is None and not found:
        machine.run_to(machine.position + stretch)
        stretch = min(2 * stretch, _LONGEST_STRETCH)


def _at_symbol(machine: Machine, name: str) -> Beginning:
    address = _address(machine.image, name, "--since")
    from emu.vcpu.watch import Watch

    found: list[int] = []
    watch = Watch(machine.engine, code=[(address, address)], executed=lambda _: found.append(machine.arriving() - 1))
    _run_until(machine, found)
    watch.close()
    if not found:
        raise HostError(f"the guest never comes to {name}", "--since", "name a function that it calls")
    again = Machine(machine.image, machine.config)
    again.run_to(found[0])
    steal = again.packages[0].steal
    return Beginning(again.position, steal.area_gpa if steal is not None and steal.enabled else None)


def owned(machine: Machine) -> list[tuple[int, int]]:
    """What a guest may store to: all memory for programs but what is not writable, and the stacks above it."""
    found, first = [], abi.GUEST_GPA
    for rights in sorted(machine.image.rights):
        if not rights.writable:
            found.append((first, rights.gpa))
            first = rights.gpa + rights.size
    found.append((first, machine.ram.size))
    return [one for one in found if one[0] < one[1]]


def own_tables(machine: Machine) -> list[int]:
    """The numbers of the pages in which the guest's page tables lie; none where they are those that it was given."""
    found = table_pages(machine.ram, machine.packages[0].vcpu.paging())
    return [] if GIVEN_TABLES.issuperset(found) else found
