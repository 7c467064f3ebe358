"""What a command is to look at: a guest, a scenario or a recording, with the options that were given."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from emu import data
from emu.boot.image import Image
from emu.commands.flags import config_from
from emu.commands.named import scenario_of
from emu.faults import HostError
from emu.guest import find_guest, load_guest
from emu.history.edits import Edit
from emu.history.history import History
from emu.history.recording import load_recording, source_texts
from emu.scenario import Config
from emu.view.session import Lines, Session


class Opened(NamedTuple):
    """A run that can be walked: its name, what determines it, its source, and what a recording says of it.

    `inputs` are the files it was read from.
    """

    name: str
    image: Image
    config: Config
    lines: Lines
    inputs: tuple[str, ...]
    edits: tuple[Edit, ...] = ()
    cursor: int = 0
    story: tuple[str, ...] = ()

    def history(self, **sinks: Any) -> History:
        """A history of it, as History's arguments say. Raises HostError for a recording that cannot be played."""
        try:
            return History(self.image, self.config, edits=self.edits, **sinks)
        except HostError as error:
            if not self.name.endswith(".emurec"):
                raise
            raise HostError(f"this recording cannot be played ({error.message})", self.name, error.remedy) from None


def opened(parsed: argparse.Namespace) -> Opened:
    """What `parsed.guest` names. Raises HostError where there is no such thing."""
    if parsed.guest.endswith(".emurec"):
        recording = load_recording(parsed.guest)
        config = config_from(parsed, Config())
        if config != Config():
            raise HostError("a recording has its options in it", parsed.guest, "name it without any")
        given = recording.edits, recording.cursor or 0, recording.story
        return Opened(parsed.guest, recording.image(), recording.config, recording.lines, (parsed.guest,), *given)
    file, scenario = scenario_of(parsed.guest, None)
    config = config_from(parsed, scenario.config)
    if not scenario.guest:
        raise HostError("no guest is named", file or "", 'name one in it, such as guest = "hello"')
    image = load_guest(scenario.guest, config.mode)
    inputs = (str(find_guest(scenario.guest)), *([file] if file else []))
    return Opened(parsed.guest, image, config, source_texts(image.source, data.source_text), inputs)


def session_of(parsed: argparse.Namespace, check: Callable[[], None]) -> Session:
    """A session with what `parsed.guest` names; `check` is its heartbeat."""
    run = opened(parsed)
    return Session(run.history(heartbeat=check), run.lines)
