"""Runs counted by blocks stop where runs do that are counted one by one. (Random programs: test_slicing.py.)"""

import os
import platform
import random
import subprocess
import sys

import pytest

from emu import exits
from emu.compiler import find_compiler
from emu.guest import load_guest
from emu.machine import Config, Machine
from emu.ram import Ram
from emu.vcpu import native
from emu.vcpu.blocks import LONG, Blocks
from emu.vcpu.engine import Engine
from tests import upper_half
from tests.assemble import assemble
from tests.bench.programs import BRANCHY, MEMORY, TIGHT
from tests.vcpu import slicing
from tests.vcpu.board import CODE, LONG0, SPAN, Board

pytestmark = pytest.mark.skipif(native.library() is None, reason="the callbacks in C were not built: no C compiler")

NEVER = 1 << 60
PORTS = assemble("L: add rbx, 3\nmov ecx, 0x4b564d03\nrdmsr\nmov dx, 0x3f8\nout dx, al\nin al, dx\nadd rbx, rax\njmp L")


def board(code: bytes, long: int, calls: int | None = None) -> Board:
    made = Board(Engine(Ram(SPAN)), LONG0, code)
    assert made.vcpu.engine.blocks is not None
    made.vcpu.engine.blocks.long = long
    if calls is not None:
        made.vcpu.engine.blocks.count_in_place(calls)
    return made


def counts_by_blocks(one: Board) -> bool:
    assert one.vcpu.engine.blocks is not None
    return one.vcpu.engine.blocks.counts


def go_alike(one: Board, other: Board, longest: int) -> bool:
    """Enter both for the same random numbers of instructions; whether they stop in the same states."""
    rng = random.Random(7)
    for _ in range(100):
        budget = rng.randrange(1, rng.choice((2, 20, 300, longest)))
        for each in (one, other):
            until = each.vcpu.retired + budget
            while each.vcpu.retired < until:
                each.answer(each.vcpu.enter(until - each.vcpu.retired))
        if one.vcpu.state() != other.vcpu.state():
            return False
    return one.log == other.log


CODES = pytest.mark.parametrize(
    ("code", "longest"),
    [(TIGHT, 60_000), (BRANCHY, 60_000), (MEMORY, 1000), (PORTS, 1000)],
    ids=["tight", "branchy", "page faults", "ports"],
)


@CODES
def test_every_budget_is_met_to_the_instruction(code, longest):
    one, other = board(code, 0), board(code, NEVER)
    assert go_alike(one, other, longest)
    assert counts_by_blocks(one) and not counts_by_blocks(other)


IN_PLACE = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux",
    reason="blocks are counted in place on x86-64 Linux alone",
)


def in_place(one: Board) -> int:
    assert one.vcpu.engine.blocks is not None
    return one.vcpu.engine.blocks.in_place


@IN_PLACE
@CODES
@pytest.mark.parametrize("calls", [1, 64])
def test_blocks_counted_in_place_end_every_run_where_called_ones_do(code, longest, calls):
    one, other = board(code, 0, calls), board(code, 0, 0)
    before = in_place(one), in_place(other)
    assert go_alike(one, other, longest)
    assert in_place(one) > before[0] and in_place(other) == before[1]


@IN_PLACE
def test_blocks_are_counted_in_place_however_far_the_engines_code_is_from_ours():
    # Each engine reserves a gigabyte for what it translates, and a call reaches two.
    boards = [board(TIGHT, 0) for _ in range(5)]
    for one in boards:
        before = in_place(one)
        one.vcpu.enter(10_000)
        assert in_place(one) > before
    assert len({one.vcpu.state() for one in boards}) == 1


@IN_PLACE
def test_a_kernel_in_the_upper_half_is_counted_in_place_as_well(tmp_path):
    image = load_guest(upper_half.build(find_compiler(), tmp_path))

    def end(long: int, calls: int):
        machine = Machine(image, Config(tasks=("busy",), quantum_ps=10**7, insn_limit=10**6))
        blocks = machine.engine.blocks
        assert blocks is not None
        blocks.long = long
        blocks.count_in_place(calls)
        before = blocks.in_place
        while machine.reason is None:
            machine.run_to(machine.position + 777)
        return machine.state(), machine.ram.read(0, machine.ram.size), blocks.in_place - before

    *found, replaced = end(0, 1)
    *counted, called = end(NEVER, 0)
    assert found == counted and replaced > 5 and not called


@IN_PLACE
def test_a_block_too_long_for_the_place_is_counted_by_a_call():
    # Its number of instructions takes four bytes; where these do not fit, all stays as it was.
    code = assemble("L: " + "add rax, 3\n" * 200 + "jmp L")
    one, other = board(code, 0), board(code, NEVER)
    for each in (one, other):
        each.vcpu.enter(201 * 300 + 77)
    assert one.vcpu.state() == other.vcpu.state()


