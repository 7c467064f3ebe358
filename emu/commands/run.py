"""`emu run`: run a guest, show what it prints while it prints it, and account for its time.

Exit status: the byte the guest wrote to port 0xF4; 0 when every vCPU has halted for good; 124 when a limit ended the
run; 125 after a triple fault; 130 after Ctrl-C; 2 for input that cannot be used.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import IO, Any

from emu import machine as machines
from emu.commands.console import ConsoleWriter
from emu.commands.flags import Parser, add_options, config_from
from emu.commands.progress import Progress
from emu.faults import HostError
from emu.guest import load_guest
from emu.machine import Machine
from emu.scenario import Config, Scenario, load_scenario
from emu.trace import Event, to_json
from emu.view.timeline import Timeline

_STATUS = {
    machines.HALTED: 0,
    machines.TIME_LIMIT: 124,
    machines.INSN_LIMIT: 124,
    machines.EXIT_LIMIT: 124,
    machines.OUTPUT_LIMIT: 124,
    machines.TRIPLE_FAULT: 125,
    machines.INTERRUPTED: 130,
}

_EPILOG = """examples:
  emu run hello
  emu run clock --vcpus 2 --task busy            two vCPUs and a host task on one pCPU
  emu run clock --policy fair --task busy:weight=2 --json
  emu run torn32 --host-model other-cpu --task busy --trace torn.jsonl
  emu run my_guest.c                             built first, with the same search for a compiler as `emu build`
  emu run my_scenario.toml                       guest and options from a file

exit status: the byte the guest writes to port 0xF4; 0 all halted; 124 a limit; 125 triple fault; 130 Ctrl-C; 2 bad input
"""


def main(arguments: list[str]) -> int:
    """Run `emu run` with these words."""
    parsed = _parser().parse_args(arguments)
    scenario = _scenario(parsed)
    config = config_from(parsed, scenario.config)
    if scenario.guest is None:
        raise HostError("which guest?", remedy="name one, such as `emu run hello`; `emu guests` lists them")
    image = load_guest(scenario.guest, config.mode)
    live = sys.stderr if parsed.json else sys.stdout
    writer = ConsoleWriter(live, raw=parsed.raw)
    progress = Progress(sys.stderr, enabled=sys.stderr.isatty() and not parsed.quiet)
    timeline = Timeline.of(config)

    def printed(byte: int) -> None:
        progress.clear()
        writer(byte)

    with _trace_file(parsed.trace) as trace:
        machine = Machine(image, config, watch=timeline, trace=trace, console=printed)
        with _ctrl_c(machine):
            result = machine.run(progress)
    progress.clear()
    writer.finish()
    timeline.finish(result.virtual_ns)
    _report(parsed, machine, result, timeline)
    if result.reason == machines.EXIT:
        assert result.exit_code is not None
        return result.exit_code
    return _STATUS[result.reason]


def _parser() -> argparse.ArgumentParser:
    parser = Parser("run", "Run a guest, show its console, and account for its time.", _EPILOG)
    parser.add_argument("guest", nargs="?", metavar="GUEST", help="ELF file, .c or .S source, scenario .toml, or name")
    parser.add_argument("--scenario", metavar="FILE", help="take guest and options from a TOML file; flags win over it")
    parser.add_argument("--trace", metavar="FILE", help="write every event of the run as JSON lines")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")
    parser.add_argument("--raw", action="store_true", help="pass the guest's control characters to the terminal")
    parser.add_argument("--quiet", action="store_true", help="no progress line and no summary")
    add_options(parser)
    return parser


def _scenario(parsed: argparse.Namespace) -> Scenario:
    path, guest = parsed.scenario, parsed.guest
    if path is None and guest is not None:
        if guest.endswith(".toml"):
            path, guest = guest, None
        elif not os.path.exists(guest) and guest == os.path.basename(guest):
            from emu import data

            shipped = data.scenario_path(guest)
            if shipped is not None:
                path, guest = str(shipped), None
    if path is None:
        return Scenario(guest, Config())
    loaded = load_scenario(path)
    return Scenario(guest or loaded.guest, loaded.config)


@contextlib.contextmanager
def _trace_file(path: str | None) -> Iterator[Callable[[Event], None] | None]:
    """A sink that writes JSON lines; the file appears under its name when it is whole."""
    if path is None:
        yield None
        return
    partial = f"{path}.part"
    try:
        file: IO[str] = open(partial, "w", encoding="ascii", newline="\n")  # noqa: SIM115
    except OSError as error:
        raise HostError(f"cannot be written ({error.strerror})", path, "choose another place for --trace") from None
    try:
        with file:
            yield lambda event: print(to_json(event), file=file)
    except BaseException:
        os.unlink(partial)
        raise
    os.replace(partial, path)


@contextlib.contextmanager
def _ctrl_c(machine: Machine) -> Iterator[None]:
    """The first Ctrl-C ends the run with its summary; a second one is the user's last word."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        machine.interrupt()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before: Any = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _report(parsed: argparse.Namespace, machine: Machine, result: machines.Result, timeline: Timeline) -> None:
    from emu.view import summary

    if machine.shutdown is not None:
        from emu.diagnosis import diagnose

        print("\n".join(diagnose(machine)), file=sys.stderr)
    if parsed.json:
        import json

        print(json.dumps(summary.as_json(result)))
    elif not parsed.quiet and sys.stdout.isatty():
        from rich.console import Console

        summary.render_rich(Console(), result, timeline, machine.config)
    elif not parsed.quiet:
        print(summary.render_plain(result, timeline, machine.config, encoding=sys.stdout.encoding or "utf-8"), end="")
