"""Pages to look at: one for each submission, and one for the class. Each is one file that asks for nothing else.

In Linux: nothing like it; emu.report draws a run, this tells a judgement.
"""

import html
from collections.abc import Iterable

from emu.classroom import told, verdict
from emu.classroom.assignment import Assignment
from emu.classroom.people import Grade
from emu.classroom.tables import remarks
from emu.classroom.verdict import Verdict

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #d0d0d0; --ok: #1a6b2f; --no: #a11a1a;
  --soft: #f4f4f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --line: #444; --ok: #7fd493;
  --no: #ff9a9a; --soft: #222; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
section h2 { margin: 0; } section p { margin: .4rem 0; }
section { border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; margin: .8rem 0; }
.ok h2 span { color: var(--ok); } .no h2 span { color: var(--no); }
pre { background: var(--soft); padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; border-radius: 4px; }
code { background: var(--soft); padding: 0 .25em; border-radius: 3px; white-space: nowrap; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem;
  border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
.bar { display: inline-block; height: .7em; background: var(--no); }
"""


def student(assignment: Assignment, grade: Grade) -> bytes:
    """The page of one submission: each criterion, why it does not hold, and what shows it."""
    verdicts = grade.judgement.verdicts
    head = [
        f"<h1>{_text(assignment.title)}</h1>",
        f"<p>{_text(grade.person.name or grade.submission.key)}: <strong>{grade.points} of {assignment.points} points"
        "</strong></p>",
        *(f"<p>{_text(line)}</p>" for line in remarks(grade)),
    ]
    return _page(f"{assignment.name}: {grade.submission.key}", [*head, *(_section(one, grade) for one in verdicts)])


def summary(assignment: Assignment, grades: list[Grade], remarks_of_class: list[str]) -> bytes:
    """The page of the class: who has how many points, and which criterion fails how often and mostly why."""
    total = len(grades)
    body = [f"<h1>{_text(assignment.title)}</h1>", f"<p>{total} graded; {_text(average(grades, assignment))}</p>"]
    body += ["<table><tr><th>criterion</th><th class=number>lost by</th><th></th><th>mostly because</th></tr>"]
    for name, count, why in failures(assignment, grades):
        width = 12 * count / total if total else 0
        cells = f"<td><code>{_text(name)}</code></td><td class=number>{count} of {total}</td>"
        body.append(
            f'<tr>{cells}<td><span class=bar style="width:{width:.2f}em"></span></td><td>{_text(why)}</td></tr>'
        )
    body.append("</table>")
    if remarks_of_class:
        body += ["<h2>To be looked at</h2><ul>", *(f"<li>{_text(one)}</li>" for one in remarks_of_class), "</ul>"]
    body.append(
        "<h2>Everybody</h2><table><tr><th>submission</th><th>name</th><th class=number>points</th><th></th></tr>"
    )
    for one in grades:
        link = f'<a href="students/{_text(one.submission.key)}/index.html">{_text(one.submission.key)}</a>'
        cells = f"<td>{link}</td><td>{_text(one.person.name)}</td><td class=number>{one.points}</td>"
        body.append(f"<tr>{cells}<td>{_text('; '.join(remarks(one)))}</td></tr>")
    body.append("</table>")
    return _page(f"{assignment.name}: the class", body)


def failures(assignment: Assignment, grades: list[Grade]) -> list[tuple[str, int, str]]:
    """Of each criterion: its name, how many submissions lost it, and the commonest reason."""
    found = []
    once = {one.submission.key: one for one in grades}.values()
    for criterion in assignment.criteria:
        reasons: dict[str, int] = {}
        lost = 0
        for one in once:
            for v in one.judgement.verdicts:
                if v.criterion == criterion.name and v.outcome != verdict.PASSED:
                    lost += 1
                    if not one.submission.problem:
                        reason = v.cause or v.why
                        reasons[reason] = reasons.get(reason, 0) + 1
        best = max(sorted(reasons), key=lambda one: reasons[one], default="")
        often = f"{best} ({reasons[best]} times)" if reasons.get(best, 0) > 1 else best
        found.append((criterion.name, lost, often))
    return found


def average(grades: list[Grade], assignment: Assignment) -> str:
    """Mean and median of the points, in whole ones."""
    points = sorted(one.points for one in grades)
    if not points:
        return "nobody handed in"
    mean, median = sum(points) // len(points), points[len(points) // 2]
    return f"mean {mean}, median {median} of {assignment.points} points"


def _section(one: Verdict, grade: Grade) -> str:
    mark = grade.marks.get(one.criterion)
    points = f"{grade.points_of(one.criterion)}/{one.worth}"
    words = {verdict.PASSED: "holds", verdict.FAILED: "does not hold", verdict.UNTRIED: "not tried"}
    state = words.get(one.outcome, "ended by a limit")
    body = [f"<h2><code>{_text(one.criterion)}</code> {points} <span>{state}</span></h2><p>{_text(one.title)}</p>"]
    if one.outcome != verdict.PASSED:
        if one.place:
            body.append(f"<pre>{_text(one.place)}   {_text(one.line)}</pre>")
        body.append(f"<p>{_text(one.why)}</p>")
        if one.cause and one.cause != one.why:
            body.append(f"<p>Most likely: {_text(one.cause)}.</p>")
        if one.legal:
            body.append(f"<p>It would have been right: {_text(one.legal)}.</p>")
        if one.detail:
            body.append(f"<pre>{_lines(one.detail)}</pre>")
        if one.story:
            body.append(f"<p>What guest and host did:</p><pre>{_lines(one.story)}</pre>")
        if one.evidence:
            body.append(f"<p>See it: <code>{_text(told.command(one))}</code></p>")
    if mark is not None:
        body.append(f"<p>By hand: {mark.points} points, {_text(mark.reason)}</p>")
    return f"<section class={'ok' if one.outcome == verdict.PASSED else 'no'}>{''.join(body)}</section>"


def _page(title: str, body: Iterable[str]) -> bytes:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_text(title)}</title>'
    parts = ["<!doctype html>", f'<html lang="en"><head>{head}<style>{_STYLE}</style></head>', "<body>", *body]
    return "\n".join([*parts, "</body></html>", ""]).encode()


def _lines(lines: Iterable[str]) -> str:
    return _text("\n".join(lines))


def _text(text: str) -> str:
    return html.escape(text)
