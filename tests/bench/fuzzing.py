"""Executions a second of a guest under test, beside a loop without coverage and a harness as the binding invites to."""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unicorn import Uc, unicorn_const, x86_const

from emu import abi
from emu.fuzz.harness import Harness
from emu.fuzz.plan import plan
from emu.fuzz.records import ODD_HOST, decode
from emu.fuzz.target import Target, owned
from emu.guest import load_guest
from emu.machine import Machine
from emu.vcpu import bare
from emu.vcpu.bare import Bare

GUEST = """#include "steal.h"

static uint64_t steal_clock(const volatile struct kvm_steal_time *area)
{
    uint32_t version;
    uint64_t steal;
    int tries = 0;
    do {
        version = area->version;
        barrier();
        steal = area->steal;
        barrier();
    } while ((version & 1 || version != area->version) && ++tries < 64);
    return steal;
}

int main(uint32_t cpu, uint32_t ncpus)
{
    (void)ncpus;
    uint64_t last = 0, mixed = 0;
    if (!steal_offered(cpu))
        return EXIT_NO_FEATURE;
    steal_register(&steal_areas[cpu]);
    for (int i = 0; i < 30; i++) {
        uint64_t now = steal_clock(&steal_areas[cpu]);
        if (now < last)
            now = last;
        last = now;
        for (int j = 0; j < 4; j++)
            mixed = mixed * 3 + now;
    }
    return mixed == 1 ? EXIT_FAIL : EXIT_PASS;
}
"""
_INPUTS, _ROUNDS, _ATHERIS_S = 500, 3, 5.0


def rows() -> dict[str, Any]:
    """Executions a second of each kind, medians of interleaved rounds; and the mean of instructions executed."""
    folder = Path(tempfile.mkdtemp())
    try:
        source = folder / "reference.c"
        source.write_text(GUEST)
        return _measured(str(source), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(name: str, folder: Path) -> dict[str, Any]:
    target = Target(load_guest(name), name)
    harness = Harness(target)
    inputs = _inputs()
    plans = [plan(decode(one, ODD_HOST)).packed() for one in inputs]
    assert harness._bare is not None
    insns = []
    for one in plans:
        harness._bare.execute(one)
        insns.append(min(harness._bare.counter, harness.target.insns))
    without = _bare(harness, covers=False)
    native, bare.native.library = bare.native.library, lambda: None
    try:
        plain = _bare(harness, covers=True)
    finally:
        bare.native.library = native
    idiom = _Idiom(harness)
    kinds: dict[str, Callable[[], object]] = {
        "bare loop": lambda: [harness._bare.execute(one) for one in plans],
        "bare loop, no coverage": lambda: [without.execute(one) for one in plans],
        "decoded and judged": lambda: [harness.fails(one) for one in inputs],
        "callbacks in Python": lambda: [plain.execute(one) for one in plans[:50]],
        "plain binding": lambda: [idiom.execute() for _ in range(50)],
    }
    counts = {"callbacks in Python": 50, "plain binding": 50}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(_ROUNDS):
        for kind, loop in kinds.items():
            begun = time.perf_counter()
            loop()
            found[kind].append(counts.get(kind, len(plans)) / (time.perf_counter() - begun))
    speeds: dict[str, Any] = {kind: sorted(some)[_ROUNDS // 2] for kind, some in found.items()}
    speeds["atheris"] = _atheris(name, folder)
    speeds["insns"] = sum(insns) / len(insns)
    return speeds


def _inputs() -> list[bytes]:
    rng = random.Random(0)
    steps = range(_INPUTS)
    return [
        rng.randbytes(4)
        + b"".join(bytes((rng.randrange(256), rng.randrange(40))) + rng.randbytes(4) for _ in range(rng.randrange(9)))
        for _ in steps
    ]


def _bare(harness: Harness, *, covers: bool) -> Bare:
    machine = Machine(harness.target.image, harness.target.config())
    machine.run_to(harness.beginning.position)
    vcpu, area = machine.packages[0].vcpu, harness.beginning.area
    assert area is not None
    made = Bare(
        machine.engine,
        vcpu.rip,
        insns=harness.target.insns,
        area=area,
        area_size=abi.KVM_STEAL_TIME_SIZE,
        current=None,
        wide=vcpu.wide,
        owned=owned(machine),
        covers=covers,
    )
    made.machine = machine  # type: ignore[attr-defined] # its memory must live as long
    return made


class _Idiom:
    """The same stretch of the guest on a plain engine, by the binding's own methods, the host doing nothing."""

    def __init__(self, harness: Harness) -> None:
        machine = Machine(harness.target.image, harness.target.config())
        machine.run_to(harness.beginning.position)
        state = machine.packages[0].vcpu.state()
        uc = self._uc = Uc(unicorn_const.UC_ARCH_X86, unicorn_const.UC_MODE_64)
        uc.mem_map(0, machine.ram.size)
        uc.mem_write(0, bytes(machine.ram.bytes))
        for name, value in zip(("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"), state.general, strict=False):
            uc.reg_write(getattr(x86_const, f"UC_X86_REG_{name.upper()}"), value)
        self._rip = state.rip
        self._map = bytearray(1 << 13)
        area = harness.beginning.area
        assert area is not None
        uc.hook_add(unicorn_const.UC_HOOK_MEM_READ, lambda *_: None, None, area, area + 63)
        uc.hook_add(unicorn_const.UC_HOOK_BLOCK, self._block)
        uc.hook_add(unicorn_const.UC_HOOK_INSN, lambda uc, *_: uc.emu_stop(), None, 1, 0, x86_const.UC_X86_INS_OUT)
        self._context = uc.context_save()

    def _block(self, _uc: Uc, address: int, _size: int, _data: object) -> None:
        at = (address >> 4 ^ address) & 0x1FFF
        self._map[at] = (self._map[at] + 1) & 255

    def execute(self) -> None:
        self._uc.context_restore(self._context)
        self._uc.emu_start(self._rip, 1 << 47, count=20_000)


def _atheris(name: str, folder: Path) -> float | None:
    job = {"target": {"guest": name}, "out": str(folder / "out"), "engine": "atheris", "seed": 1, "seconds": _ATHERIS_S}
    words = [sys.executable, "-m", "emu.fuzz.worker", json.dumps({**job, "sweep": False})]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if not lines:
        return None
    last = json.loads(lines[-1])
    return float(last["executions"] / last["seconds"])
