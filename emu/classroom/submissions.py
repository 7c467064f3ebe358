"""What was handed in: folders and archives as teachers get them, read without believing them.

Nothing is unpacked onto a disk and no link is followed: of each submission only the files that the assignment asks for
are read, with a bound. What cannot be used is named; it never ends the grading of the others.

    Gradescope        submission_123/ ... and submission_metadata.yml, which knows who and when
    Moodle            Ada Lovelace_123_assignsubmission_file_/ ...
    GitHub Classroom  steal-clock-ada/ ..., a repository each
    any other         a folder, an archive or a single file for each

In Linux: nothing like it; usr/gen_init_cpio.c reads names as carefully.
"""

import bz2
import datetime
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from emu.classroom.assignment import MAX_FILE, Assignment
from emu.faults import HostError, escaped

MAX_ARCHIVE = 32 << 20  # bytes of an archive
MAX_ENTRIES = 5000  # of an archive or a folder, with all that is below it
MAX_UNPACKED = 64 << 20  # what an archive may say that its content comes to
_DEPTH = 6
_METADATA = "submission_metadata.yml"
_MOODLE = re.compile(r"(?P<who>.+)_(?P<number>\d+)_assignsubmission_(?:file|onlinetext)_?(?P<rest>.*)")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_KEY = re.compile(r"[^A-Za-z0-9._@+-]+")


class Submission(NamedTuple):
    """`key` names it among the others. `files` are what is judged, or `problem` says why there is nothing to judge.

    `people` are the names under which it was handed in, `notes` what is worth knowing.
    """

    key: str
    people: tuple[str, ...]
    files: Mapping[str, bytes]
    problem: str
    notes: tuple[str, ...]
    submitted: datetime.datetime | None = None


class _Unusable(Exception):
    """This submission cannot be used, and why."""


def read_all(folder: Path, assignment: Assignment) -> list[Submission]:
    """All submissions in this folder, by key. Raises HostError where the folder itself cannot be used."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise HostError(f"the submissions cannot be read ({error.strerror})", str(folder)) from None
    known = _metadata(folder / _METADATA)
    found: dict[str, Submission] = {}
    for places, key, who in _grouped(entries):
        about = known.get(key, {})
        people = tuple(about.get("people", ())) or (who,)
        one = read(places, key, assignment)._replace(people=people, submitted=about.get("submitted"))
        found[key] = one
    if not found:
        raise HostError("there are no submissions in this folder", str(folder), "each is a folder or an archive in it")
    return [found[key] for key in sorted(found)]


def read(places: list[Path], key: str, assignment: Assignment) -> Submission:
    """One submission, which lies in these places; never raises for what is in them."""
    notes: list[str] = []
    try:
        files = _wanted(_Contents(places), assignment, notes)
        return Submission(key, (key,), files, "", tuple(notes))
    except _Unusable as reason:
        return Submission(key, (key,), {}, escaped(str(reason))[:300], tuple(notes))
    except OSError as error:
        return Submission(key, (key,), {}, f"it cannot be read ({error.strerror})", tuple(notes))


def _grouped(entries: list[Path]) -> Iterator[tuple[list[Path], str, str]]:
    """The places of each submission, its key, and who handed it in as far as names tell."""
    loose: dict[str, tuple[list[Path], str]] = {}
    for path in entries:
        if path.name.startswith(".") or path.name in (_METADATA, "roster.csv"):
            continue
        moodle = _MOODLE.fullmatch(path.name)
        if moodle is not None and moodle["rest"] and not path.is_dir():
            places, _ = loose.setdefault(f"{moodle['who']}_{moodle['number']}", ([], moodle["who"]))
            places.append(path)
        elif moodle is not None:
            yield [path], _key(f"{moodle['who']}_{moodle['number']}"), moodle["who"]
        else:
            name = path.name
            for suffix in (*_ARCHIVES, ".c", ".S", ".py"):
                if not path.is_dir() and name.endswith(suffix):
                    name = name.removesuffix(suffix)
            yield [path], _key(name), name
    for name, (places, who) in loose.items():
        yield places, _key(name), who


def _key(name: str) -> str:
    """A name that is safe as a file's."""
    return _KEY.sub("_", name.encode("ascii", "replace").decode("ascii")).strip(".")[:100] or "_"


