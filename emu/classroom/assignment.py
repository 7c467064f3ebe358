"""An assignment, read from its folder:

    assignment.toml   what is set, and what it is judged by; the students get it as it stands
    hidden.toml       more criteria, of the same kinds with other seeds and bounds, and the wrong variants (optional)
    student/          what else the students get: README.md, the files to be changed, and files that are given
    solution/         the files to be handed in, as they should be
    wrong/NAME/       ... and as they should not be

A student has assignment.toml and the content of student/ side by side in one folder.

In Linux: nothing like it; tools/testing/selftests has what is closest to a folder that judges a program.
"""

import datetime
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from emu import scenario
from emu.classroom import criteria
from emu.classroom.asks import Criterion
from emu.classroom.fields import Field, list_of, moment, number, one_of, taken, text
from emu.faults import HostError

FILE, HIDDEN = "assignment.toml", "hidden.toml"
STUDENT, SOLUTION, WRONG = "student", "solution", "wrong"
GUEST, DEVICE = "guest", "device"
MAX_FILE = 256 << 10  # bytes of one file that is handed in
_FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class Late(NamedTuple):
    """What is handed in after `due` loses `percent_per_day` of its points for each day begun; after `days` all."""

    due: datetime.datetime | None = None
    percent_per_day: int = 0
    days: int = 0


class Wrong(NamedTuple):
    """A variant that must lose the points of these criteria and no others; the feedback says `cause`."""

    name: str
    loses: tuple[str, ...]
    cause: str


class Assignment(NamedTuple):
    """`files` are to be handed in, each by one of the names in its tuple; `given` lie beside them. `folder` is where it
    was read, `public` and `private` the contents of its two files."""

    name: str
    title: str
    kind: str
    files: tuple[tuple[str, ...], ...]
    given: tuple[str, ...]
    points: int
    criteria: tuple[Criterion, ...]
    late: Late
    group_size: int
    wrong: tuple[Wrong, ...]
    folder: Path
    public: bytes
    private: bytes | None

    @property
    def student_folder(self) -> Path:
        """Where the files are that a student gets."""
        return self.folder / STUDENT if (self.folder / STUDENT).is_dir() else self.folder

    @property
    def hidden_points(self) -> int:
        """What is to be had for criteria that are not public."""
        return self.points - sum(one.points for one in self.criteria if not one.hidden)

    def given_files(self) -> dict[str, bytes]:
        """The given files by name. Raises HostError where one is missing."""
        return {name: content(self.student_folder / name) for name in self.given}

    def handed_in(self, folder: Path) -> dict[str, bytes]:
        """The files to be handed in that are in `folder`. Raises HostError where one is missing, or cannot be used."""
        found = {}
        for names in self.files:
            name = next((one for one in names if (folder / one).exists()), None)
            if name is None:
                raise HostError(f"{' or '.join(names)} is missing", str(folder), "it is what is to be handed in")
            found[name] = content(folder / name)
        return found


