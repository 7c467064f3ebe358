"""`emu replay`: play a recorded run again, to its end or to where something happens.

Exit status: to the end, that of the recorded run; with --to, 0 where it came to pass and 1 where it did not; 2 for a
file that is no recording of ours.
"""

import argparse
import json
import sys
from collections.abc import Callable

from emu import result as results
from emu.commands.console import ConsoleWriter
from emu.commands.ending import report, status_of
from emu.commands.flags import Once, Parser
from emu.commands.interruption import interruption
from emu.commands.progress import Progress, wanted
from emu.commands.trace_file import trace_file
from emu.faults import HostError
from emu.history import where
from emu.history.recording import Recording, TraceHash, load_recording
from emu.trace import Event
from emu.view.timeline import Timeline

_STRETCH = 1 << 22

_EPILOG = f"""where --to can go:
{where.FORMS}

examples:
  emu run clock --task busy --record clock.emurec
  emu replay clock.emurec                      the same bytes again
  emu replay clock.emurec --to main            the first time there
  emu replay clock.emurec --to version:odd --from event:wrmsr
  emu replay clock.emurec --to steal_read --last

exit status: that of the recorded run; with --to 0, or 1 where it never comes to
pass; 2 bad input; 70 a fault of emu itself; 130 Ctrl-C
"""


def main(arguments: list[str]) -> int:
    """Run `emu replay` with these words."""
    parsed = _parser().parse(arguments)
    recording = load_recording(parsed.file)
    if parsed.to is None and (parsed.start is not None or parsed.last):
        raise HostError("--from and --last say how --to is looked for", remedy="give --to as well")
    with interruption() as check:
        if parsed.to is not None or (recording.cursor is not None and not parsed.end):
            return _show(parsed, recording, check)
        return _play(parsed, recording, check)


def _play(parsed: argparse.Namespace, recording: Recording, check: Callable[[], None]) -> int:
    """To the end, with the run's own console, summary and status."""
    writer = ConsoleWriter(sys.stderr if parsed.json else sys.stdout, raw=parsed.raw)
    progress = Progress(sys.stderr, writer, enabled=not parsed.quiet and wanted(sys.stderr, sys.stdout))
    timeline, digest = Timeline.of(recording.config), TraceHash()

    def printed(byte: int) -> None:
        progress.clear()
        writer(byte)

    with trace_file(parsed.trace, [parsed.file]) as trace:

        def heard(event: Event) -> None:
            timeline(event)
            digest(event)
            if trace is not None:
                trace(event)

        history = recording.history(parsed.file, console=printed, trace=heard, heartbeat=check)
        outcome = recording.outcome
        try:
            while not history.ended and history.position < outcome.position:
                history.go(min(history.position + _STRETCH, outcome.position))
                progress(history.machine)
            if outcome.reason == results.INTERRUPTED:
                history.interrupt()
        finally:
            progress.clear()
            writer.finish(more=not (parsed.quiet or parsed.json))
        machine = history.machine
        found = machine.position, machine.reason, machine.exit_port.code, digest.hexdigest()
        if found != tuple(outcome):
            raise HostError(
                "the run went otherwise than it was recorded",
                parsed.file,
                "replay it with the version of emu that recorded it",
            )
    result = machine.result()
    timeline.finish(result.virtual_ns)
    report(parsed, machine, result, timeline)
    return status_of(result)


def _show(parsed: argparse.Namespace, recording: Recording, check: Callable[[], None]) -> int:
    """To a place in it, and what is to be seen there."""
    with trace_file(parsed.trace, [parsed.file]) as trace:
        history = recording.history(parsed.file, trace=trace, heartbeat=check)
        if parsed.start is not None and not where.travel(history, parsed.start):
            return _never(parsed, parsed.start)
        if parsed.to is None:
            history.go(recording.cursor or 0)
        else:
            if parsed.last:
                history.end()
            if not where.travel(history, parsed.to, last=parsed.last):
                return _never(parsed, parsed.to)
    from emu.view import standing

    if parsed.json:
        print(json.dumps(standing.as_json(history.machine) | {"story": list(recording.story)}))
    else:
        for line in (*recording.story, *([""] if recording.story else [])):
            print(line)
        print("\n".join(standing.render(history.machine, recording.lines)))
    return 0


def _never(parsed: argparse.Namespace, words: str) -> int:
    sentence = f"{words} never comes to pass in this run"
    if parsed.json:
        print(json.dumps({"never": words}))
    else:
        print(f"emu: {sentence}", file=sys.stderr)
    return 1


def _parser() -> Parser:
    parser = Parser(
        "replay", "Play a recorded run again, or go to a place in it.", _EPILOG, "emu replay FILE [options]"
    )
    parser.add_argument("file", metavar="FILE", help="a recording (.emurec)")
    parser.add_argument("--to", action=Once, metavar="WHERE", help="stop where this is met, and show what is there")
    parser.add_argument("--from", dest="start", action=Once, metavar="WHERE", help="look for it from here on")
    parser.add_argument("--last", action="store_true", help="the last time instead of the first")
    parser.add_argument(
        "--end", action="store_true", help="play to the end, even where the recording says where to look"
    )
    parser.add_argument("--trace", action=Once, metavar="FILE", help="write the events on the way as JSON lines")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--raw", action="store_true", help="pass the guest's control characters to the terminal")
    parser.add_argument("--quiet", action="store_true", help="no progress line, no summary")
    return parser