def _metadata(path: Path) -> dict[str, dict[str, Any]]:
    """What Gradescope's file says of each submission: `people` and `submitted`."""
    if not path.is_file():
        return {}
    import yaml

    try:
        with path.open("rb") as file:
            table = yaml.safe_load(file.read(MAX_ARCHIVE))
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise HostError(f"this file of Gradescope's cannot be read ({str(error).splitlines()[0]})", str(path)) from None
    found: dict[str, dict[str, Any]] = {}
    for name, about in table.items() if isinstance(table, dict) else ():
        if not isinstance(about, dict):
            continue
        submitters = about.get(":submitters") or []
        people = [str(one.get(":email") or one.get(":name")) for one in submitters if isinstance(one, dict)]
        created = about.get(":created_at")
        if isinstance(created, datetime.datetime) and created.tzinfo is None:
            created = created.replace(tzinfo=datetime.UTC)
        found[_key(str(name))] = {
            "people": people,
            "submitted": created if isinstance(created, datetime.datetime) else None,
        }
    return found


class _Contents:
    """The files of a submission by their paths, each read only when it is asked for."""

    def __init__(self, places: list[Path]) -> None:
        self.sizes: dict[str, int] = {}
        self._from: dict[str, Path] = {}
        self._unpacked: dict[str, bytes] = {}
        self.links: set[str] = set()
        for place in places:
            self._look(place, _stripped(place.name), 0)

    def read(self, name: str, most: int) -> bytes:
        """The content of one, `most` bytes and one more at most."""
        if name in self._unpacked:
            return self._unpacked[name]
        # Between looking and opening a link could have been put there: one that is none is opened.
        descriptor = os.open(
            self._from[name], os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        )
        with open(descriptor, "rb") as file:
            return file.read(most + 1)

    def unpack(self, name: str, wanted: set[str]) -> None:
        """Look into an archive, and read those members whose bare names are `wanted`."""
        content = self.read(name, MAX_ARCHIVE)
        if len(content) > MAX_ARCHIVE:
            raise _Unusable(f"the archive {name} is larger than {MAX_ARCHIVE >> 20} MiB")
        try:
            members = _zip(content, wanted) if name.endswith(".zip") else _tar(content, wanted)
            for member, data in members:
                self.sizes[member] = len(data)
                self._unpacked[member] = data
        except _Unusable as reason:
            raise _Unusable(f"the archive {name} {reason}") from None
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, KeyError, RuntimeError, OSError) as error:
            raise _Unusable(f"the archive {name} is damaged ({str(error)[:100] or type(error).__name__})") from None
        except (NotImplementedError, ImportError, MemoryError) as error:
            raise _Unusable(f"the archive {name} cannot be unpacked ({type(error).__name__})") from None
        except Exception as error:  # what lzma and zlib raise has no common ancestor
            raise _Unusable(f"the archive {name} is damaged ({type(error).__name__})") from None

    def _look(self, path: Path, name: str, depth: int) -> None:
        about = path.lstat()
        if stat.S_ISLNK(about.st_mode):
            self.links.add(name)
        elif stat.S_ISREG(about.st_mode):
            self.sizes[name] = about.st_size
            self._from[name] = path
            if len(self.sizes) > MAX_ENTRIES:
                raise _Unusable(f"it has more than {MAX_ENTRIES} files")
        elif stat.S_ISDIR(about.st_mode) and depth < _DEPTH:
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda one: one.name):
                    if depth or not entry.name.startswith("."):
                        below = entry.name if depth == 0 else f"{name}/{entry.name}"
                        if entry.name not in (".git", "__MACOSX", "node_modules", "failures"):
                            self._look(Path(entry.path), below, depth + 1)


def _stripped(name: str) -> str:
    """A file's own name, without what Moodle puts before it."""
    moodle = _MOODLE.fullmatch(name)
    return moodle["rest"] if moodle is not None and moodle["rest"] else name