def name(value: Any) -> str:
    """The name of an assignment, criterion or variant."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("a short name in small letters, digits and dashes")
    return value


def _file_name(value: Any) -> str:
    if not isinstance(value, str) or not _FILE_NAME.fullmatch(value):
        raise ValueError("the name of a file, without a folder")
    return value


def _file_names(value: Any) -> tuple[str, ...]:
    return tuple(map(_file_name, value.split("|") if isinstance(value, str) else [value]))


_CRITERIA = Field("criterion", lambda value: value, "a list of tables, each beginning with [[criterion]]", [])
ASSIGNMENT = (
    Field("format", number(_FORMAT, _FORMAT), f"the version of this format, {_FORMAT}"),
    Field("name", name, "the assignment's short name, such as steal-clock"),
    Field("title", text(100), "its title, for people"),
    Field("kind", one_of(GUEST, DEVICE), "guest for a program in C or assembler, device for a steal-time device"),
    Field("files", list_of(_file_names, 1), "what is to be handed in; of `clock.c|clock.S` one or the other"),
    Field("given", list_of(_file_name), "the files in student/ that belong to the program and stay as they are", ()),
    Field("points", number(1, 10_000), "all points that are to be had, those of hidden criteria included"),
    Field("late", lambda value: value, "a table [late]", {}),
    Field("group-size", number(1, 20), "how many hand in together at most", 1),
    _CRITERIA,
)
LATE = (
    Field("due", moment, "when it has to be handed in", None),
    Field("percent-per-day", number(0, 100), "what each day begun after that costs", 0),
    Field("days", number(0, 365), "after how many days nothing is given any more", 0),
)
HIDDEN_FIELDS = (_CRITERIA, Field("wrong", lambda value: value, "a list of tables, each beginning with [[wrong]]", []))
WRONG_FIELDS = (
    Field("name", name, "the variant's folder in wrong/"),
    Field("loses", list_of(name), "the criteria that do not hold of it"),
    Field("cause", text(200), "words of the feedback that name what is wrong"),
)


def read(folder: Path) -> Assignment:
    """The assignment in this folder. Raises HostError, with the place, for whatever is not as it should be."""
    path, hidden = folder / FILE, folder / HIDDEN
    if not path.is_file():
        raise HostError(f"there is no {FILE} in this folder", str(folder), "go to the folder of an assignment")
    return parsed(folder, content(path), content(hidden) if hidden.is_file() else None)


def parsed(folder: Path, public: bytes, private: bytes | None) -> Assignment:
    """The assignment of this `folder`, whose files have these contents. Raises HostError as `read` does."""
    path, hidden = folder / FILE, folder / HIDDEN
    values = taken(_table(public, path), ASSIGNMENT, str(path))
    late = taken(values["late"], LATE, f"{path}: [late]")
    found = _criteria(values["criterion"], values["kind"], str(path), hidden=False)
    wrong: tuple[Wrong, ...] = ()
    if private is not None:
        more = taken(_table(private, hidden), HIDDEN_FIELDS, str(hidden))
        found += _criteria(more["criterion"], values["kind"], str(hidden), hidden=True)
        wrong = tuple(
            Wrong(**taken(one, WRONG_FIELDS, f"{hidden}: [[wrong]] {at}"))
            for at, one in enumerate(_tables(more["wrong"], "wrong", str(hidden)), 1)
        )
    names = [one.name for one in found]
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise HostError(f"two criteria are called {twice}", str(path), "give each a name of its own")
    for one in wrong:
        if unknown := next((lost for lost in one.loses if lost not in names), None):
            remedy = scenario.did_you_mean(unknown, names)
            raise HostError(f"there is no criterion {unknown!r}", f"{hidden}: [[wrong]] {one.name}", remedy)
    if not found:
        raise HostError("there is no [[criterion]]", str(path), "an assignment is judged by at least one")
    total = sum(one.points for one in found)
    if total > values["points"] or (private is not None and total != values["points"]):
        raise HostError(f"the criteria give {total} points, and points says {values['points']}", str(path))
    return Assignment(
        values["name"],
        values["title"],
        values["kind"],
        values["files"],
        values["given"],
        values["points"],
        tuple(found),
        Late(late["due"], late["percent-per-day"], late["days"]),
        values["group-size"],
        wrong,
        folder,
        public,
        private,
    )


def content(path: Path) -> bytes:
    """The bytes of a file of at most MAX_FILE bytes. Raises HostError where it is missing, larger, or no file."""
    try:
        if not path.is_file():
            raise HostError("there is no such file" if not path.exists() else "this is no file", str(path))
        with path.open("rb") as file:
            found = file.read(MAX_FILE + 1)
    except OSError as error:
        raise HostError(f"it cannot be read ({error.strerror})", str(path)) from None
    if len(found) > MAX_FILE:
        raise HostError(f"it is larger than {MAX_FILE >> 10} KiB", str(path))
    return found


def _criteria(tables: object, kind: str, where: str, *, hidden: bool) -> list[Criterion]:
    return [
        criteria.read(one, kind, f"{where}: [[criterion]] {at}", hidden=hidden)
        for at, one in enumerate(_tables(tables, "criterion", where), 1)
    ]


def _tables(value: object, key: str, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise HostError(f"{key} must be a list of tables", where, f"begin each with [[{key}]]")
    return value


def _table(content: bytes, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise HostError(f"this is not text in UTF-8 (byte {error.start})", str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise HostError(f"this is not TOML: {error}", str(path)) from None
    except RecursionError:
        raise HostError("this is nested too deeply", str(path)) from None