@IN_PLACE
def test_a_count_in_place_that_is_given_back_wrongly_is_noticed():
    one, other = board(TIGHT, 0), board(TIGHT, NEVER)
    for each in (one, other):
        each.vcpu.enter(6 * 200)  # whole blocks: nothing is stepped, and so nothing made anew
    for block in one.vcpu.engine.blocks._table:
        if block.insns == 6:
            block.insns += 1
    for each in (one, other):
        each.vcpu.enter(6 * 500)
    assert one.vcpu.state() != other.vcpu.state()


def test_long_runs_are_counted_by_blocks_and_short_ones_are_not():
    one = board(TIGHT, LONG)
    one.vcpu.enter(1_000_000)
    assert counts_by_blocks(one)
    for _ in range(16):
        one.vcpu.enter(10)
    assert not counts_by_blocks(one)
    for _ in range(16):
        one.vcpu.enter(1_000_000)
    assert counts_by_blocks(one)


@pytest.mark.parametrize("calls", [0, 1])
def test_code_that_becomes_another_count_of_instructions_in_the_same_bytes(calls):
    # Two instructions of one byte each, and one of two bytes, take turns.
    loop = "L: jmp M\nM: nop\nnop\njmp L"
    one, other = board(assemble(loop), 0, calls), board(assemble(loop), NEVER)
    at = CODE + assemble(loop).index(b"\x90\x90")
    for turn in range(12):
        for each in (one, other):
            each.ram.write(at, b"\x66\x90" if turn % 2 else b"\x90\x90")
            each.vcpu.enter(1001)
        assert one.vcpu.state() == other.vcpu.state()


@pytest.mark.parametrize("calls", [0, 1])
def test_a_guest_that_rewrites_its_loop_now_and_then_is_counted_all_the_same(calls):
    # Long enough in between for the loop to be counted in place; then its ADD becomes a SUB, or the other way round.
    source = """
        mov ebx, 40
    L:  mov ecx, 200
    M:  add eax, 3
        dec ecx
        jnz M
        xor byte ptr [rip + M + 1], 0x28
        dec ebx
        jnz L
        hlt
    """
    one, other = board(assemble(source), 0, calls), board(assemble(source), NEVER)
    for budget in (1, 5, 601, 602, 603, 604, 605, 1900, 7, 10**5):
        for each in (one, other):
            if not each.log:
                each.answer(each.vcpu.enter(budget))
        assert one.vcpu.state() == other.vcpu.state()
    assert one.log == other.log and [retired for retired, _ in one.log] == [1 + 40 * (1 + 600 + 3)]


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("cut", [1, 2, 3, 7, 100])
def test_a_store_into_its_own_block_is_one_unit(cut, calls):
    source = "mov ecx, 5\nL: inc byte ptr [rip+T+1]\nnop\nT: mov al, 7\ndec ecx\njnz L\nhlt"
    one = board(assemble(source), 0, calls)
    while not one.log:
        one.answer(one.vcpu.enter(cut))
    assert one.log == [(26, exits.Hlt(CODE + len(assemble(source)) - 1, 1))]
    assert one.vcpu.general("rax") == 12


def test_more_blocks_than_are_kept_are_counted_all_the_same():
    code = b"\xeb\x00" * 40_000 + b"\xf4"  # as many jumps to the next instruction
    one = board(code, 0)
    one.vcpu.enter(10**6)
    assert one.vcpu.retired == 40_000


def test_a_wrong_count_in_mid_block_is_noticed(monkeypatch):
    right = Blocks._in_block
    monkeypatch.setattr(Blocks, "_in_block", lambda blocks: place + 1 if (place := right(blocks)) else place)
    programs = slicing.programs(0, 5)
    whole, by_blocks = slicing.Run(programs[0], True).unsliced(), slicing.Run(programs[0], True).by_blocks()
    assert slicing.differences(whole, by_blocks, "planted")


def test_random_programs_end_alike_with_the_engines_own_count(monkeypatch):
    programs = slicing.programs(500, 15)
    here = [slicing.Run(one, True).by_blocks() for one in programs]
    monkeypatch.setattr("emu.vcpu.engine.native.library", lambda: None)
    for one, by_blocks in zip(programs, here, strict=True):
        counted = slicing.Run(one, True)
        assert counted.engine.blocks is None
        assert slicing.differences(counted.unsliced(), by_blocks, f"program {one.seed}") == []


def test_a_machine_without_the_callbacks_in_c_leaves_the_same_trace():
    code = (
        "from tests.test_determinism import trace_hash\n"
        "print(trace_hash('clock', {'vcpus': 2, 'tasks': ('busy',), 'quantum_ps': 10**9}))"
    )

    def found(value: str) -> str:
        environment = {**os.environ, "EMU_NATIVE": value}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert found("0") == found("1") != ""
