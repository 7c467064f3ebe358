"""`emu run`: run a guest, show what it prints while it prints it, and account for its time.

Exit status: the byte the guest wrote to port 0xF4; 0 when every vCPU has halted for good; 124 when a limit ended the
run; 125 after a triple fault; 130 after Ctrl-C; 2 for input that cannot be used.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from emu.commands.console import ConsoleWriter
from emu.commands.ending import report, status_of
from emu.commands.flags import Once, Parser, add_options, config_from
from emu.commands.named import scenario_of
from emu.commands.progress import Progress, wanted
from emu.commands.trace_file import trace_file
from emu.faults import HostError
from emu.guest import find_guest, load_guest
from emu.machine import Machine
from emu.scenario import Config
from emu.view.timeline import Timeline

if TYPE_CHECKING:
    from emu.commands.record_file import RecordFile


class _Interruptible(Protocol):
    def interrupt(self) -> None: ...


_EPILOG = """examples:
  emu run hello
  emu run clock --vcpus 2 --task busy        two vCPUs and a task on one pCPU
  emu run clock --policy fair --task busy:weight=2 --json
  emu run torn32 --host-model other-cpu --task busy --trace torn.jsonl
  emu run smp --vcpus 2 --record smp.emurec   to be played again by `emu replay`
  emu run my_guest.c                         built first, as `emu build` does it
  emu run demo                               a shipped scenario
  emu run my_scenario.toml                   guest and options from a file
  emu run clock --on kvm                     the same guest on the real /dev/kvm

exit status: the byte the guest writes to port 0xF4; 0 all halted; 2 bad input;
70 a fault of emu itself; 124 a limit; 125 triple fault; 130 Ctrl-C; 141 nobody
reads our output any more
"""


def main(arguments: list[str]) -> int:
    """Run `emu run` with these words."""
    parsed = _parser().parse(arguments)
    file, scenario = scenario_of(parsed.guest, parsed.scenario)
    config = config_from(parsed, scenario.config)
    if not scenario.guest:
        raise HostError("no guest is named", file or "", "name one, such as `emu run hello`; `emu guests` lists them")
    image = load_guest(scenario.guest, config.mode)
    if parsed.on == "kvm":
        from emu.commands.on_kvm import run_on_kvm

        return status_of(run_on_kvm(parsed, config, image, _ctrl_c))
    inputs = [str(find_guest(scenario.guest)), *([file] if file else []), *(config.script or ())[:1]]
    live = sys.stderr if parsed.json else sys.stdout
    writer = ConsoleWriter(live, raw=parsed.raw)
    progress = Progress(sys.stderr, writer, enabled=not parsed.quiet and wanted(sys.stderr, sys.stdout))
    timeline = Timeline.of(config)

    def printed(byte: int) -> None:
        progress.clear()
        writer(byte)

    with trace_file(parsed.trace, inputs) as trace, _record_file(parsed.record, [*inputs, parsed.trace]) as record:
        if record is not None:
            trace = record.listening(trace)
        machine = Machine(image, config, watch=timeline, trace=trace, console=printed)
        if not parsed.quiet and config != Config():
            from emu.commands.without_effect import without_effect

            for sentence in without_effect(config):
                print(f"emu: note: {sentence}", file=sys.stderr, flush=True)
        try:
            with _ctrl_c(machine):
                result = machine.run(progress)
        finally:
            progress.clear()
            writer.finish(more=not (parsed.quiet or parsed.json))
        if record is not None:
            record.write(scenario.guest, machine)
    timeline.finish(result.virtual_ns)
    report(parsed, machine, result, timeline)
    return status_of(result)


@contextlib.contextmanager
def _record_file(path: str | None, inputs: list[str | None]) -> Iterator["RecordFile | None"]:
    if path is None:
        yield None
        return
    from emu.commands.record_file import record_file

    with record_file(path, [one for one in inputs if one]) as record:
        yield record


def _parser() -> Parser:
    usage = "emu run GUEST [options]"
    parser = Parser("run", "Run a guest, show its console, and account for its time.", _EPILOG, usage)
    parser.add_argument(
        "guest",
        nargs="?",
        metavar="GUEST",
        help="ELF file, .c or .S source, scenario .toml, or a name that `emu guests` lists",
    )
    most_used = add_options(parser)
    most_used.add_argument("--trace", action=Once, metavar="FILE", help="write every event of the run as JSON lines")
    most_used.add_argument(
        "--record", action=Once, metavar="FILE", help="write a recording that `emu replay` plays again, anywhere"
    )
    most_used.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")
    rest = parser.add_argument_group("the command itself")
    rest.add_argument(
        "--scenario", action=Once, metavar="FILE", help="take guest and options from a TOML file; flags win over it"
    )
    rest.add_argument(
        "--on", action=Once, choices=("emu", "kvm"), help="run it on the emulator (default) or on the real /dev/kvm"
    )
    rest.add_argument("--raw", action="store_true", help="pass the guest's control characters to the terminal")
    rest.add_argument("--quiet", action="store_true", help="no progress line, no notes, no summary")
    return parser


@contextlib.contextmanager
def _ctrl_c(machine: _Interruptible) -> Iterator[None]:
    """The first Ctrl-C ends the run with its summary; a second one is the user's last word.

    Signals are the main thread's business: in another one, whoever started it has to call `Machine.interrupt`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        machine.interrupt()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before: Any = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
