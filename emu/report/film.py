"""A stretch of a run as frames: at each position what each party is doing, and what has just happened.

A frame says only what is another than in the frame before; whoever shows the film adds them up once, and can then go
to any of them. Numbers of 64 bits are text in it, as a reader in JavaScript would round them.

In Linux: nothing like it; the tutor programs that step through small programs in a browser are the example.
"""

from typing import Any

from emu import abi
from emu.code.disassembly import LONGEST, disassemble
from emu.code.places import places
from emu.code.symbols import Symbols
from emu.explain.events import sentence
from emu.explain.step import Step, bits_of, take
from emu.history import edits
from emu.history.history import History
from emu.machine import Machine
from emu.state import GENERAL
from emu.trace import Console, Event, ExitEvent, Store, Switch, Trap, Wake
from emu.view.standing import Lines, area_in, text_of

MOST_FRAMES = 20_000
REGISTERS = (*GENERAL, "rip", "rflags")
# What a frame has to do with, as bits.
EXIT, STORE, TRAP, ACCESS, HOST, EDIT, ODD, EVEN = (1 << bit for bit in range(8))
_FUNCTION_MAX = 1 << 12
_STATES = {"running": "runs", "waiting": "waits", "blocked": "sleeps"}
_MSRS = {
    abi.MSR_KVM_STEAL_TIME: "MSR_KVM_STEAL_TIME",
    abi.MSR_KVM_SYSTEM_TIME_NEW: "MSR_KVM_SYSTEM_TIME_NEW",
    abi.MSR_KVM_ASYNC_PF_EN: "MSR_KVM_ASYNC_PF_EN",
    abi.MSR_KVM_PV_EOI_EN: "MSR_KVM_PV_EOI_EN",
}


