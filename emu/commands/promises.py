"""How `emu conform` shows the specification: the promises that were judged, or with their tests all there are.

In Linux: tools/testing/selftests/kselftest.h prints its results in TAP, one numbered line for each claim.
"""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from emu.conform.promises import SEQUENCES, Row

MIN_WIDTH = 60
_NUMBER, _JUDGE, _AGREE = 7, 8, 5
_AGREED = {True: "yes", False: "NO", None: "-"}


def table(rows: Sequence[Row], width: int, *, every: bool) -> str:
    """The judged promises, or with `every` all of them and their tests, in lines of at most `width` columns.

    The name of a test is never broken, so that it can be copied.
    """
    shown = [row for row in rows if every or row.judged]
    kvm = max(len("KVM"), *(len(_kvm(row)) for row in shown))
    sentence = max(width, MIN_WIDTH) - _NUMBER - _JUDGE - kvm - _AGREE - 6
    sentence = min(sentence, max(len(row.promised.sentence) for row in shown))
    lines = [f"{'number':<{_NUMBER}}{'promise':<{sentence}}  {'emulator':<{_JUDGE}}  {'KVM':<{kvm}}  agree"]
    for group, members in groupby(shown, _heading):
        lines += ["", *textwrap.wrap(group, width)]
        for row in members:
            first, *more = textwrap.wrap(row.promised.sentence, sentence, break_long_words=False)
            verdict = f"{row.emulator:<{_JUDGE}}  {_kvm(row):<{kvm}}  {_AGREED[row.agree]}"
            lines.append(f"{row.promised.number:<{_NUMBER}}{first:<{sentence}}  {verdict}")
            lines += [" " * _NUMBER + line for line in more]
            if every:
                lines += [" " * _NUMBER + test for test in row.promised.tests]
    return "\n".join([*lines, "", *_sums(rows, width, every)])


def _heading(row: Row) -> str:
    letters = row.promised.number.partition("-")[0]
    return f"{letters}: {row.promised.group} ({row.promised.document})"


def _kvm(row: Row) -> str:
    return ", ".join((row.kvm, *row.known))


def _sums(rows: Sequence[Row], width: int, every: bool) -> Iterator[str]:
    judged = [row for row in rows if row.judged]
    kept = sum(row.agree is True for row in judged)
    yield from textwrap.wrap(f"{kept} of {len(judged)} promises are kept by all that were asked.", width)
    by_test = (
        f"{len(rows) - len(judged)} more promises of the specification are about what no sequence on one vCPU can "
        "show; tests hold them" + ("." if every else ": `emu conform --all` names each.")
    )
    yield from textwrap.wrap(by_test, width, break_on_hyphens=False)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every promise, with what was found, its sequences and its tests; `agree` is null where nobody was asked."""
    return [
        {
            "number": row.promised.number,
            "promise": row.promised.sentence,
            "group": row.promised.group,
            "document": row.promised.document,
            "emulator": row.emulator,
            "kvm": row.kvm,
            "known": list(row.known),
            "agree": row.agree,
            "sequences": list(SEQUENCES.get(row.promised.number, ())),
            "tests": list(row.promised.tests),
        }
        for row in rows
    ]
