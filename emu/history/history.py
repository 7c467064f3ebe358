"""A run as one history that can be walked: to any position, one step on or back, to where a condition is met.

Nothing is ever undone: to go back is to become what the machine was at a checkpoint, and to run on to exactly the
position that is wanted. That is the same run, so states met again are the same, bit for bit.

In Linux: nothing like it; rr and the reverse execution of gdb are the examples.
"""

import contextlib
from collections.abc import Callable, Iterable

from emu.boot.image import Image
from emu.faults import HostError
from emu.history import edits as edits_
from emu.history.checkpoints import Checkpoint, Checkpoints
from emu.history.conditions import Condition, EventSink, Instructions, Noticed, Register
from emu.history.edits import Change, Edit
from emu.history.memory import Memory
from emu.machine import CHUNK_INSNS, Machine
from emu.recorder import Sink
from emu.scenario import Config
from emu.stateful import State
from emu.trace import Event

EXIT_EFFORT = 1000  # instructions that run in the time of one exit
_SPACING = 1 << 21  # effort between two checkpoints
_RAM_PER_EFFORT = 8  # comparing so many bytes of RAM takes as long as one instruction
_STEPS_CLOSER = 16  # on the way back, checkpoints are made at 1/16, 1/256, ... of the way before the goal
_SHORT_WAY = 32  # where no more of them are worth it
_FIRST_STRETCH = 1 << 12
_FEW_STEPS = 1 << 6  # of what is looked at after each unit
_LONGEST_STRETCH = 1 << 22


