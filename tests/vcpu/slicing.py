"""The slicing property: however a run is cut into entries, the guest cannot tell.

Each random program runs several times: in one piece, one unit at a time, in one piece counted by blocks
(emu.vcpu.blocks), the same with each block counted in place as soon as it can be, and in random slices between which
the vCPU is parked for another one, saved and loaded, asked for interrupt windows that nobody uses, counted another way,
or has its code overwritten with the same bytes. Everything must agree: exits with their RIP and count, the state at
every stop, the end, the RAM.

`python -m tests.vcpu.slicing --programs 1000` prints the table; `--first N` and `--programs 1` repeat one program.
"""

import argparse
import random
import sys
import time
from collections import Counter
from typing import Any, NamedTuple

from emu import abi, exits, state
from emu.ram import Ram
from emu.vcpu import delivery
from emu.vcpu.blocks import LONG
from emu.vcpu.engine import Engine
from tests.assemble import assemble_all
from tests.vcpu.board import FLAVOURS, LONG0, SPAN, Board, Flavour
from tests.vcpu.programs import program

UNITS = 600
VECTORS = (0x40, 0x41, 0xF0)
Moment = tuple[int, bytes, int, bool]  # retired, general registers and flags, RIP, interruptible


class Program(NamedTuple):
    """One random program with the code of its companion, which runs on the other vCPU of the same engine."""

    seed: int
    flavour: Flavour
    code: bytes
    companion: bytes
    interrupts: tuple[tuple[int, int], ...]


class Outcome(NamedTuple):
    log: list[tuple[int, exits.Exit]]
    interrupts: list[tuple[int, int, int]]
    moments: dict[int, Moment]
    state: Any
    ram: bytes
    shutdown: exits.Shutdown | None
    slices: int