class Film:
    """The frames of `history` from where it stands, as far as `shoot` is called; `lines` is the program's source.

    `heard` is the list that the trace of the history is appended to; nothing of what is filmed was told before.
    """

    def __init__(self, history: History, lines: Lines, heard: list[Event]) -> None:
        self._history = history
        self._lines = lines
        self._heard = heard
        self._symbols = Symbols.of(history.machine.image.source)
        self._code: dict[int, int] = {}  # address -> its place in the table
        self._table: list[list[Any]] = []
        self._texts: dict[str, int] = {}
        self._known: dict[Any, Any] = {}
        self._frames: list[list[Any]] = []
        self._sparse: dict[str, list[list[Any]]] = {"area": [], "msr": [], "host": [], "out": []}
        self._edits = {edit.position: edit.change for edit in history.edits}
        self.first = history.position
        before = history.between(self.first, self.first) if self.first else [(0, event) for event in heard]
        heard.clear()
        self._frame(None, [one for _, event in before if (one := sentence(history.machine, event))], 0)

    def shoot(self) -> None:
        """One frame more."""
        step = take(self._history, self._heard)
        told = list(step.sentences)
        kind = _kind(step)
        if (change := self._edits.get(step.position)) is not None:
            told.insert(0, f"edit: {edits.told(change)}")
            kind |= EDIT
        self._frame(step, told, kind)

    @property
    def count(self) -> int:
        """How many frames there are."""
        return len(self._frames)

    def data(self) -> dict[str, Any]:
        """All of it. A frame is [time, acting vCPU, next instruction, who did, what instruction, texts, kind, changes].

        The time is the difference to the frame before, in ns; an instruction is a place in `code`, -1 for none; `texts`
        are places in the table of that name; `changes` are registers of the acting vCPU and their values, in turn.
        """
        config = self._history.machine.config
        return {
            "first": self.first,
            "frames": self._frames,
            "code": self._table,
            "texts": list(self._texts),
            "registers": list(REGISTERS),
            "vcpus": config.vcpus,
            "entities": [entity.name for entity in self._entities()],
            "msrs": list(_MSRS.values()),
            **self._sparse,
        }

    # --- one frame ---------------------------------------------------------------------------------------------------

    def _frame(self, step: Step | None, told: list[str], kind: int) -> None:
        machine = self._history.machine
        number = len(self._frames)
        acting = -1 if machine.reason is not None or machine.acting is None else machine.acting.number
        shown = max(acting, 0) if step is None or step.who is None or acting >= 0 else step.who
        state = machine.packages[shown].vcpu.state()
        at = machine.packages[shown].vcpu.pc()
        bits = bits_of(state)
        changes: list[Any] = []
        for register, value in enumerate((*state.general, state.rip, state.rflags)):
            if self._new(("register", shown, register), value):
                changes += [register, f"{value:x}"]
        elapsed = machine.now_ns - self._known.get("now", 0)
        self._known["now"] = machine.now_ns
        did, what = (-1, -1) if step is None or step.who is None else (step.who, self._place(step.address, bits))
        texts = [self._texts.setdefault(one, len(self._texts)) for one in told]
        self._frames.append([elapsed, shown, self._place(at, bits), did, what, texts, kind, changes])
        self._look(machine, number)
        printed = bytes([event.byte for event in step.events if isinstance(event, Console)] if step else [])
        if printed:
            self._sparse["out"].append([number, printed.decode("latin-1")])

    def _look(self, machine: Machine, number: int) -> None:
        for package in machine.packages:
            area = None
            if package.steal is not None and (read := area_in(machine, package)) is not None:
                gpa = f"{package.steal.area_gpa:x}"
                area = [gpa, str(read.steal), read.version, read.flags, read.preempted]
            if self._new(("area", package.number), area):
                self._sparse["area"].append([number, package.number, area])
            devices = (package.steal, package.clock, package.async_pf, package.pv_eoi)
            for place, (msr, device) in enumerate(zip(_MSRS, devices, strict=True)):
                if device is not None and self._new(("msr", package.number, msr), value := package.msrs.rdmsr(msr)):
                    self._sparse["msr"].append([number, package.number, place, f"{value:x}"])
        for place, entity in enumerate(self._entities()):
            state = _STATES[entity.run_state], entity.pcpu, entity.since_ps // 1000
            if self._new(("host", place), state):
                self._sparse["host"].append([number, place, *state])

    def _new(self, key: Any, value: Any) -> bool:
        changed = key not in self._known or self._known[key] != value
        self._known[key] = value
        return changed

    def _entities(self) -> list[Any]:
        host = self._history.machine.host
        return [*host.vcpus, *host.tasks]

    # --- the program -------------------------------------------------------------------------------------------------

    def _place(self, address: int, bits: int) -> int:
        if address not in self._code:
            symbol = self._symbols.at(address)
            whole = symbol is not None and 0 < symbol.size <= _FUNCTION_MAX
            begin = symbol.address if whole and symbol is not None else address
            size = symbol.size if whole and symbol is not None else LONGEST
            code = self._history.machine.packages[0].vcpu.read_linear(begin, size)
            found = disassemble(code, begin, bits, size if whole else 1)
            if all(one.address != address for one in found):  # a jump into the middle of an instruction
                found = disassemble(code[address - begin :] or b"\0", address, bits, 1)
            where = places(self._history.machine.image.source, [one.address for one in found])
            for one, place in zip(found, where, strict=True):
                if one.address not in self._code:
                    name = place.symbol.partition("+")[0]
                    line = place.line.rpartition("/")[2]
                    self._code[one.address] = len(self._table)
                    self._table.append([f"{one.address:x}", one.text, name, line, text_of(place.line, self._lines)])
        return self._code[address]


def _kind(step: Step) -> int:
    kind = ACCESS if step.accessed else 0
    for event in step.events:
        if isinstance(event, ExitEvent):
            kind |= EXIT
        elif isinstance(event, Trap):
            kind |= TRAP
        elif isinstance(event, Switch | Wake):
            kind |= HOST
        elif isinstance(event, Store):
            kind |= STORE
            if event.area == "steal-time" and event.step in ("odd", "even"):
                kind |= ODD if event.step == "odd" else EVEN
    return kind
