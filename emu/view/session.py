"""A session with a run: words that move the cursor or change the run, and lines that say what came of them.

The words are those of a debugger, and some that make the user the hypervisor. Whatever shows a session (line by line,
or a whole screen) gives it words and prints its lines; it knows nothing of terminals.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from emu import abi
from emu.code.disassembly import LONGEST, disassemble
from emu.code.places import Place, places
from emu.code.symbols import Symbols
from emu.explain.events import sentence
from emu.explain.question import Question, ask
from emu.explain.step import Step, bits_of, instruction, take
from emu.faults import HostError
from emu.history import edits, where
from emu.history.conditions import At, Condition, Touches, happens, version_parity
from emu.history.edits import Change, HostStore, Preempt, SetMemory, SetMsr, SetRegister, TakeAway
from emu.history.history import History
from emu.machine import Machine
from emu.scenario import did_you_mean
from emu.state import GENERAL
from emu.view import standing

Lines = standing.Lines
MOST_STEPS = 200  # told one by one
_SOURCE_WIDTH = 48
_DELTA_NS = 1_000_000
_DUMPED = 64  # bytes: an area, a cache line
_NUMBER = re.compile(r"0x[0-9a-f]{1,16}|[0-9]{1,20}", re.I)


class Word(NamedTuple):
    """One word of the table: what it is called, also by a letter, its arguments, and what it does."""

    name: str
    short: str
    arguments: str
    help: str


WORDS = (
    Word("step", "s", "[N]", "one thing further, or N: an instruction, or what the host does"),
    Word("back", "b", "[N]", "one thing back, or N"),
    Word("over", "o", "", "an instruction, and a call as a whole"),
    Word("out", "u", "", "to where this function returns to"),
    Word("to", "t", "WHERE", "on to the next place: main, guest.c:12, 0x100010, rax, mem:areas/8, event:wrmsr, 500"),
    Word("last", "l", "WHERE", "back to the last such place"),
    Word("odd", "", "", "on to where the version becomes odd: the host is inside an update"),
    Word("update", "n", "", "on to the end of the next update"),
    Word("exit", "x", "", "on to the next exit from guest mode"),
    Word("read", "r", "", "on to the next read of the area by the guest"),
    Word("run", "c", "", "to the end of the run"),
    Word("start", "", "", "to its beginning"),
    Word("where", "w", "", "what is there: code, registers, area"),
    Word("area", "a", "", "the steal-time areas, in words"),
    Word("host", "h", "", "the host's side: who runs, who waits, since when"),
    Word("console", "", "", "what the guest has printed so far"),
    Word("store", "", "[VCPU]", "be the host: make its next store of an update"),
    Word("preempt", "p", "[WHO]", "be the host: give the pCPU to one who waits"),
    Word("wait", "", "NS", "be the host: keep the vCPU waiting for so many nanoseconds"),
    Word("set", "", "WHAT=VALUE", "change a register (rax=5), memory (mem:0x1000=ff00) or an MSR (msr:0x4b564d03=0)"),
    Word("guess", "g", "[ANSWER]", "be asked what the next step does; then answer, and see"),
    Word("msrs", "", "", "the paravirtual MSRs of each vCPU"),
    Word("mem", "m", "[WHERE]", "64 bytes of memory: at an address, a symbol or a register; else the area"),
    Word("edits", "", "", "what was changed in this run"),
    Word("help", "?", "", "these words"),
    Word("quit", "q", "", "the end of the session"),
)


class Session:
    """One user's way through `history`; `lines` is the program's source."""

    def __init__(self, history: History, lines: Lines) -> None:
        self.history = history
        self.lines = lines
        self.over = False
        self._question: tuple[int, int, Question] | None = None
        self.right, self.asked = 0, 0
        self.symbols = Symbols.of(history.machine.image.source)
        self._places: dict[int, Place] = {}
        self._do: dict[str, Callable[[str], list[str]]] = {word.name: getattr(self, f"_{word.name}") for word in WORDS}
        self._short = {word.short: word.name for word in WORDS if word.short}

    @property
    def machine(self) -> Machine:
        """What is looked at."""
        return self.history.machine

    @property
    def question(self) -> Question | None:
        """What was asked and is not answered yet; whoever goes elsewhere or changes something has given up on it."""
        if self._question is None or self._question[:2] != (self.history.position, len(self.history.edits)):
            return None
        return self._question[2]

    def say(self, line: str) -> list[str]:
        """Do what a line of words asks for; what came of it, in lines. Raises HostError for words that mean nothing.

        An empty line is a step.
        """
        word, _, rest = line.strip().partition(" ")
        name = self._short.get(word, word) if word else "step"
        if name not in self._do:
            raise HostError(f"there is no word {word!r}", remedy=did_you_mean(word, self._do) or "say help")
        return self._do[name](rest.strip())

    def places(self, addresses: Sequence[int]) -> dict[int, Place]:
        """Where these addresses are in the program; reading its line table takes a while, so each is looked up once."""
        unknown = [address for address in addresses if address not in self._places]
        if unknown:
            self._places |= {one.address: one for one in places(self.machine.image.source, unknown)}
        return self._places

    def here(self) -> str:
        """One line on where the cursor stands."""
        machine, history = self.machine, self.history
        at = f"{history.position:,}"
        if history.ended:
            return f"[{at}] the run is over: {machine.reason}"
        number = self._vcpu()
        address = machine.packages[number].vcpu.pc()
        place = self.places([address])[address]
        source = standing.text_of(place.line, self.lines).partition(" // ")[0][:_SOURCE_WIDTH].rstrip()
        shown = f"{place.line.rpartition('/')[2]}  {source}" if source else place.symbol or f"{address:#x}"
        return f"[{at}] {machine.now_ns:,} ns, vcpu{number} at {shown}  | {instruction(machine, number)}"

    # --- moving ------------------------------------------------------------------------------------------------------

    def _step(self, rest: str) -> list[str]:
        count = _count(rest)
        if self.history.ended:
            return [self.here()]
        if count > MOST_STEPS:
            self.history.step(count)
            return [self.here()]
        told = [line for _ in range(count) for line in told_of(take(self.history))]
        return [*told, self.here()]

    def _back(self, rest: str) -> list[str]:
        self.history.back(_count(rest))
        return [self.here()]

    def _over(self, rest: str) -> list[str]:
        number = self._vcpu()
        vcpu = self.machine.packages[number].vcpu
        text = instruction(self.machine, number)
        if not text.startswith("call"):
            return self._step("")
        stack, behind = vcpu.general("rsp"), self._behind(number)
        while self.history.run_to(At((behind,), number)):
            if vcpu.general("rsp") >= stack:
                break
        return [self.here()]

    def _out(self, rest: str) -> list[str]:
        number = self._vcpu()
        vcpu = self.machine.packages[number].vcpu
        function = self.symbols.at(vcpu.pc())
        if function is None:
            raise HostError("no function is known here, so there is no way out of it", remedy="say step, or to WHERE")
        begun = vcpu.general("rsp")
        while not self.history.ended:
            text = instruction(self.machine, number)
            if text.startswith("ret") and vcpu.general("rsp") >= begun and self._vcpu() == number:
                return self._step("")
            self.history.step()
        return [self.here()]

    def _to(self, rest: str) -> list[str]:
        if not rest:
            raise HostError("say where to go", remedy="such as `to main`, or `to version:odd`")
        return self._went(lambda: where.travel(self.history, rest), rest)

    def _last(self, rest: str) -> list[str]:
        if not rest:
            raise HostError("say where to go back to", remedy="such as `last main`")
        return self._went(lambda: where.travel(self.history, rest, last=True), rest)

    def _odd(self, rest: str) -> list[str]:
        return self._run_to(version_parity(self.machine, True, self._vcpu()), "an odd version")

    def _update(self, rest: str) -> list[str]:
        return self._run_to(happens("store", area="steal-time", step="even"), "an update")

    def _exit(self, rest: str) -> list[str]:
        return self._run_to(happens("exit"), "an exit")

    def _read(self, rest: str) -> list[str]:
        ranges = [
            (package.steal.area_gpa, abi.KVM_STEAL_TIME_SIZE)
            for package in self.machine.packages
            if package.steal is not None and package.steal.enabled
        ]
        if not ranges:
            raise HostError("no steal-time area is registered yet", remedy="say `to event:wrmsr`")
        return self._run_to(Touches(tuple(ranges), physical=True), "a read of the area")

    def _run(self, rest: str) -> list[str]:
        self.history.end()
        return [self.here()]

    def _start(self, rest: str) -> list[str]:
        self.history.go(0)
        return [self.here()]

    # --- looking -----------------------------------------------------------------------------------------------------

    def _where(self, rest: str) -> list[str]:
        return standing.render(self.machine, self.lines)

    def _area(self, rest: str) -> list[str]:
        return [f"vcpu{number}: {standing.area_of(self.machine, number)}" for number in self._vcpus()]

    def _host(self, rest: str) -> list[str]:
        found = []
        host, now_ps = self.machine.host, self.machine.now_ns * 1000
        for entity in (*host.vcpus, *host.tasks):
            waits = "waits (steal)" if entity.is_vcpu else "waits"
            state = {"running": "runs", "waiting": waits, "blocked": "sleeps"}
            on = f" on pCPU {entity.pcpu}" if entity.pcpu is not None else ""
            books = entity.books(max(now_ps, entity.since_ps))
            since = f"since {entity.since_ps // 1000:,} ns"
            sums = f"ran {books.ran_ns:,}, waited {books.stolen_ns:,}, slept {books.idle_ns:,} ns"
            found.append(f"{entity.name} {state[entity.run_state]}{on}, {since}; {sums}")
        return found

    def _console(self, rest: str) -> list[str]:
        text = bytes(self.machine.console.output).decode("utf-8", "replace")
        return text.splitlines() or ["nothing was printed yet"]

    def _edits(self, rest: str) -> list[str]:
        found = [f"[{edit.position:,}] {edits.told(edit.change)}" for edit in self.history.edits]
        return found or ["nothing was changed"]

    def _help(self, rest: str) -> list[str]:
        width = max(len(f"{word.name} {word.arguments}") for word in WORDS)
        return [f"{f'{word.name} {word.arguments}':<{width}}  {word.short or ' '}  {word.help}" for word in WORDS]

    def _quit(self, rest: str) -> list[str]:
        self.over = True
        return []

    def _guess(self, rest: str) -> list[str]:
        if self.question is None:
            if rest:
                raise HostError("nothing was asked yet", remedy="say guess")
            asked = ask(self.history)
            if asked is None:
                return ["there is nothing to guess in the next step", self.here()]
            self._question = self.history.position, len(self.history.edits), asked
            choices = [f"  {number} {one}" for number, one in enumerate(asked.choices, 1)]
            return [f"? {asked.text}", *choices, "say guess and your answer"]
        question, right = self.question, self.question.judge(rest)
        if right is None:
            known = ", ".join((*question.choices, f"1 to {len(question.choices)}")) if question.choices else "a number"
            raise HostError(f"{rest!r} is no answer to that", remedy=f"answer {known}")
        self._question = None
        self.asked += 1
        self.right += right
        shown = question.right if question.choices else f"{int(question.right):#x}"
        verdict = f"right: {shown}" if right else f"no, it is {shown}"
        return [f"{verdict}   ({self.right} of {self.asked} so far)", *self._step("")]

    def _msrs(self, rest: str) -> list[str]:
        return [
            f"vcpu{package.number} {name} = {value:#x}"
            for package in self.machine.packages
            for name, value in standing.paravirtual(package)
        ]

    def _mem(self, rest: str) -> list[str]:
        return standing.dump(self.machine, self.memory_at(rest), _DUMPED)

    def memory_at(self, text: str) -> int:
        """The address that `text` names: a number, a symbol, a register; the area, or the stack, for the empty text."""
        package = self.machine.packages[self._vcpu()]
        if not text:
            steal = package.steal
            return steal.area_gpa if steal is not None and steal.enabled else package.vcpu.general("rsp")
        if text in GENERAL:
            return package.vcpu.general(text)
        address = self.symbols.address(text)
        return _number(text) if address is None else address

    # --- being the host, and changing things -------------------------------------------------------------------------

    def _store(self, rest: str) -> list[str]:
        number = _number(rest) if rest else self._vcpu()
        if not 0 <= number < self.machine.config.vcpus:
            raise HostError(f"there is no vCPU {number}", remedy=f"there are {self.machine.config.vcpus}, from 0")
        package = self.machine.packages[number]
        if package.steal is None or not package.steal.enabled:
            raise HostError(f"vCPU {number} wants no updates", remedy="go to where it registers an area")
        under_way = package.steal.under_way is not None
        return self._edited(HostStore(number, package.added_ns + (0 if under_way else _DELTA_NS), False))

    def _preempt(self, rest: str) -> list[str]:
        waiting = self.machine.host.waiting_for(0)
        if not rest and not waiting:
            raise HostError("nobody waits for pCPU 0", remedy="say wait NS, or begin with --task busy")
        return self._edited(Preempt(0, rest or waiting[0]))

    def _wait(self, rest: str) -> list[str]:
        return self._edited(TakeAway(0, _number(rest)))

    def _set(self, rest: str) -> list[str]:
        what, equals, value = rest.partition("=")
        if not equals:
            raise HostError("say what becomes what", remedy="such as `set rax=5` or `set mem:0x140000=00ff`")
        kind, colon, place = what.partition(":")
        if not colon:
            return self._edited(SetRegister(self._vcpu(), what, _number(value)))
        if kind == "msr":
            return self._edited(SetMsr(self._vcpu(), _number(place), _number(value)))
        if kind == "mem":
            try:
                return self._edited(SetMemory(_number(place), bytes.fromhex(value)))
            except ValueError:
                raise HostError(f"{value!r} are no bytes in hexadecimal", remedy="such as 00ff12") from None
        raise HostError(f"there is no {kind!r} to set", remedy="a register, mem:ADDRESS or msr:NUMBER can be")

    def _edited(self, change: Change) -> list[str]:
        at = self.history.position
        before = len(self.history.between(at, at, of_edits=True))
        self.history.edit(change)
        new = self.history.between(at, at, of_edits=True)[before:]
        told = [f"  {one}" for _, event in new if (one := sentence(self.machine, event))]
        return [*told, "from here on this is another run", self.here()]

    # --- how it is done ----------------------------------------------------------------------------------------------

    def _run_to(self, condition: Condition, what: str) -> list[str]:
        return self._went(lambda: self.history.run_to(condition), what)

    def _went(self, travel: Callable[[], bool], what: str) -> list[str]:
        """Go there; where that does not come to pass the cursor stays."""
        at = self.history.position
        if travel():
            return [self.here()]
        self.history.go(at)
        return [f"{what} does not come to pass any more", self.here()]

    def _vcpu(self) -> int:
        return standing.acting(self.machine)

    def _vcpus(self) -> range:
        return range(self.machine.config.vcpus)

    def _behind(self, number: int) -> int:
        vcpu = self.machine.packages[number].vcpu
        code = vcpu.read_linear(vcpu.pc(), LONGEST)
        return vcpu.pc() + len(disassemble(code, vcpu.pc(), bits_of(vcpu.state()), 1)[0].code)


def told_of(step: Step) -> list[str]:
    """The lines on one step: the instruction, and the sentences on it."""
    head = f"vcpu{step.who} {step.line.rpartition('/')[2] or step.symbol}  {step.text}" if step.who is not None else ""
    sentences = [f"  {one}" for one in step.sentences]
    return [head, *sentences] if head else sentences


def _count(text: str) -> int:
    return _number(text) if text else 1


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise HostError(f"{text!r} is no number", remedy="such as 12 or 0x1000")
    return int(text, 16) if text.lower().startswith("0x") else int(text)
