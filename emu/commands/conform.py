"""`emu conform`: the specification, the emulator and real KVM, asked the same questions.

Exit status: 0 where all agree, 1 where one does not, 2 for input that cannot be used. Known differences are listed by
themselves and count as agreement.

In Linux: tools/testing/selftests/kvm asks real KVM alone.
"""

import argparse
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

from emu.commands.flags import Once, Parser
from emu.commands.promises import MIN_WIDTH, as_json, table
from emu.conform import campaign, promises
from emu.conform.campaign import Finding, Report
from emu.conform.known import KNOWN
from emu.conform.specification import specification
from emu.conform.text import parse_sequence
from emu.conform.verdict import Bench
from emu.faults import HostError
from emu.kvm.system import missing
from emu.view.many import many

_MOST_SEQUENCES = 10**9
_MOST_JOBS = 64
_EXAMPLES = """examples:
  emu conform
  emu conform --all
  emu conform --random 10000 --seed 7 --jobs 2
  emu conform --sequence 'wrmsr STEAL_TIME 0x200001; reenter; load 0x200008 4'
"""


def main(words: Sequence[str]) -> int:
    """Judge promises, random sequences, or one sequence. Raises HostError for input that cannot be used."""
    parser = Parser(
        "conform", "Compare the emulator with its specification and, where it is, with real KVM.", _EXAMPLES
    )
    parser.add_argument("--all", action="store_true", help="list the whole specification, each promise with its tests")
    parser.add_argument("--random", action=Once, metavar="N", help="judge N random sequences instead of the promises")
    parser.add_argument("--seed", action=Once, metavar="N", help="of the random sequences (default: 1)")
    parser.add_argument("--jobs", action=Once, metavar="N", help="share them out to N processes (default: 1)")
    parser.add_argument("--sequence", action=Once, metavar="TEXT", help="judge this sequence, and shrink it")
    parser.add_argument("--judge", action=Once, metavar="kvm|none", help="ask real KVM, or not (default: where it is)")
    parser.add_argument("--no-known", action="store_true", help="count known differences as disagreements")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parsed = parser.parse(words)
    if parsed.random is not None and parsed.sequence is not None:
        raise HostError("there is one of both to do, not two", "--random, --sequence", "leave one out")
    if parsed.all and (parsed.random is not None or parsed.sequence is not None):
        raise HostError("this is about the promises", "--all", "leave it out")
    if parsed.random is None and (parsed.seed is not None or parsed.jobs is not None):
        raise HostError("this is about random sequences", "--seed, --jobs", "add --random N")
    kvm, note = _real(parsed.judge)
    if parsed.random is not None:
        return _random(parsed, kvm, note)
    sequence = None if parsed.sequence is None else parse_sequence(parsed.sequence)
    bench = Bench(kvm=kvm, known=not parsed.no_known)
    try:
        if sequence is None:
            return _promises(bench, kvm, note, parsed)
        verdict = bench.judge(sequence, engine=True)
        found = campaign.examine(bench, sequence, engine=True) if verdict.disagreements else []
        return _finish(Report(0, 1, 1, dict.fromkeys(verdict.known, 1), found), note, parsed)
    finally:
        bench.close()


def _real(judge: str | None) -> tuple[bool, str]:
    """Whether KVM is asked, and what to say where it is not."""
    if judge not in (None, "kvm", "none"):
        raise HostError(f"there is no judge {judge!r}", "--judge", "use kvm or none")
    if judge == "none":
        return False, "KVM was not asked (--judge none): this is the emulator against the model of the specification"
    reason = missing()
    if reason is None:
        return True, ""
    if judge == "kvm":
        raise HostError(reason, "--judge kvm", "leave it out to compare the emulator with the model alone")
    return False, f"no real KVM here ({reason}): this is the emulator against the model of the specification"