class Run:
    """One run of a program. `cut` draws the slices: None for a run in one piece, an empty draw for single units."""

    def __init__(self, one: Program, companion: bool) -> None:
        self.one = one
        self.ram = Ram(2 * SPAN)
        self.engine = Engine(self.ram)
        self.main = Board(self.engine, one.flavour, one.code)
        self.other = Board(self.engine, LONG0, one.companion, 1, SPAN) if companion else None
        self.moments: dict[int, Moment] = {}
        self.taken: list[tuple[int, int, int]] = []
        self.slices = 0
        if one.flavour.cpl == 3:
            self._allow_system_calls()

    def _allow_system_calls(self) -> None:
        msrs, at = self.main.msrs, 0x120000
        msrs.wrmsr(abi.MSR_STAR, (abi.SELECTOR_USER_CODE32 << 48) | (abi.SELECTOR_CODE64 << 32))
        msrs.wrmsr(abi.MSR_LSTAR, at)
        msrs.wrmsr(abi.MSR_SYSCALL_MASK, abi.RFLAGS_TF | abi.RFLAGS_IF)
        self.ram.write(at, bytes.fromhex("ffc0480f07"))  # inc eax; sysretq

    def moment(self) -> Moment:
        vcpu, engine = self.main.vcpu, self.engine
        ready = vcpu.interruptible()
        engine.general.read()
        registers = bytes(engine.general.buffer)
        now = vcpu.retired, registers[: 32 * 16] + registers[32 * 17 :], vcpu.rip, ready
        self.moments[vcpu.retired] = now
        return now

    def unsliced(self) -> "Outcome":
        return self._go(lambda left: left, windows=True)

    def by_blocks(self) -> "Outcome":
        self._count_by_blocks(True)
        return self.unsliced()

    def _count_by_blocks(self, wanted: bool) -> None:
        if self.engine.blocks is not None:
            self.engine.blocks.long = 0 if wanted else LONG

    def in_place(self) -> "Outcome":
        self._count_in_place(1)
        return self.by_blocks()

    def _count_in_place(self, calls: int) -> None:
        if self.engine.blocks is not None:
            self.engine.blocks.count_in_place(calls)

    def stepped(self) -> "Outcome":
        return self._go(lambda left: 1, windows=False)

    def sliced(self, rng: random.Random) -> "Outcome":
        def cut(left: int) -> int:
            self._disturb(rng)
            return min(left, rng.randrange(1, rng.choice((3, 9, 40, 300))))

        return self._go(cut, windows=True, idle=lambda: rng.random() < 0.15)

    def _disturb(self, rng: random.Random) -> None:
        self.moment()
        what = rng.random()
        vcpu, other = self.main.vcpu, self.other
        left = UNITS - other.vcpu.retired if other is not None and other.shutdown is None else 0
        if what < 0.3 and other is not None and left > 0:
            other.answer(other.vcpu.enter(min(left, rng.randrange(1, 30))))
        elif what < 0.4:
            before = vcpu.state()
            vcpu.load(before)
            assert vcpu.state() == before, "load(state()) is not identity"
        elif what < 0.5:
            at = self.one.flavour.code + 16 * rng.randrange(max(1, len(self.one.code) // 16))
            self.ram.write(at, self.ram.read(at, 16))
        elif what < 0.7:
            self._count_by_blocks(what < 0.6)
            self._count_in_place(rng.choice((0, 1, 8)))

    def _go(self, cut: Any, *, windows: bool, idle: Any = lambda: False) -> "Outcome":
        main, vcpu = self.main, self.main.vcpu
        due = list(self.one.interrupts)
        while vcpu.retired < UNITS and main.shutdown is None:
            self.moment()
            waiting = bool(due) and due[0][0] <= vcpu.retired
            if waiting and vcpu.interruptible():
                self.taken.append((vcpu.retired, vcpu.rip, due[0][1]))
                main.shutdown = delivery.deliver_interrupt(vcpu, due.pop(0)[1])
                continue
            until = due[0][0] if due and not waiting else UNITS
            budget = cut(max(1, min(UNITS, until) - vcpu.retired))
            before = vcpu.retired
            exit_ = vcpu.enter(budget, window=(waiting or idle()) and windows)
            self.slices += 1
            assert vcpu.used == vcpu.retired - before and 0 <= vcpu.used <= budget, (exit_, vcpu.used, budget)
            if type(exit_) is exits.BudgetSpent:
                assert vcpu.used == budget, (vcpu.used, budget)
            if type(exit_) is exits.InterruptWindow:
                assert vcpu.interruptible(), "a window that is none"
            main.answer(exit_)
        self.moment()
        if self.other is not None:
            self.other.run(UNITS)
        end = main.vcpu.state()
        return Outcome(main.log, self.taken, self.moments, end, bytes(self.ram.bytes), main.shutdown, self.slices)


def differences(reference: Outcome, other: Outcome, name: str) -> list[str]:
    """What differs between two runs of one program, first things first."""
    found = []
    for at in sorted(reference.moments.keys() & other.moments.keys()):
        if reference.moments[at] != other.moments[at]:
            found.append(f"{name}: state at unit {at}: {_apart(reference.moments[at], other.moments[at])}")
            break
    pairs = enumerate(zip(reference.log, other.log, strict=False))
    found += [f"{name}: exit {n}: {a} / {b}" for n, (a, b) in pairs if a != b][:1]
    if len(reference.log) != len(other.log):
        found.append(f"{name}: {len(reference.log)} / {len(other.log)} exits")
    if reference.interrupts != other.interrupts:
        found.append(f"{name}: interrupts {reference.interrupts} / {other.interrupts}")
    if reference.shutdown != other.shutdown:
        found.append(f"{name}: shutdown {reference.shutdown} / {other.shutdown}")
    if reference.state != other.state:
        parts = [f for f in reference.state._fields if getattr(reference.state, f) != getattr(other.state, f)]
        found.append(
            f"{name}: end: "
            + "; ".join(f"{f} {getattr(reference.state, f)} / {getattr(other.state, f)}" for f in parts)
        )
    if reference.ram != other.ram:
        at = next(n for n in range(len(other.ram)) if reference.ram[n] != other.ram[n])
        found.append(f"{name}: RAM from {at:#x}: {reference.ram[at : at + 8].hex()} / {other.ram[at : at + 8].hex()}")
    return found


def _apart(a: Moment, b: Moment) -> str:
    names = (*state.GENERAL, "rflags")
    apart = [f"rip {a[2]:#x} / {b[2]:#x}"] if a[2] != b[2] else []
    for n, name in enumerate(names):
        x, y = (int.from_bytes(m[1][32 * n : 32 * n + 8], "little") for m in (a, b))
        if x != y:
            apart.append(f"{name} {x:#x} / {y:#x}")
    if a[3] != b[3]:
        apart.append(f"interruptible {a[3]} / {b[3]}")
    return ", ".join(apart)


def programs(first: int, count: int) -> list[Program]:
    """Programs number `first` and the `count` - 1 after it; the flavours take turns."""
    found = {}
    companion = assemble_all((program(10**6, LONG0), program(10**6 + 1, LONG0)), LONG0.code, 64)
    for flavour in FLAVOURS:
        seeds = [n for n in range(first, first + count) if FLAVOURS[n % len(FLAVOURS)] is flavour]
        if not seeds:
            continue
        codes = assemble_all(tuple(program(n, flavour) for n in seeds), flavour.code, flavour.bits)
        for seed, code in zip(seeds, codes, strict=True):
            rng = random.Random(f"interrupts {seed}")
            times = sorted(rng.sample(range(1, UNITS), rng.randrange(6)))
            found[seed] = Program(
                seed, flavour, code, companion[seed % 2], tuple((t, rng.choice(VECTORS)) for t in times)
            )
    return [found[n] for n in sorted(found)]


def compare(one: Program, slicings: int = 2) -> tuple[list[str], Outcome, int]:
    """Every difference between the runs of one program; the unsliced run; the number of slices."""
    whole = Run(one, companion=True).unsliced()
    others = [
        ("stepped", Run(one, companion=True).stepped()),
        ("blocks", Run(one, companion=True).by_blocks()),
        ("in place", Run(one, companion=True).in_place()),
    ]
    for n in range(slicings):
        others.append((f"slicing {n}", Run(one, companion=True).sliced(random.Random(f"slices {one.seed} {n}"))))
    stepped = others[0][1]
    found = [line for name, other in others for line in differences(whole, other, name)]
    found += [line for name, other in others[1:] for line in differences(stepped, other, f"{name} against stepped")]
    return found, whole, sum(other.slices for _, other in others)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="the slicing property, on random programs")
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--slicings", type=int, default=2)
    options = parser.parse_args(arguments)
    kinds: Counter[str] = Counter()
    flavours: Counter[str] = Counter()
    slices = units = failed = 0
    began = time.monotonic()
    for one in programs(options.first, options.programs):
        try:
            found, whole, cuts = compare(one, options.slicings)
        except Exception as error:
            found, whole, cuts = [f"{type(error).__name__}: {error}"], None, 0
        if found:
            failed += 1
            print(f"program {one.seed} ({one.flavour.name}):", *found[:4], sep="\n    ", flush=True)
        if whole is not None:
            kinds.update(type(exit_).__name__ for _, exit_ in whole.log)
            kinds.update(f"Fault {exit_.vector}" for _, exit_ in whole.log if type(exit_) is exits.Fault)
            kinds["interrupts delivered"] += len(whole.interrupts)
            kinds["shutdowns"] += whole.shutdown is not None
            units += max(whole.moments)
        flavours[one.flavour.name] += 1
        slices += cuts
    print(f"programs     {options.programs}  (" + ", ".join(f"{n} {c}" for n, c in flavours.items()) + ")")
    print(f"slices       {slices}")
    print(f"instructions {units} in each of {4 + options.slicings} runs")
    for kind, count in sorted(kinds.items()):
        print(f"  {kind:22} {count}")
    print(f"differences  {failed}")
    print(f"seconds      {time.monotonic() - began:.0f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