class History:
    """The run of `image` under `config`, with `edits` made on the way; the cursor is at its beginning.

    `console` is called with each byte the guest prints, once, however often the cursor passes by. `trace` is told of
    each event, once. `heartbeat` is called while it goes somewhere, at least every CHUNK_INSNS instructions; what it
    raises ends the walk, somewhere on the way. Raises HostError as Machine does.
    """

    def __init__(
        self,
        image: Image,
        config: Config = Config(),
        *,
        edits: Iterable[Edit] = (),
        console: Callable[[int], None] | None = None,
        trace: Sink | None = None,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        self._edits = sorted(edits, key=lambda edit: edit.position)
        self._console = console
        self._trace = trace
        self._heartbeat = heartbeat
        self._beating = False  # where it raises, the machine stands still
        self._told = -1  # the furthest position up to which console and trace were told
        self._events = 0
        self._listener: EventSink | None = None
        self._first: list[tuple[int, Event]] = []  # what is said before anything has happened
        self._building = True
        self._editing = False
        self.machine = Machine(image, config, trace=self._heard, console=self._printed)
        self._building = False
        self._memory = Memory(self.machine.ram)
        self._spacing = max(_SPACING, config.ram // _RAM_PER_EFFORT)
        self._apply_edits()
        self._checkpoints = Checkpoints(self._here())

    # --- where it is -------------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Where the cursor is: how much has happened, one by one. 0 is before the first decision of the host."""
        return self.machine.position

    @property
    def events(self) -> int:
        """How many events have happened before here."""
        return self._events

    @property
    def ended(self) -> bool:
        """Whether the cursor is at the end of the run."""
        return self.machine.reason is not None

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What was changed, in order; those behind the cursor are still to come."""
        return tuple(self._edits)

    @property
    def checkpoints(self) -> int:
        """How many are kept."""
        return len(self._checkpoints)

    # --- going there -------------------------------------------------------------------------------------------------

    def step(self, count: int = 1) -> int:
        """Go `count` positions on, or to the end; returns how many there were."""
        begun = self.position
        self.go(begun + count)
        return self.position - begun

    def back(self, count: int = 1) -> int:
        """Go `count` positions back, or to the beginning; returns how many there were."""
        begun = self.position
        self.go(max(begun - count, 0))
        return begun - self.position

    def go(self, position: int) -> None:
        """Go to this position, or to the end where that comes first. Raises HostError for a negative one."""
        if position < 0:
            raise HostError(f"there is no position {position}", remedy="positions are counted from 0")
        try:
            if position < self.position:
                self._restore(self._checkpoints.at(position))
                self._approach(position)
            else:
                self._advance(position)
        except BaseException:
            # Ctrl-C may come anywhere: the cursor must be somewhere nevertheless.
            if not self._beating:
                self._restore(self._checkpoints.at(self.position))
            raise

    def end(self) -> None:
        """Go to the end of the run."""
        while not self.ended:
            self.go(self.position + _LONGEST_STRETCH)

    def interrupt(self) -> None:
        """End the run here, as Ctrl-C ends one; going back takes the end back as well."""
        if not self.ended:
            self._told = min(self._told, self.position - 1)
            self.machine.interrupt()
            self.machine.turn()

    def run_to(self, condition: Condition) -> bool:
        """Go on to the first position after this one that meets the condition; to the end, and False, if none does."""
        if isinstance(condition, Instructions):
            return self._to_count(condition.total)
        if isinstance(condition, Register):
            return self._to_change(condition)
        stretch = _FIRST_STRETCH
        while not self.ended:
            self._checkpoints.add(self._here())
            begun = self.position
            hits = [hit for hit in self._stretch(begun + stretch, condition) if hit > begun]
            if hits:
                self.go(min(hits))
                return True
            stretch = min(stretch * 2, _LONGEST_STRETCH)
        return False

    def back_to(self, condition: Condition) -> bool:
        """Go back to the last position before this one that meets the condition; else stay: False."""
        here = upper = self.position
        if isinstance(condition, Instructions):
            return self._back_to_count(condition.total)
        stretch = _FEW_STEPS if isinstance(condition, Register) else _FIRST_STRETCH
        while upper > 0:
            lower = max(upper - stretch, 0)
            self.go(lower)
            hits = [hit for hit in self._stretch(upper, condition) if lower <= hit < here]
            if hits:
                self.go(max(hits))
                return True
            upper, stretch = lower, min(stretch * 2, _LONGEST_STRETCH)
        self.go(here)
        return False

    def to_time(self, now_ns: int) -> bool:
        """Go to where so much virtual time has just passed; to the end, and False, where the run is over before."""
        low, stretch = self.position, _FIRST_STRETCH
        if self.machine.now_ns >= now_ns:
            low = 0
        else:
            while not self.ended and self.machine.now_ns < now_ns:
                low = self.position
                self.go(low + stretch)
                stretch = min(stretch * 2, _LONGEST_STRETCH)
            if self.machine.now_ns < now_ns:
                return False
        high = self.position
        while low < high:  # time never goes back
            middle = (low + high) // 2
            self.go(middle)
            if self.machine.now_ns < now_ns:
                low = middle + 1
            else:
                high = middle
        self.go(low)
        return True

    def to_event(self, number: int) -> Event | None:
        """Go to the first position at which event `number`, counted from 0, has happened; None where there is none."""
        if number < len(self._first):
            self.go(0)
            return self._first[number][1]
        found: list[tuple[int, Event]] = []
        before = [one for one in self._checkpoints if one.events <= number]
        if self._events > number or not before or before[-1].position > self.position:
            self._restore(before[-1] if before else self._checkpoints.at(0))

        def sink(event: Event) -> None:
            if self._events == number:
                found.append((self.machine.arriving(), event))

        while not self.ended and not found:
            with self._listening(sink):
                self._advance(self.position + _FIRST_STRETCH)
        if not found:
            return None
        self.go(found[0][0])
        return found[0][1]

    def between(self, first: int, last: int, *, of_edits: bool | None = None) -> list[tuple[int, Event]]:
        """The events of the positions `first` to `last`, each with the position at which it has happened.

        With `of_edits` those alone that edits have brought about, or that the run has. The cursor stays where it is.
        """
        here, found = self.position, [] if of_edits else list(self._first)

        def sink(event: Event) -> None:
            if of_edits is None or of_edits == self._editing:
                found.append((self.machine.arriving(), event))

        self.go(max(first - 1, 0))
        with self._listening(sink):
            self._advance(last)
        self.go(here)
        return [(at, event) for at, event in found if first <= at <= last]

    # --- branching ---------------------------------------------------------------------------------------------------

    def edit(self, change: Change) -> Edit:
        """Change something here; the run goes on from the changed state, and what lay behind is forgotten.

        Raises HostError where the change cannot be made; then nothing has changed.
        """
        before, told = self._here(), self._told
        self._told = min(told, self.position - 1)  # what it brings about has not happened before
        self._editing = True
        try:
            edits_.apply(self.machine, change)
        except HostError:
            self._restore(before)
            self._told = told
            raise
        finally:
            self._editing = False
        edit = Edit(self.position, change)
        self._edits = [one for one in self._edits if one.position <= self.position] + [edit]
        self._checkpoints.forget_after(self.position)
        self._checkpoints.add(self._here())
        self._told = min(self._told, self.position)
        return edit

    def state(self) -> tuple[State, dict[int, bytes]]:
        """All that the machine is here: its parts, and the pages of RAM that differ from the beginning."""
        return self.machine.state(), dict(self._memory.keep())

    # --- how it is done ----------------------------------------------------------------------------------------------

    def _advance(self, position: int) -> None:
        machine = self.machine
        while machine.reason is None and machine.position < position:
            self._beating = True
            self._heartbeat()
            self._beating = False
            edit_at = self._next_edit()
            machine.turn(min(position, machine.position + CHUNK_INSNS, edit_at if edit_at is not None else position))
            if machine.position == edit_at:
                self._apply_edits()
            self._told = max(self._told, machine.position)
            last = self._checkpoints.at(machine.position)
            if self._effort() - last.effort >= self._spacing:
                self._checkpoints.add(self._here())
                self._checkpoints.thin(self._effort())

    def _approach(self, position: int) -> None:
        """Run on to `position`, which was left behind, with checkpoints closer and closer before it."""
        way = (position - self.position) // _STEPS_CLOSER
        while way >= _SHORT_WAY:
            self._advance(position - way)
            self._checkpoints.add(self._here())
            way //= _STEPS_CLOSER
        self._advance(position)
        self._checkpoints.thin(self._effort())

    def _next_edit(self) -> int | None:
        return next((edit.position for edit in self._edits if edit.position > self.position), None)

    def _apply_edits(self) -> None:
        self._editing = True
        try:
            for edit in self._edits:
                if edit.position == self.position:
                    edits_.apply(self.machine, edit.change)
        finally:
            self._editing = False

    def _effort(self) -> int:
        return self.machine.position + EXIT_EFFORT * self.machine.exit_count

    def _here(self) -> Checkpoint:
        machine = self.machine
        place = machine.position, self._effort(), machine.instructions, self._events
        return Checkpoint(*place, machine.state(), self._memory.keep())

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._memory.restore(checkpoint.pages)
        self.machine.load(checkpoint.state)
        self._events = checkpoint.events

    def _stretch(self, position: int, condition: Noticed | Register) -> list[int]:
        """Run on to `position`; the positions on the way at which the condition is met, the start's included."""
        hits: list[int] = []
        if isinstance(condition, Register):
            while self.position < position and self._to_change(condition, position):
                hits.append(self.position)
            return hits
        with condition.watching(self.machine, hits.append) as sink, self._listening(sink):
            self._advance(position)
        return hits

    def _to_change(self, condition: Register, last: int | None = None) -> bool:
        before = condition.value(self.machine)
        while not self.ended and (last is None or self.position < last):
            self._advance(self.position + 1)
            now = condition.value(self.machine)
            if now != before and condition.wanted(now):
                return True
            before = now
        return False

    def _to_count(self, count: int) -> bool:
        machine = self.machine
        while not self.ended and machine.instructions < count:
            self._advance(self.position + count - machine.instructions)
        return machine.instructions == count

    def _back_to_count(self, count: int) -> bool:
        """To the first position with this count, if it lies before the cursor."""
        here = self.position
        before = [one for one in self._checkpoints if one.instructions < count or one.position == 0]
        self.go(min(max(one.position for one in before), here))
        if self._to_count(count) and self.position < here:
            return True
        self.go(here)
        return False

    # --- listening ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _listening(self, sink: EventSink | None):  # type: ignore[no-untyped-def]
        before, self._listener = self._listener, sink
        try:
            yield
        finally:
            self._listener = before

    def _new(self) -> bool:
        """Whether what happens now has not happened before."""
        return self._building or self.machine.arriving() > self._told

    def _heard(self, event: Event) -> None:
        if self._building:
            self._first.append((0, event))
        if self._listener is not None:
            self._listener(event)
        if self._trace is not None and self._new():
            self._trace(event)
        self._events += 1

    def _printed(self, byte: int) -> None:
        if self._console is not None and self._new():
            self._console(byte)
