"""The stepper on a whole screen: panels around a session, moved by keys.

Everything shown comes from `emu.view.panels`, everything done from `emu.view.session`; here are keys and places alone.
Without colour nothing is lost: what matters has a mark or a word of its own.
"""

import asyncio
import textwrap
from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.css.scalar import Scalar
from textual.events import Click
from textual.widgets import Input, Static

from emu.faults import HostError, escaped
from emu.view import panels
from emu.view.courses import Courses
from emu.view.session import Session

_LOG_LINES = 6
_WORDS = {
    "right": "step", "s": "step", "enter": "step", "left": "back", "b": "back", "o": "over", "u": "out",
    "n": "update", "d": "odd", "x": "exit", "r": "read", "end": "run", "home": "start",
    "S": "store", "p": "preempt", "g": "guess", "pagedown": "step 100", "pageup": "back 100",
}  # fmt: skip
_KEYS = "→ step ← back r read n update S store p preempt g guess m memory : words ? help"
_VIEWS = ("area", "MSRs", "memory", "console")
_SIDE = 37
_LANE_NAME = 10
_GROWING = ("registers", "timeline")
_LANES, _REGISTERS = 6, 11  # rows at most, of a small screen
HELP = (
    "s, right: step   b, left: back   page keys: 100 of them   home, end",
    "o: over a call   u: out of a function   x, r, n, d: to the next exit, read,",
    "   update, odd version   [ ] or a click: along the timeline   + -: closer",
    "S: be the host, make its next store   p: be the host, give the pCPU away",
    "g: be asked what comes, 1 to 9: answer   m: area, MSRs, memory, console",
    "colon, then words: to main  last main  set rax=5  mem rsp  edits  help   q: quit",
)


