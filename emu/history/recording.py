"""Recordings (`.emurec`): all that a run was determined by, in one file that replays it anywhere.

One of our packed files: the guest's image, the configuration, the edits, the lines of source that the program was made
of, and what the run came to, so that a replay can tell whether it was the same run. Opening one executes nothing and
unpickles nothing; sizes are bounded before anything is believed.

In Linux: perf.data carries the build-ids of what was run; rr's traces carry the inputs, as this does.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from emu import scenario
from emu.boot.image import Image
from emu.faults import HostError
from emu.guest import MAX_FILE, image_of
from emu.history import edits as edits_
from emu.history.edits import Edit
from emu.history.history import History
from emu.history.packed import Format
from emu.scenario import Config
from emu.trace import Event, to_json

FORMAT = Format("emurec", 2, 2 * MAX_FILE)
MAX_EDITS = 100_000


class Outcome(NamedTuple):
    """What a run came to: the position of its end, why it ended, and the SHA-256 of its trace, in hexadecimal."""

    position: int
    reason: str
    exit_code: int | None
    trace: str


class Recording(NamedTuple):
    """`guest` is what the user called the program, `source` its file's content, `mode` how that is entered.

    `lines` are the program's own: {file: {line number: text}}. `cursor` is where to look first, `story` what there is
    to see, in lines, both of whoever made the recording.
    """

    guest: str
    source: bytes
    config: Config
    outcome: Outcome
    edits: tuple[Edit, ...] = ()
    lines: Mapping[str, Mapping[int, str]] = MappingProxyType({})
    cursor: int | None = None
    story: tuple[str, ...] = ()

    def image(self) -> Image:
        """The program. Raises HostError where it is none."""
        return image_of(self.source, self.guest, self.config.mode)

    def history(self, where: str, **sinks: Any) -> History:
        """The recorded run, with the sinks that History takes. Raises HostError, naming `where`, if it cannot."""
        try:
            return History(self.image(), self.config, edits=self.edits, **sinks)
        except HostError as error:
            raise HostError(f"this recording cannot be played ({error.message})", where, error.remedy) from None


class TraceHash:
    """A sink of events; `hexdigest` is the SHA-256 of the file that a trace of them would be."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def __call__(self, event: Event) -> None:
        self._hash.update(to_json(event).encode("ascii") + b"\n")

    def hexdigest(self) -> str:
        """Of the events so far."""
        return self._hash.hexdigest()


def to_bytes(recording: Recording) -> bytes:
    """The recording as a file's content."""
    config = recording.config._asdict()
    data = {
        "guest": recording.guest,
        "image": base64.b64encode(recording.source).decode("ascii"),
        "config": config,
        "edits": [edits_.to_json(edit) for edit in recording.edits],
        "lines": {file: dict(texts) for file, texts in recording.lines.items()},
        "outcome": recording.outcome._asdict(),
        "cursor": recording.cursor,
        "story": recording.story,
    }
    return FORMAT.to_bytes(data)


def load_recording(path: str) -> Recording:
    """The recording in this file. Raises HostError where it cannot be read, or is none of ours."""
    try:
        with open(path, "rb") as file:
            content = file.read(2 * MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HostError(f"the file cannot be read ({reason})", path) from None
    if len(content) > 2 * MAX_FILE:
        raise HostError("the file is larger than any recording", path)
    return from_bytes(content, path)


def from_bytes(content: bytes, where: str) -> Recording:
    """Read a file's content back. Raises HostError, which names `where`, for whatever is no recording of ours."""
    version = FORMAT.version_of(content)
    if version is None:
        raise HostError("this is not a recording", where, "name a file that `emu run --record` wrote")
    if version != FORMAT.version:
        raise HostError(f"this recording has format {version}, and this emu reads {FORMAT.version}", where)
    try:
        return _recording(FORMAT.from_bytes(content))
    except HostError as error:
        raise HostError(f"this recording is damaged ({error.message})", where, _DAMAGED) from None
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "it cannot be unpacked"
        raise HostError(f"this recording is damaged ({reason:.80})", where, _DAMAGED) from None


_DAMAGED = "record the run again"


def _recording(data: Any) -> Recording:
    known = {"guest", "image", "config", "edits", "lines", "outcome", "cursor", "story"}
    _must(isinstance(data, dict) and set(data) == known, "its parts are not those of a recording")
    _must(isinstance(data["guest"], str) and len(data["guest"]) < 4096, "its guest has no name")
    _must(isinstance(data["edits"], list) and len(data["edits"]) <= MAX_EDITS, "it has too many edits")
    source = base64.b64decode(data["image"], validate=True)
    config = _config(data["config"])
    outcome = data["outcome"]
    _must(set(outcome) == set(Outcome._fields) and _is_count(outcome["position"]), "its outcome is none")
    _must(isinstance(outcome["reason"], str) and isinstance(outcome["trace"], str), "its outcome is none")
    _must(outcome["exit_code"] is None or _is_count(outcome["exit_code"]), "its outcome is none")
    _must(data["cursor"] is None or _is_count(data["cursor"]), "its cursor is nowhere")
    _must(isinstance(data["story"], list) and all(isinstance(one, str) for one in data["story"]), "its story is none")
    lines = {
        str(file): {int(number): str(text) for number, text in texts.items()} for file, texts in data["lines"].items()
    }
    edits = tuple([edits_.from_json(one) for one in data["edits"]])
    return Recording(
        data["guest"], source, config, Outcome(**outcome), edits, lines, data["cursor"], tuple(data["story"])
    )


def _config(data: Any) -> Config:
    _must(isinstance(data, dict), "its configuration is none")
    unknown = set(data) ^ set(Config._fields)
    _must(not unknown, f"its configuration differs from this emu's in {', '.join(sorted(map(str, unknown)))}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    config = Config(**values)
    scenario.check(config)
    return config


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _must(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)


def source_texts(source: bytes, read: Callable[[str], str | None]) -> dict[str, dict[int, str]]:
    """The lines that the program's code was made of: for each file that `read` finds, number -> text."""
    from emu.code.lines import line_addresses

    wanted: dict[str, list[int]] = {}
    for file, line in line_addresses(source):
        wanted.setdefault(file, []).append(line)
    found: dict[str, dict[int, str]] = {}
    for file, numbers in sorted(wanted.items()):
        text = read(file)
        if text is not None:
            rows = text.splitlines()
            found[file] = {number: rows[number - 1] for number in sorted(numbers) if number <= len(rows)}
    return found
