"""What a command is to look at: a guest, a scenario or a recording, with the options that were given."""

import argparse
import functools
from collections.abc import Callable
from typing import NamedTuple

from emu import data
from emu.commands.flags import config_from
from emu.commands.named import scenario_of
from emu.faults import HostError
from emu.guest import find_guest, load_guest
from emu.history.history import History
from emu.history.recording import load_recording, source_texts
from emu.scenario import Config
from emu.view.session import Lines, Session


class Opened(NamedTuple):
    """A run that can be walked: its name, a maker of histories of it, its source, and what a recording says of it.

    `history` takes the sinks that History takes; `inputs` are the files it was read from.
    """

    name: str
    history: Callable[..., History]
    lines: Lines
    inputs: tuple[str, ...]
    cursor: int = 0
    story: tuple[str, ...] = ()


def opened(parsed: argparse.Namespace) -> Opened:
    """What `parsed.guest` names. Raises HostError where there is no such thing."""
    path = parsed.guest
    if path.endswith(".emurec"):
        recording = load_recording(path)
        if config_from(parsed, Config()) != Config():
            raise HostError("a recording has its options in it", path, "name it without any")
        history = functools.partial(recording.history, path)
        return Opened(path, history, recording.lines, (path,), recording.cursor or 0, recording.story)
    file, scenario = scenario_of(path, None)
    config = config_from(parsed, scenario.config)
    if not scenario.guest:
        raise HostError("no guest is named", file or "", 'name one in it, such as guest = "hello"')
    image = load_guest(scenario.guest, config.mode)
    inputs = (str(find_guest(scenario.guest)), *([file] if file else []))
    lines = source_texts(image.source, data.source_text)
    return Opened(path, functools.partial(History, image, config), lines, inputs)


def session_of(parsed: argparse.Namespace, check: Callable[[], None]) -> Session:
    """A session with what `parsed.guest` names; `check` is its heartbeat."""
    run = opened(parsed)
    return Session(run.history(heartbeat=check), run.lines)