def _wanted(contents: _Contents, assignment: Assignment, notes: list[str]) -> dict[str, bytes]:
    wanted = {name for names in assignment.files for name in names}
    if not any(PurePosixPath(name).name in wanted for name in contents.sizes):
        for name in [one for one in contents.sizes if one.endswith(_ARCHIVES)][:1]:
            contents.unpack(name, wanted)
            notes.append(f"it was in the archive {PurePosixPath(name).name}")
    found: dict[str, bytes] = {}
    for names in assignment.files:
        name, path = _one_of(contents, names, notes)
        content = contents.read(path, MAX_FILE)
        if len(content) > MAX_FILE:
            raise _Unusable(f"{name} is larger than {MAX_FILE >> 10} KiB")
        if not content.strip():
            raise _Unusable(f"{name} is empty")
        if b"\0" in content:
            raise _Unusable(f"{name} is binary: it has a zero byte at {content.index(0)}")
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            notes.append(f"{name} is not UTF-8 (byte {error.start})")
        found[name] = content
    for name in assignment.given:
        same = next((one for one in contents.sizes if PurePosixPath(one).name == name), None)
        if same is not None and contents.read(same, MAX_FILE) != assignment.given_files()[name]:
            notes.append(f"{name} was changed; the given one was used")
    return found


def _one_of(contents: _Contents, names: tuple[str, ...], notes: list[str]) -> tuple[str, str]:
    """The file of one of these names: the least deep, and of those the first."""
    for name in names:
        paths = sorted(
            (path for path in contents.sizes if PurePosixPath(path).name == name),
            key=lambda path: (path.count("/"), path),
        )
        if paths:
            if len(paths) > 1:
                notes.append(f"{name} is there {len(paths)} times; {escaped(paths[0])} was taken")
            return name, paths[0]
    linked = sorted(one for one in contents.links if PurePosixPath(one).name in names)
    if linked:
        raise _Unusable(f"{linked[0]} is a symbolic link, which is not followed")
    if not contents.sizes:
        raise _Unusable("nothing was handed in")
    shown = ", ".join(sorted(contents.sizes)[:3])
    raise _Unusable(f"{' or '.join(names)} is missing (there is {shown})")


def _zip(content: bytes, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        _check(((one.filename, one.file_size) for one in members), len(members))
        for one in members:
            if stat.S_ISLNK(one.external_attr >> 16):
                if PurePosixPath(one.filename).name in wanted:
                    raise _Unusable(f"has {escaped(one.filename)} as a symbolic link, which is not followed")
            elif PurePosixPath(one.filename).name in wanted and not one.is_dir():
                with archive.open(one) as file:
                    yield one.filename, file.read(MAX_FILE + 1)


class _Bounded(io.RawIOBase):
    """A stream that ends a bomb: of what is unpacked no more than MAX_UNPACKED bytes are read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = MAX_UNPACKED

    def read(self, size: int = -1) -> bytes:
        block: bytes = self._stream.read(min(size, 1 << 20) if size >= 0 else 1 << 20)
        self._left -= len(block)
        if self._left < 0:
            raise _Unusable(_BOMB)
        return block


_BOMB = f"would come to more than {MAX_UNPACKED >> 20} MiB: a bomb"
_OPENERS: Mapping[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open, b"BZ": bz2.open}


def _tar(content: bytes, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    stream: Any = io.BytesIO(content)
    if content[:2] in _OPENERS:
        stream = _OPENERS[content[:2]](stream)
    with stream, tarfile.open(fileobj=_Bounded(stream), mode="r|") as archive:
        total = 0
        for count, one in enumerate(archive, 1):
            total += one.size
            _check([(one.name, total)], count)
            if PurePosixPath(one.name).name not in wanted:
                continue
            if one.issym() or one.islnk():
                raise _Unusable(f"has {escaped(one.name)} as a link, which is not followed")
            file = archive.extractfile(one) if one.isreg() else None
            if file is not None:
                yield one.name, file.read(MAX_FILE + 1)


def _check(members: Iterator[tuple[str, int]] | list[tuple[str, int]], count: int) -> None:
    if count > MAX_ENTRIES:
        raise _Unusable(f"has more than {MAX_ENTRIES} entries")
    total = 0
    for name, size in members:
        total += size
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":":
            raise _Unusable(f"has a path that leads out of it, {escaped(name)[:80]}")
        if total > MAX_UNPACKED:
            raise _Unusable(_BOMB)
