"""How far a student has come, kept between sessions in one small file of their own.

It stands where the system keeps such state: $XDG_STATE_HOME, or ~/.local/state. A damaged file counts as none: the
worst that can be lost is the place in a lesson.
"""

import json
import os
from pathlib import Path

from emu.faults import HostError


def path() -> Path:
    """The file."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(home) / "emu" / "lessons.json"


def load() -> dict[str, int]:
    """For each lesson that was begun, by name, the part that comes next; -1 for one that is finished."""
    try:
        found = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: at for name, at in found.items() if type(at) is int and -1 <= at < 1000}


def keep(name: str, at: int) -> None:
    """Note the place in a lesson. Raises HostError where the file cannot be written."""
    found = {**load(), name: at}
    place = path()
    partial = place.with_suffix(f".{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(found, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(partial, place)
    except OSError as error:
        raise HostError(f"the place in the lesson cannot be kept ({error.strerror})", str(place)) from None
