"""`emu check`: judge one's own work on an assignment, and see what does not hold yet.

Exit status: 0 where every criterion holds, 1 where one does not, 2 for input that cannot be used.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from emu.classroom import assignment as assignments
from emu.classroom import device, device_pipe, told
from emu.classroom.assignment import Assignment
from emu.classroom.device_judge import local_host
from emu.classroom.judge import judge
from emu.classroom.verdict import Judgement
from emu.commands.flags import Once, Parser
from emu.commands.interruption import interruption
from emu.commands.output_file import output_file
from emu.commands.progress import Ticker, wanted
from emu.faults import HostError, escaped

EVIDENCE = "failures"  # the folder that recordings go to
_POLL_S = 0.3
_EPILOG = """examples:
  emu check             what is in this folder
  emu check lab3        what is in that one
  emu check --watch     again at each change of a file, until Ctrl-C
  emu check --json
  emu check --again failures/updates.json      operation by operation, of a device

For what does not hold it says why, on which line of yours, what the host did,
and which command shows it again: `emu step failures/NAME.emurec`, where `back`
and `step` walk to and fro.

exit status: 0 all holds; 1 something does not; 2 bad input
"""


def main(arguments: list[str]) -> int:
    """Run `emu check` with these words."""
    parsed = _parser().parse(arguments)
    folder = Path(parsed.folder or ".")
    if parsed.watch and parsed.json:
        raise HostError("--watch and --json do not go together", remedy="leave one away")
    with interruption() as interrupted:
        if parsed.again is not None:
            return _again(folder, Path(parsed.again))
        if not parsed.watch:
            return _check(folder, as_json=parsed.json, quiet=parsed.quiet, check=interrupted)
        _watch(folder, parsed.quiet, interrupted)
    return 0


def _check(folder: Path, *, as_json: bool, quiet: bool, check: Callable[[], None]) -> int:
    assignment = assignments.read(folder)
    ticker = Ticker(sys.stderr, enabled=not (quiet or as_json) and wanted(sys.stderr, sys.stdout))

    def tell(what: str) -> None:
        check()
        ticker(lambda: f"judging: {what}")

    try:
        judgement = judge(assignment, assignment.handed_in(folder), tell)
    finally:
        ticker.clear()
    place = folder / EVIDENCE
    _keep(place, judgement)
    shown = f"{os.path.relpath(place)}/"
    if as_json:
        print(json.dumps(_as_json(assignment, judgement, shown)))
    else:
        lines = [f"{assignment.name}: {assignment.title}", "", *told.lines(judgement, shown, assignment.hidden_points)]
        print("\n".join(escaped(line) for line in lines))
    return 0 if judgement.passed else 1


def _again(folder: Path, path: Path) -> int:
    """The operations of a file of evidence, one by one, done to one's own device and to the reference."""
    if path.suffix == ".emurec":
        raise HostError("this is a recording of a run", str(path), f"see it with `emu step {path}`")
    if not (folder / assignments.FILE).exists() and path.parent.name == EVIDENCE:
        folder = path.parent.parent
    assignment = assignments.read(folder)
    if assignment.kind != assignments.DEVICE:
        raise HostError("this assignment is no device", str(folder), "its evidence are recordings, for `emu step`")
    try:
        ask, sequence = device.read_sequence(assignments.content(path))
    except (ValueError, TypeError) as reason:
        raise HostError(f"this is no sequence of operations ({reason})", str(path)) from None
    modules = {name: text.decode("utf-8", "replace") for name, text in assignment.given_files().items()}
    modules |= {name: text.decode("utf-8", "replace") for name, text in assignment.handed_in(folder).items()}
    same = True
    with local_host() as host:
        try:
            device_pipe.loaded(host, {name.removesuffix(".py"): text for name, text in modules.items()})
            for one, found, expected in device.replay(host, ask, sequence):
                same = same and found == expected
                print(escaped(f"{one}"))
                print(escaped(f"    yours      {found}"))
                print(escaped(f"    reference  {expected}{'' if found == expected else '   <-- not the same'}"))
        except (device_pipe.Silent, device_pipe.Failed) as error:
            raise HostError(f"the device cannot be asked ({error})", str(folder)) from None
    return 0 if same else 1


def _keep(place: Path, judgement: Judgement) -> None:
    """The evidence in its folder, and none of an earlier check."""
    try:
        for old in place.iterdir() if place.is_dir() else ():
            if old.suffix in (".emurec", ".json"):
                old.unlink()
        if judgement.evidence:
            place.mkdir(exist_ok=True)
    except OSError as error:
        raise HostError(f"the recordings cannot be put here ({error.strerror})", str(place)) from None
    for name, content in judgement.evidence.items():
        with output_file(str(place / name), "the folder") as file:
            file.write(content)


def _as_json(assignment: Assignment, judgement: Judgement, shown: str) -> dict[str, object]:
    return {
        "assignment": assignment.name,
        "points": judgement.points,
        "of": judgement.worth,
        "hidden": assignment.hidden_points,
        "passed": judgement.passed,
        "criteria": [
            one._asdict() | {"replay": told.command(one, shown) if one.evidence else None} for one in judgement.verdicts
        ],
    }


def _watch(folder: Path, quiet: bool, check: Callable[[], None]) -> None:
    """Check, and again at each change, until Ctrl-C."""
    before = None
    while True:
        try:
            now = _changed(folder)
        except HostError as error:
            print(f"emu: {error.sentence}", file=sys.stderr)
            return
        if now != before:
            before = now
            try:
                _check(folder, as_json=False, quiet=quiet, check=check)
            except HostError as error:  # a file that is being saved may be missing for a moment
                print(f"emu: {escaped(error.sentence)}")
            print("\nwaiting for a change; Ctrl-C ends it", flush=True)
        check()
        time.sleep(_POLL_S)


def _changed(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of the files in the folder."""
    try:
        found = [(one.name, one.stat()) for one in sorted(folder.iterdir()) if one.is_file()]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise HostError(f"the folder cannot be read ({error.strerror})", str(folder)) from None
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


def _parser() -> Parser:
    usage = "emu check [FOLDER] [options]"
    parser = Parser("check", "Judge the work on an assignment, and say what does not hold yet.", _EPILOG, usage)
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="where the assignment is (default: here)")
    parser.add_argument("--watch", action="store_true", help="check again at each change of a file")
    parser.add_argument("--again", action=Once, metavar="FILE", help="do the operations of failures/NAME.json again")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    return parser