def _random(parsed: argparse.Namespace, kvm: bool, note: str) -> int:
    count = _number(parsed.random, "--random", 1, _MOST_SEQUENCES)
    seed = 1 if parsed.seed is None else _number(parsed.seed, "--seed", 0, (1 << 64) - 1)
    jobs = 1 if parsed.jobs is None else _number(parsed.jobs, "--jobs", 1, _MOST_JOBS)
    began = time.monotonic()
    shows = sys.stderr.isatty()

    def progress(done: int, count: int) -> None:
        if shows:
            rate = done / max(time.monotonic() - began, 1e-9)
            print(f"\r{done:,} of {count:,} sequences, {rate:,.0f} a second; Ctrl-C ends it", end=" ", file=sys.stderr)

    report = campaign.run(seed, count, kvm=kvm, known=not parsed.no_known, jobs=jobs, progress=progress)
    taken = time.monotonic() - began
    if shows:
        print("\r" + " " * 72, end="\r", file=sys.stderr)
    status = _finish(report, note, parsed)
    print(f"{report.sequences / max(taken, 1e-9):,.0f} sequences a second", file=sys.stderr)
    return status


def _number(text: str, where: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and low <= int(text) <= high):
        raise HostError(f"{text!r} cannot be used", where, f"give a whole number from {low} to {high}")
    return int(text)


def _promises(bench: Bench, kvm: bool, note: str, parsed: argparse.Namespace) -> int:
    rows = promises.rows(bench, specification(), kvm=kvm)
    agree = all(row.agree is not False for row in rows)
    if parsed.json:
        _print_json({"promises": as_json(rows), "agree": agree, "note": note})
        return 0 if agree else 1
    print(table(rows, _width(), every=parsed.all))
    _print_known({number for row in rows for number in row.known})
    if note:
        _print_wrapped(note)
    return 0 if agree else 1


def _finish(report: Report, note: str, parsed: argparse.Namespace) -> int:
    status = 1 if report.findings else 0
    if parsed.json:
        found = [one._asdict() | {"difference": one.difference._asdict()} for one in report.findings]
        _print_json(report._asdict() | {"findings": found, "agree": not found, "note": note})
        return status
    for one in report.findings:
        _print_finding(one, "emu conform --no-known" if parsed.no_known else "emu conform")
    judged = many(report.sequences, "sequence") + (f" of seed {report.seed}" if report.sequences != 1 else "")
    told = ", and there the search ended" if len(report.findings) >= campaign.MOST_FINDINGS else ""
    disagreements = many(len(report.findings), "disagreement")
    print(f"{judged}, {report.engine:,} of them by the engine, too: {disagreements}" + told)
    _print_known(set(report.known), report.known)
    if note:
        _print_wrapped(note)
    return status


def _print_finding(one: Finding, command: str) -> None:
    at = one.difference
    where = "afterwards" if at.at is None else f"operation {at.at + 1}"
    judge = one.judge if one.judge == "KVM" else f"the {one.judge}"
    print(f"sequence {one.number}: {judge} disagrees with the specification")
    print(f"  {where}, {at.what}: expected {at.expected}, found {at.found}")
    print(f"  {command} --sequence '{one.shortest}'\n")


def _print_known(numbers: set[str], counts: dict[str, int] | None = None) -> None:
    met = [known for known in KNOWN if known.number in numbers]
    if met:
        print("\nknown differences of this KVM:")
    for known in met:
        count = f" ({many(counts[known.number], 'sequence')})" if counts is not None else ""
        _print_wrapped(f"{known.number}: {known.what}{count}", "  ", "      ")
        _print_wrapped(known.reason, "      ", "      ")


def _print_wrapped(text: str, first: str = "", more: str = "") -> None:
    print(textwrap.fill(text, _width(), initial_indent=first, subsequent_indent=more, break_on_hyphens=False))


def _width() -> int:
    return max(MIN_WIDTH, shutil.get_terminal_size().columns)


def _print_json(value: dict[str, Any]) -> None:
    import json

    print(json.dumps(value))