class Stepper(App[None]):
    """A screen for `session`, whose run is called `name`; `courses` is made anew by `survey` after each edit."""

    AUTO_FOCUS = None  # a hidden field that had the focus would swallow the keys
    CSS = """
    #title { height: 1; text-style: reverse; }
    #code { width: 1fr; height: 100%; }
    #side { width: 38; }
    #registers { height: 1; }
    #area { height: 1fr; }
    #timeline { height: 1; }
    #log { height: 6; }
    #keys { height: 1; text-style: dim; }
    #words { display: none; height: 1; border: none; padding: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, f"word('{word}')", word, show=False) for key, word in _WORDS.items()),
        Binding("q", "quit", "quit", show=False),
        Binding("question_mark", "help", "help", show=False),
        Binding("colon", "ask", "words", show=False, priority=True),
        Binding("enter", "say", "say", show=False, priority=True),
        *(Binding(str(digit), f"answer({digit})", "answer", show=False) for digit in range(1, 10)),
        Binding("m", "look", "look", show=False),
        Binding("plus", "zoom(-1)", "closer", show=False),
        Binding("minus", "zoom(1)", "further", show=False),
        Binding("left_square_bracket", "scrub(-1)", "earlier", show=False),
        Binding("right_square_bracket", "scrub(1)", "later", show=False),
        Binding("escape", "leave", "leave", show=False, priority=True),
    ]

    def __init__(self, session: Session, name: str, survey: Callable[[], Courses]) -> None:
        super().__init__()
        self.session = session
        self._run_name = name
        self._survey = survey
        self._courses = survey()
        self._zoom = 0
        self._before: dict[str, int] = {}
        self._view = 0
        self._shown: dict[str, Text] = {}
        self._memory = ""
        self.log_lines: list[str] = ["press ? for the keys"]

    def compose(self) -> ComposeResult:
        """Title, code beside registers and area, timeline, what was said, keys."""
        yield Static(id="title", markup=False)
        with Horizontal():
            yield Static(id="code", markup=False)
            with Vertical(id="side"):
                yield Static(id="registers", markup=False)
                yield Static(id="area", markup=False)
        yield Static(id="timeline", markup=False)
        yield Static(id="log", markup=False)
        yield Input(id="words", placeholder="to main, last main, set rax=5, wait 1000, edits ...", compact=True)
        yield Static(_KEYS, id="keys", markup=False)

    def on_mount(self) -> None:
        """Show where the session begins."""
        self.set_focus(None)
        self.repaint()

    def on_resize(self) -> None:
        """The panels are made for the size they have."""
        self.call_after_refresh(self.repaint)

    def action_word(self, words: str) -> None:
        """Say these words to the session, and show what came of it."""
        self._before = panels.values(self.session.machine)
        edits = len(self.session.history.edits)
        try:
            told = self.session.say(words)
        except HostError as error:
            told = [error.sentence]
        if self.session.over:
            self.exit()
            return
        self.log_lines = told[-_LOG_LINES:]
        word, _, rest = words.strip().partition(" ")
        if word in ("mem", "m"):
            self._view, self._memory = _VIEWS.index("memory"), rest.strip()
        if len(self.session.history.edits) != edits:
            self._courses = self._survey()
        self.repaint()

    def action_help(self) -> None:
        """The keys, where the log was."""
        self.log_lines = list(HELP)
        self.repaint()

    def action_look(self) -> None:
        """Show something else beside the code: areas and host, MSRs, memory."""
        self._view = (self._view + 1) % len(_VIEWS)
        self.repaint()

    def action_answer(self, digit: int) -> None:
        """The answer of this number, or the first digit of one that is a number itself."""
        question = self.session.question
        if question is None:
            return
        if question.choices:
            self.action_word(f"guess {digit}")
        else:
            self.action_ask(f"guess {digit}")

    def action_ask(self, begun: str = "") -> None:
        """Let the user type words."""
        words = self.query_one("#words", Input)
        words.value = begun
        words.cursor_position = len(begun)
        words.display = True
        self.set_focus(words)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A colon among words is one of them, and Enter ends them where there are some.

        Their bindings have priority: then each is done before the next key is taken, however fast those come.
        """
        return {"ask": self.focused is None, "say": self.focused is not None}.get(action, True)

    def action_leave(self) -> None:
        """Away from the words again."""
        self.query_one("#words", Input).display = False
        self.set_focus(None)

    def action_zoom(self, way: int) -> None:
        """Show ten times as much of the run, or a tenth."""
        closest = len(str(self._column_ns(0))) - 1
        self._zoom = min(max(self._zoom - way, 0), closest)
        self.repaint()

    def action_scrub(self, columns: int) -> None:
        """So many columns of the timeline on, or back."""
        self._to_time(max(self.session.machine.now_ns + columns * self._column_ns(self._zoom), 0))

    @on(Click, "#timeline")
    def clicked(self, event: Click) -> None:
        """To the time that was pointed at."""
        self._to_time(panels.time_at(event.x, self.session.machine.now_ns, self._column_ns(self._zoom), self._width))

    def _to_time(self, now_ns: int) -> None:
        self.action_word(f"to time:{now_ns}ns" if now_ns else "start")

    async def action_say(self) -> None:
        """The words that were typed, when the last of them has arrived in their field."""
        field = self.query_one("#words", Input)
        arrived = asyncio.Event()
        field.call_later(arrived.set)
        await arrived.wait()
        self.action_leave()
        if field.value.strip():
            self.action_word(field.value)

    def repaint(self) -> None:
        """All panels, for what the session shows now.

        Their heights are reckoned here: a layout that is still to be made would tell those of the moment before.
        """
        machine = self.session.machine
        width = self._width
        most = max(_LANES, self.size.height // 4)
        lanes = panels.timeline(self._courses, machine, self._column_ns(self._zoom), width, most)
        registers = panels.registers(machine, self._before, _SIDE + 1)[:_REGISTERS]
        typing = self.query_one("#words", Input).display
        height = max(self.size.height - len(lanes) - _LOG_LINES - 2 - typing, 4)
        self._show("title", [panels.title(self.session, self._run_name)])
        self._show("code", panels.code(self.session, max(width - _SIDE - 2, 20), height))
        self._show("registers", registers)
        self._show("area", self._beside(_VIEWS[self._view], max(height - len(registers), 4)))
        self._show("timeline", lanes)
        self._show("log", [line[:width] for line in self.log_lines])

    def _beside(self, view: str, height: int) -> list[str]:
        machine = self.session.machine
        if view == "MSRs":
            return panels.msrs(machine, _SIDE)
        if view == "console":
            printed = [line for row in self.session.say("console") for line in textwrap.wrap(row, _SIDE) or [""]]
            return ["console", *printed[-height + 1 :]]
        if view == "memory":
            try:
                at = self.session.memory_at(self._memory)
            except HostError as error:
                return [error.sentence[:_SIDE]]
            head = f"memory at {self._memory or 'the area, or the stack'}"
            return [head[:_SIDE], *panels.memory(machine, at, height - 1)]
        return [*panels.area(machine, _SIDE), *panels.host(self.session, _SIDE)]

    def _show(self, panel: str, lines: list[str]) -> None:
        text = Text(no_wrap=True, overflow="crop")
        for number, line in enumerate(lines):
            marked = line.startswith(panels.CURRENT) or " ODD" in line or panels.CHANGED in line[:1]
            text.append(("\n" if number else "") + escaped(line), style="bold" if marked else "")
        if text == self._shown.get(panel):
            return
        self._shown[panel] = text
        shown = self.query_one(f"#{panel}", Static)
        grows = panel in _GROWING and shown.styles.height != Scalar.from_number(len(lines))
        if grows:
            shown.styles.height = len(lines)
        shown.update(text, layout=grows)  # a new layout of everything costs as much as all else

    @property
    def _width(self) -> int:
        return max(self.size.width, 40)

    def _column_ns(self, zoom: int) -> int:
        """What a column of the timeline stands for: with 0 the whole run fits, each further one is ten times closer."""
        columns = self._width - _LANE_NAME
        return max(1, -(-self._courses.end_ns // columns) // int(10**zoom))
