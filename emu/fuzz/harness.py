"""Executions of a target by the tens of thousands: the guest alone, from one moment on, with what the host stores.

What a device would have to answer, such as an MSR or CPUID, is not to be had here; then the execution is made exactly,
by `emu.fuzz.exact`, and counts all the same.

In Linux: nothing like it.
"""

import ctypes

from emu import abi, own_code
from emu.faults import HostError
from emu.fuzz.exact import Exact, Told
from emu.fuzz.outcome import Execution, Failure, Own, Read, failure
from emu.fuzz.plan import Plan, plan
from emu.fuzz.records import ELSEWHERE, HOSTILE, INTERRUPT, KINDS, Input, decode, has_events
from emu.fuzz.target import Target, beginning, bounded, own_tables, owned
from emu.machine import Machine
from emu.vcpu.bare import BUDGET, CURRENT_READS, EXIT, HALT, OTHER, READS_GO_ON, Bare
from emu.vcpu.bare import MAP_SIZE as MAP_SIZE

_TRIAL_INSNS = 200_000


class Harness:
    """Executes inputs of `target`. `map` counts edges of the guest, and is never cleared by itself.

    `executions` and `exactly` count all, and those that needed a whole machine. Raises HostError where the target does
    not come to the moment it is to be entered at.
    """

    def __init__(self, target: Target) -> None:
        self.beginning = beginning(target)
        if not target.insns:
            trial = target._replace(insns=_TRIAL_INSNS)
            plain = Exact(trial, self.beginning).run(plan(decode(b"", target.host))).execution
            target = bounded(target, plain.insns if plain.ended != BUDGET else 0)
        self.target = target
        self.executions = self.exactly = 0
        self._machine = Machine(target.image, target.config())
        self._machine.run_to(self.beginning.position)
        vcpu = self._machine.packages[0].vcpu
        area = self.beginning.area
        self.exact = Exact(target, self.beginning)
        self._bare: Bare | None = None
        if self._machine.reason is None:
            tables = own_tables(self._machine)
            if tables:  # then it may call its area by another address than the host does
                self.exact.run(plan(decode(b"", target.host)))
            self._bare = Bare(
                self._machine.engine,
                vcpu.rip,
                insns=target.insns,
                area=area or 0,
                area_size=0 if area is None else abi.KVM_STEAL_TIME_SIZE,
                current=None,
                wide=vcpu.wide,
                owned=owned(self._machine),
                tables=tables,
                alias=self.exact.alias,
            )
        self._at_once = target.events & {INTERRUPT, ELSEWHERE}
        if self._bare is not None:
            self._bare.passing(target.passes)
            self.exact.cover(self._bare)
            declared = target.declared
            if declared is not None:
                self._bare.declare_read(declared.begins, declared.ends, declared.names)
        self._own = [(word, _oracle(word)) for word in target.oracles]
        self._quick = self.is_native and area is not None
        self._kinds = len(KINDS[target.host])
        self._asked = (CURRENT_READS if target.host != HOSTILE else 0) | (READS_GO_ON if target.clamps else 0)
        self._own_map = (ctypes.c_uint8 * MAP_SIZE)()

    @property
    def map(self) -> "ctypes.Array[ctypes.c_uint8]":
        """A counter for each edge, by a hash of its two ends."""
        return self._own_map if self._bare is None else self._bare.map

    def use_map(self, place: int) -> None:
        """Count edges there from now on: MAP_SIZE bytes at this address of the process."""
        if self._bare is not None:
            self._bare.use_map(place)

    @property
    def edges(self) -> int:
        """How many edges of the guest were ever taken."""
        return 0 if self._bare is None else int(self._bare.run.edge_count)

    def blocks(self) -> list[tuple[int, int]]:
        """Address and size of each block of the guest that was ever begun."""
        return [] if self._bare is None else self._bare.blocks()

    @property
    def is_native(self) -> bool:
        """Whether the callbacks in C are in use."""
        return self._bare is not None and self._bare.is_native

    def run(self, data: bytes) -> tuple[Input, Plan, Execution]:
        """Execute what these bytes mean."""
        given = decode(data, self.target.host)
        planned = plan(given)
        return given, planned, self.execute(planned)

    def fails(self, data: bytes) -> Failure | None:
        """What should not have happened with these bytes, if anything did."""
        bare, target = self._bare, self.target
        # An event that needs an exit to be noticed has none here: where there is one, all is done again exactly.
        if bare is None or not self._quick or (self._at_once and has_events(data)):
            before = self.exactly
            _, planned, done = self.run(data)
            return self._judged(planned, done, exactly=self.exactly != before)
        self.executions += 1
        if bare.passes(data, self._kinds, self._asked) and not self._own:
            return None
        ended, grows = bare.last()
        if ended == OTHER:
            self.exactly += 1
            planned = plan(decode(data, target.host))
            return self._judged(planned, self.exact.run(planned).execution, exactly=True)
        well = ended == HALT or (ended == EXIT and bare.run.exit_code in target.passes)
        if (
            well
            and not self._own
            and not bare.suspicious(current=target.host != HOSTILE, forward=grows or target.clamps)
        ):
            return None
        return self._judged(plan(decode(data, target.host)), _told(bare, ended, target.insns), exactly=False)

    def confirmed(self, data: bytes) -> tuple[Failure, Told] | None:
        """What fails with these bytes when a whole machine executes them; None where nothing does."""
        planned = plan(decode(data, self.target.host))
        told = self.exact.run(planned)
        found = self._judged(planned, told.execution, exactly=True)
        return None if found is None else (found, told)

    def _judged(self, planned: Plan, done: Execution, *, exactly: bool) -> Failure | None:
        ram = self.exact.ram if exactly else self._machine.ram
        return failure(self.target, planned, done, ram.load, self._own)

    def execute(self, planned: Plan) -> Execution:
        """Execute these stores."""
        self.executions += 1
        bare = self._bare
        unseen = self._at_once and any(one.kind in self._at_once for one in planned.events)
        if bare is not None and self.beginning.area is not None and not unseen:
            ended = bare.execute(planned.packed())
            if ended != OTHER:
                return _told(bare, ended, self.target.insns)
        self.exactly += 1
        return self.exact.run(planned).execution


def _oracle(word: str) -> Own:
    found = own_code.own(word, "function")
    if not callable(found):
        raise HostError("this is no function", word)
    oracle: Own = found
    return oracle


def _told(bare: Bare, ended: str, insns: int) -> Execution:
    run = bare.run
    reads = []
    for one in run.reads[: run.read_count]:
        # Of most reads nothing but their being legal is asked.
        current = (one.value,) if one.legal else tuple(one.current[: one.count]) if one.known else None
        reads.append(Read(one.area, one.value, current, run.area))
    spent = insns if ended == BUDGET else bare.counter
    return Execution(
        ended,
        run.exit_code,
        spent,
        0 if run.next_play < run.play_count else max(spent - run.last_play, 0),
        run.accesses,
        tuple(reads),
        (run.wrote_offset, run.wrote_size) if run.wrote else None,
        run.wild_at if run.wild else None,
    )
