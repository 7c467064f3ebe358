"""The whole run once, for its picture and its result; then any stretch of it as a film."""

from collections.abc import Callable, Sequence
from typing import Protocol

from emu.faults import HostError
from emu.history import where
from emu.history.history import History
from emu.recorder import Sink
from emu.report.film import Film
from emu.report.page import About, page
from emu.report.picture import picture
from emu.trace import Event
from emu.view.standing import Lines
from emu.view.timeline import Timeline

_STRETCH = 1 << 20
_FRAMES_A_TIME = 50


class _Makes(Protocol):
    """A maker of histories of one and the same run."""

    def __call__(self, *, trace: Sink | None = None, heartbeat: Callable[[], None] = ...) -> History: ...


class Projector:
    """Plays the run that `history` makes, to its end. `tell` shows a line of progress, `check` may end it all.

    `timeline` and `result` are those of the whole run, `end` is its last position, `source` its program's file.
    """

    def __init__(
        self,
        history: _Makes,
        tell: Callable[[Callable[[], str]], None] = lambda _: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._history = history
        self._tell = tell
        self._check = check
        sinks: list[Timeline] = []
        waiting: list[Event] = []

        def heard(event: Event) -> None:
            (sinks[0] if sinks else waiting.append)(event)

        whole = history(trace=heard, heartbeat=check)
        timeline = Timeline.of(whole.machine.config)
        sinks.append(timeline)
        for event in waiting:
            timeline(event)
        _play(whole, tell)
        self.result = whole.machine.result()
        timeline.finish(self.result.virtual_ns)
        self.timeline = timeline
        self.end = whole.position
        self.source = whole.machine.image.source

    def stretch(
        self, steps: int, start: str | None, to: str | None, around: str | None, cursor: int = 0
    ) -> tuple[int, int, int]:
        """First and last position to show, and where to begin; of `steps` steps at most.

        Around `cursor`, where nothing else is said, and the run is longer than that. Raises HostError for words that
        name nothing, or nothing that comes to pass.
        """
        if around is not None:
            cursor = _gone(self._history(heartbeat=self._check), around)
        if start is not None or to is not None:
            history = self._history(heartbeat=self._check)
            first = cursor = 0 if start is None else _gone(history, start)
            last = first + steps
            if to is not None:
                last = _gone(history, to)
                if last - first > steps:
                    far = f"from there to {to} it is {last - first:,} steps"
                    raise HostError(far, remedy="choose a shorter stretch, or say --steps")
        else:
            first = max(0, min(cursor - steps // 2, self.end - steps))
            last = first + steps
        return first, min(last, self.end), cursor

    def film(self, lines: Lines, first: int, last: int) -> Film:
        """The frames of the positions `first` to `last`."""
        heard: list[Event] = []
        on = first == 0

        def hear(event: Event) -> None:
            if on:
                heard.append(event)

        history = self._history(trace=hear, heartbeat=self._check)
        history.go(first)
        on = True
        film = Film(history, lines, heard)
        while history.position < last and not history.ended:
            film.shoot()
            if film.count % _FRAMES_A_TIME == 0:
                self._tell(lambda: f"step {film.count:,} of {last - first:,}")
        return film

    def picture(self, name: str, *, alone: bool) -> str:
        """The whole run, called `name`, as one SVG element."""
        return picture(self.timeline, title=f"the run of {name}", alone=alone)

    def page(
        self, name: str, command: str, lines: Lines, stretch: tuple[int, int, int], story: Sequence[str] = ()
    ) -> str:
        """The run as a page; `stretch` is what that method returned, `command` what makes the same page."""
        first, last, cursor = stretch
        about = About(name, command, self.result, self.end, cursor, story)
        return page(about, self.picture(name, alone=False), self.film(lines, first, last).data())


class Export(Protocol):
    """A sink of a whole run's events that makes a file of them."""

    def __call__(self, event: Event) -> None: ...

    def text(self) -> str:
        """The file."""
        ...


def exported(
    export: Export,
    makes: _Makes,
    tell: Callable[[Callable[[], str]], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> str:
    """The file that `export` makes of the run that `makes` makes; `tell` and `check` as for Projector."""
    _play(makes(trace=export, heartbeat=check), tell)
    return export.text()


def _play(whole: History, tell: Callable[[Callable[[], str]], None]) -> None:
    while not whole.ended:
        whole.step(_STRETCH)
        tell(lambda: f"{whole.machine.now_ns / 1e6:,.1f} ms virtual, {whole.machine.instructions:,} instructions")


def _gone(history: History, words: str) -> int:
    if not where.travel(history, words):
        raise HostError(f"{words} never comes to pass in this run", remedy="`emu step` helps to find what does")
    return history.position
