"""How a run's end is told: its status, its summary, and the diagnosis of a crash."""

import argparse
import sys
from typing import Protocol

from emu import result as results
from emu.machine import Machine
from emu.view.timeline import Timeline

STATUS = {
    results.HALTED: 0,
    results.TIME_LIMIT: 124,
    results.INSN_LIMIT: 124,
    results.EXIT_LIMIT: 124,
    results.OUTPUT_LIMIT: 124,
    results.TRIPLE_FAULT: 125,
    results.INTERRUPTED: 130,
}


class Ended(Protocol):
    """A result, the emulator's or KVM's."""

    @property
    def reason(self) -> str: ...

    @property
    def exit_code(self) -> int | None: ...


def status_of(result: Ended) -> int:
    """The exit status of a run that ended so."""
    if result.reason == results.EXIT:
        assert result.exit_code is not None
        return result.exit_code
    return STATUS[result.reason]


def report(parsed: argparse.Namespace, machine: Machine, result: results.Result, timeline: Timeline) -> None:
    """The summary first, then a crash's diagnosis: its last line, the verdict, is what stays on a small screen."""
    from emu.view import summary

    if parsed.json:
        import json

        print(json.dumps(summary.as_json(result)))
    elif not parsed.quiet and sys.stdout.isatty():
        from rich.console import Console

        summary.render_rich(Console(), result, timeline, machine.config)
    elif not parsed.quiet:
        print(summary.render_plain(result, timeline, machine.config, encoding=sys.stdout.encoding or "utf-8"), end="")
    if parsed.quiet:
        if STATUS.get(result.reason) in (124, 125):
            sentences = [summary.ending(result, machine.config), *summary.whereabouts(result)]
            _tell("emu: " + "; ".join(sentences))
    elif result.fault is not None:
        if not parsed.json:
            print()
        _diagnose(machine)


def _diagnose(machine: Machine) -> None:
    from emu.diagnosis import diagnose

    sys.stdout.flush()  # the summary comes first, also where both are one terminal or pipe
    if sys.stderr.isatty():
        from rich.console import Console

        from emu.diagnosis.colour import render_rich

        render_rich(Console(stderr=True), machine)
    else:
        _tell(*diagnose(machine))


def _tell(*lines: str) -> None:
    sys.stdout.flush()
    print("\n".join(lines), file=sys.stderr, flush=True)
