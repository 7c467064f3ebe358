"""A run that shows itself in a notebook: the page of `emu report`, in a frame of its own.

Jupyter and its kin ask an object for `_repr_html_`. The frame is sandboxed: the page can run its script, and reach
nothing of the notebook.
"""

import functools
from collections.abc import Callable, Sequence
from html import escape

from emu import data
from emu.history.history import History
from emu.history.recording import Recording, source_texts
from emu.machine import Machine
from emu.report.projector import Projector
from emu.view.standing import Lines

STEPS = 1000
_HEIGHT = 900  # pixels


def of_history(history: History) -> str:
    """The run that `history` walks, its edits included, around where the cursor is."""
    machine = history.machine
    makes = functools.partial(History, machine.image, machine.config, edits=history.edits)
    return _shown(makes, "a run", None, history.position)


def of_machine(machine: Machine) -> str:
    """The run of `machine` from its beginning to its end, wherever it stands."""
    return _shown(functools.partial(History, machine.image, machine.config), "a run", None, 0)


def of_recording(recording: Recording) -> str:
    """The recorded run, around where the recording says to look; a counterexample of `emu explore` tells its story."""
    name = recording.guest
    makes = functools.partial(recording.history, name)
    return _shown(makes, name, recording.lines, recording.cursor or 0, recording.story)


def _shown(
    history: Callable[..., History], name: str, lines: Lines | None, cursor: int, story: Sequence[str] = ()
) -> str:
    projector = Projector(history)
    if lines is None:
        lines = source_texts(projector.source, data.source_text)
    text = projector.page(name, "emu report", lines, projector.stretch(STEPS, None, None, None, cursor), story)
    return (
        f"<iframe sandbox='allow-scripts' style='width:100%;height:{_HEIGHT}px;border:0' title='{escape(name)}' "
        f'srcdoc="{escape(text)}"></iframe>'
    )
