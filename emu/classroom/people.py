"""Who handed in what, when, with whom, and what the teacher has changed by hand.

    roster.csv   key,name,id,email,group,submitted     one line for each person; all columns but key are optional
    marks.csv    key,criterion,points,reason           what counts instead of what was judged

In Linux: MAINTAINERS is such a list.
"""

import csv
import datetime
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from emu.classroom.assignment import Assignment, Late
from emu.classroom.submissions import Submission
from emu.classroom.verdict import Judgement
from emu.faults import HostError

_ROSTER = ("key", "name", "id", "email", "group", "submitted")
_MARKS = ("key", "criterion", "points", "reason")
_MAX = 4 << 20


class Person(NamedTuple):
    """A line of roster.csv; `key` is that of a submission, what is not known is empty."""

    key: str
    name: str = ""
    id: str = ""
    email: str = ""
    group: str = ""
    submitted: datetime.datetime | None = None


class Mark(NamedTuple):
    """Points for one criterion of one submission that were given by hand."""

    points: int
    reason: str


class Grade(NamedTuple):
    """What one person gets. `late_days` were begun after the due date and cost `penalty` points."""

    person: Person
    submission: Submission
    judgement: Judgement
    marks: dict[str, Mark]
    late_days: int
    penalty: int
    points: int

    def points_of(self, criterion: str) -> int:
        """The points of this criterion, those by hand before those that were judged."""
        if criterion in self.marks:
            return self.marks[criterion].points
        return next(one.points for one in self.judgement.verdicts if one.criterion == criterion)


def roster(path: Path) -> list[Person]:
    """The people of a roster.csv. Raises HostError, naming the line, for what cannot be used."""
    found = []
    for number, row in _rows(path, _ROSTER, ("key",)):
        submitted = None
        if row["submitted"]:
            try:
                submitted = datetime.datetime.fromisoformat(row["submitted"])
            except ValueError:
                submitted = None
            if submitted is None or submitted.tzinfo is None:
                remedy = "write it as 2026-12-01T23:59:00+01:00"
                raise HostError(f"{row['submitted']!r} is no time", f"{path}:{number}", remedy)
        found.append(Person(row["key"], row["name"], row["id"], row["email"], row["group"], submitted))
    return found


def marks(path: Path, assignment: Assignment) -> dict[str, dict[str, Mark]]:
    """Points by hand, by submission and criterion. Raises HostError, naming the line, for what cannot be used."""
    worth = {one.name: one.points for one in assignment.criteria}
    found: dict[str, dict[str, Mark]] = {}
    for number, row in _rows(path, _MARKS, _MARKS):
        place = f"{path}:{number}"
        if row["criterion"] not in worth:
            from emu.scenario import did_you_mean

            raise HostError(f"there is no criterion {row['criterion']!r}", place, did_you_mean(row["criterion"], worth))
        most = worth[row["criterion"]]
        if not (row["points"].isascii() and row["points"].isdecimal() and int(row["points"][:6]) <= most):
            raise HostError(f"{row['points']!r} are no points", place, f"give a whole number from 0 to {most}")
        if not row["reason"].strip():
            raise HostError("the reason is missing", place, "say why, for the student will ask")
        found.setdefault(row["key"], {})[row["criterion"]] = Mark(int(row["points"]), row["reason"])
    return found


def grades(
    assignment: Assignment,
    judged: Iterable[tuple[Submission, Judgement]],
    people: list[Person],
    by_hand: dict[str, dict[str, Mark]],
) -> list[Grade]:
    """What everybody gets, by key and then by name; who handed in nothing is not in it."""
    listed: dict[str, list[Person]] = {}
    for person in people:
        listed.setdefault(person.key, []).append(person)
    found = []
    for submission, judgement in judged:
        several = listed.get(submission.key) or [Person(submission.key, name=one) for one in submission.people]
        for person in several:
            own = by_hand.get(submission.key, {})
            points = sum(
                own[one.criterion].points if one.criterion in own else one.points for one in judgement.verdicts
            )
            days = late_days(assignment.late, person.submitted or submission.submitted)
            left = after_penalty(points, days, assignment.late)
            found.append(Grade(person, submission, judgement, own, days, points - left, left))
    return sorted(found, key=lambda one: (one.submission.key, one.person.name, one.person.id))


def late_days(late: Late, submitted: datetime.datetime | None) -> int:
    """How many days were begun after the due date."""
    if late.due is None or submitted is None or submitted <= late.due:
        return 0
    day = datetime.timedelta(days=1)
    return -(-(submitted - late.due) // day)


def after_penalty(points: int, days: int, late: Late) -> int:
    """What is left of points after so many days; a fraction of a point is the student's."""
    if days > late.days:
        return 0
    lost = points * min(days * late.percent_per_day, 100) // 100
    return points - lost


def complaints(assignment: Assignment, submissions: list[Submission], people: list[Person]) -> list[str]:
    """What a teacher should know of roster and submissions: who is missing, what nobody handed in, large groups."""
    keys = {one.key for one in submissions}
    listed = {one.key for one in people}
    told = [
        f"{one.name or one.key} is in the roster and has handed in nothing" for one in people if one.key not in keys
    ]
    if people:
        told += [f"{one.key} is not in the roster" for one in submissions if one.key not in listed]
    sizes: dict[str, int] = {}
    for one in people:
        if one.group:
            sizes[one.group] = sizes.get(one.group, 0) + 1
    sizes |= {one.key: len(one.people) for one in submissions if len(one.people) > 1}
    most = assignment.group_size
    return [
        *told,
        *(f"group {name} has {size} people, and {most} are allowed" for name, size in sizes.items() if size > most),
    ]


def _rows(path: Path, columns: tuple[str, ...], needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX).decode("utf-8-sig")
    except OSError as error:
        raise HostError(f"the file cannot be read ({error.strerror})", str(path)) from None
    except UnicodeDecodeError as error:
        raise HostError(f"this is not text in UTF-8 (byte {error.start})", str(path)) from None
    reader = csv.reader(io.StringIO(text, newline=""))
    found: list[tuple[int, dict[str, str]]] = []
    header: list[str] | None = None
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [cell.strip().lower() for cell in row]
                _check_header(header, columns, needed, path)
                continue
            cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
            found.append((reader.line_num, {name: cells.get(name, "") for name in columns}))
    except csv.Error as error:
        raise HostError(f"this is no CSV ({error})", f"{path}:{reader.line_num}") from None
    return found


def _check_header(header: list[str], columns: tuple[str, ...], needed: tuple[str, ...], path: Path) -> None:
    unknown = [name for name in header if name not in columns]
    missing = [name for name in needed if name not in header]
    if unknown or missing:
        what = f"there is no column {unknown[0]!r}" if unknown else f"the column {missing[0]} is missing"
        raise HostError(what, f"{path}:1", f"the columns are {', '.join(columns)}")
