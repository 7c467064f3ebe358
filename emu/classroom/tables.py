"""Grades as files for other programs: CSV, JUnit XML, and Gradescope's results.json.

Source of the last one's form: Gradescope's "Autograder Specifications", the section on results.json.

In Linux: tools/testing/kunit/kunit_parser.py turns results into such forms.
"""

import csv
import io
import json
import xml.etree.ElementTree as ET
from typing import Any

from emu.classroom import told, verdict
from emu.classroom.assignment import Assignment
from emu.classroom.people import Grade
from emu.faults import escaped


def as_csv(assignment: Assignment, grades: list[Grade]) -> bytes:
    """One line for each person. No cell can be taken for a formula."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    names = [one.name for one in assignment.criteria]
    writer.writerow(["key", "name", "id", "email", "points", "of", "late_days", "penalty", *names, "by_hand", "notes"])
    for one in grades:
        person = one.person
        hand = "; ".join(f"{name}: {mark.reason}" for name, mark in sorted(one.marks.items()))
        row = [one.submission.key, person.name, person.id, person.email, one.points, assignment.points, one.late_days]
        row += [one.penalty, *(one.points_of(name) for name in names), hand, "; ".join(remarks(one))]
        writer.writerow([_cell(cell) for cell in row])
    return buffer.getvalue().encode("utf-8")


def as_junit(assignment: Assignment, grades: list[Grade]) -> bytes:
    """One test suite for each submission, one test case for each criterion."""
    root = ET.Element("testsuites", name=assignment.name)
    for key, one in _once(grades).items():
        verdicts = one.judgement.verdicts
        failures = sum(v.outcome == verdict.FAILED for v in verdicts)
        errors = sum(v.outcome == verdict.LIMIT for v in verdicts)
        skipped = sum(v.outcome == verdict.UNTRIED for v in verdicts)
        counts: dict[str, int] = {"tests": len(verdicts), "failures": failures, "errors": errors, "skipped": skipped}
        suite = ET.SubElement(root, "testsuite", {"name": key, **{name: str(count) for name, count in counts.items()}})
        for v in verdicts:
            case = ET.SubElement(suite, "testcase", classname=key, name=v.criterion)
            tag = {verdict.FAILED: "failure", verdict.LIMIT: "error", verdict.UNTRIED: "skipped"}.get(v.outcome)
            if tag is not None:
                about = ET.SubElement(case, tag, message=_plain(v.why))
                about.text = "\n".join(_plain(line) for line in told.about(v))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, "unicode")}\n'.encode()


def as_gradescope(grade: Grade) -> bytes:
    """One submission as Gradescope wants it. Hidden criteria are shown once they are public."""
    tests: list[dict[str, Any]] = []
    for one in grade.judgement.verdicts:
        lines = told.about(one)
        mark = grade.marks.get(one.criterion)
        if mark is not None:
            lines = [*lines, f"by hand: {mark.points} points, {mark.reason}"]
        tests.append(
            {
                "name": f"{one.criterion}: {one.title}",
                "score": grade.points_of(one.criterion),
                "max_score": one.worth,
                "status": "passed" if grade.points_of(one.criterion) == one.worth else "failed",
                "output": "\n".join(lines).strip("\n"),
                "output_format": "text",
                "visibility": "after_published" if one.hidden else "visible",
            }
        )
    table = {
        "score": grade.points,
        "output": "\n".join(remarks(grade)),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }
    return (json.dumps(table, indent=1, ensure_ascii=True) + "\n").encode("ascii")


def remarks(grade: Grade) -> list[str]:
    """What else there is to say of a submission."""
    late = []
    if grade.late_days:
        late = [f"{grade.late_days} day{'s' * (grade.late_days > 1)} late: {grade.penalty} points less"]
    problem = [grade.submission.problem] if grade.submission.problem else []
    return [*problem, *grade.submission.notes, *late]


def _once(grades: list[Grade]) -> dict[str, Grade]:
    found: dict[str, Grade] = {}
    for one in grades:
        found.setdefault(one.submission.key, one)
    return found


def _cell(value: object) -> object:
    """A cell that a spreadsheet would take for a formula becomes text."""
    if isinstance(value, str):
        value = escaped(value)
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return value


def _plain(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return escaped(text)
