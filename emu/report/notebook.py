"""A run that shows itself in a notebook: the page of `emu report`, in a frame of its own.

Jupyter and its kin ask an object for `_repr_html_`. The frame is sandboxed: the page can run its script, and reach
nothing of the notebook.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from emu import data
from emu.history.history import History
from emu.history.recording import Recording, source_texts
from emu.machine import Machine
from emu.report.page import About, page
from emu.report.picture import picture
from emu.report.projector import Projector

STEPS = 1000
_HEIGHT = 900  # pixels


def of_history(history: History) -> str:
    """The run that `history` walks, its edits included, around where the cursor is."""
    machine, edits = history.machine, history.edits
    return _shown(lambda **sinks: History(machine.image, machine.config, edits=edits, **sinks), None, history.position)


def of_machine(machine: Machine) -> str:
    """The run of `machine` from its beginning to its end, wherever it stands."""
    return _shown(lambda **sinks: History(machine.image, machine.config, **sinks), None, 0)


def of_recording(recording: Recording) -> str:
    """The recorded run, around where the recording says to look; a counterexample of `emu explore` tells its story."""
    image, config, edits = recording.image(), recording.config, recording.edits
    return _shown(lambda **sinks: History(image, config, edits=edits, **sinks), recording, recording.cursor or 0)


def _shown(history: Callable[..., History], recording: Recording | None, cursor: int) -> str:
    projector = Projector(history)
    first, last, cursor = projector.stretch(STEPS, None, None, None, cursor)
    source = history().machine.image.source
    lines: Any = source_texts(source, data.source_text) if recording is None else recording.lines
    name = "a run" if recording is None else recording.guest
    story: Sequence[str] = () if recording is None else recording.story
    about = About(name, "emu report", projector.result, projector.end, cursor, story)
    drawn = picture(projector.timeline, title=f"the run of {name}", alone=False)
    text = page(about, drawn, projector.film(lines, first, last).data())
    return (
        f"<iframe sandbox='allow-scripts' style='width:100%;height:{_HEIGHT}px;border:0' title='{escape(name)}' "
        f'srcdoc="{escape(text)}"></iframe>'
    )
