"""`emu explore`: every placement of the host's steps over a guest's execution, and what holds in all of them.

Exit status: 0 where all properties are proved within the bound, 1 where one does not hold, 3 where the search ended
before it was complete, or a property was never put to the test; 2 for input that cannot be used.
"""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emu import data, own_code
from emu.commands.flags import Once, Parser
from emu.commands.interruption import interruption
from emu.commands.output_file import output_file
from emu.commands.progress import Ticker, wanted
from emu.explore import team
from emu.explore.evidence import evidence
from emu.explore.instance import MAX_UPDATES, Instance, read_of
from emu.explore.properties import AWAKE, CLOCK, FORWARD, PROPERTIES, Own
from emu.explore.saved import take_up, to_bytes
from emu.explore.search import OPEN, PROVED, REFUTED, Report, Search
from emu.faults import HostError
from emu.guest import load_guest
from emu.history.edits import MAX_BURST
from emu.history.recording import to_bytes as recording_bytes
from emu.scenario import HOST_MODELS, STEAL_STORES, from_text, is_digits
from emu.view.many import many, times

_STATUS = {PROVED: 0, REFUTED: 1, OPEN: 3}
_OTHER_CPU = "other-cpu"
_STEAL_TIME = "steal-time"
_WIDTH = 78
_NAMES = "\n".join(f"  {name:<10} {text}" for name, text in PROPERTIES.items())

_EPILOG = f"""properties:
{_NAMES}

A guest marks its reads with STEAL_MARK_BEGIN and STEAL_MARK_END of steal.h; or
name the function that reads, and where its result is, from outside:

  emu explore readers/odd_only
  emu explore readers/seqlock --updates 3 --steal-store halves
  emu explore my_guest.c --read my_reader
  emu explore my_guest32.c --read my_reader:edx+eax --host-model kvm
  emu explore readers/low_byte --burst 127
  emu explore my_guest.c --property mine.py:never_zero

A property of your own is a Python function of one argument, a Moment (see
emu/explore/properties.py), that returns None where it holds and else says why
it does not. It is code, and runs as you do.

exit status: 0 proved within the bound; 1 refuted, with a recording for `emu
replay`; 3 not decided: the bound was met, or something was never put to the
test; 2 bad input; 70 a fault of emu itself; 130 Ctrl-C
"""


def main(arguments: list[str]) -> int:
    """Run `emu explore` with these words."""
    parsed = _parser().parse(arguments)
    instances = _instances(parsed)
    ticker = Ticker(sys.stderr, enabled=not parsed.quiet and wanted(sys.stderr, sys.stdout))
    jobs = _number(parsed.jobs, "--jobs", 1, 64, 1)
    with interruption() as check:
        reports = _search(parsed, instances, ticker, jobs, check)
    return _tell(parsed, instances, reports)


def _search(
    parsed: argparse.Namespace, instances: list[Instance], ticker: Ticker, jobs: int, check: Callable[[], None]
) -> list[Report]:
    def progress(search: Search) -> None:
        check()
        ticker(lambda: _so_far(search))

    reports: list[Report] = []
    for number, instance in enumerate(instances):
        # The first machine, which offers steal time, is what takes long.
        search = Search(
            instance,
            progress,
            jobs=jobs if team.available() else 1,
            layer_done=lambda search, path=None if number else parsed.resume: _save(search, path),  # type: ignore[misc]
        )
        if not number and parsed.resume is not None and os.path.exists(parsed.resume):
            take_up(search, _content(parsed.resume), parsed.resume)
        try:
            reports.append(search.run())
        except KeyboardInterrupt:
            ticker.clear()
            if not number and parsed.resume is not None and search.layers:
                told = f"{search.layers} layers are saved in {parsed.resume}; the same command goes on from there"
                print(f"emu: note: {told}", file=sys.stderr)
            raise
        finally:
            ticker.clear()
        if reports[-1].verdict == REFUTED:
            break
    return reports


def _save(search: Search, path: str | None) -> None:
    if path is not None:
        with output_file(path, "--resume") as file:
            file.write(to_bytes(search))


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise HostError(f"the file cannot be read ({error.strerror})", path) from None


def _so_far(search: Search) -> str:
    return f"{search.layers} host steps, {search.met:,} states; Ctrl-C ends it"


def _instances(parsed: argparse.Namespace) -> list[Instance]:
    """What is explored: the machine that offers steal time, and then the one that does not."""
    image = load_guest(parsed.guest)
    names, own = _properties(parsed.property or [])
    vcpus = _number(parsed.vcpus, "--vcpus", 1, 4, 1)
    reads = _number(parsed.reads, "--reads", 0, 100, 0)
    if not names and not own:
        left = {CLOCK, *(() if vcpus > 1 else (AWAKE,)), *((FORWARD,) if reads == 1 else ())}
        names = frozenset(PROPERTIES) - left
    offered = Instance(
        image,
        parsed.host_model or _OTHER_CPU,
        _number(parsed.updates, "--updates", 0, MAX_UPDATES, 2),
        parsed.steal_store == "halves",
        _number(parsed.burst, "--burst", 1, MAX_BURST, 1),
        vcpus,
        _number(parsed.switches, "--switches", 0, 16, 2 if vcpus > 1 else 0),
        _number(parsed.jumps, "--jumps", 0, 16, 0),
        None if parsed.read is None else read_of(image, parsed.read),
        insn_limit=_number(parsed.insn_limit, "--insn-limit", 1, 10**9, 1_000_000),
        state_limit=_number(parsed.state_limit, "--state-limit", 1, 10**8, 200_000),
        properties=names,
        own=own,
        reads=reads,
        ram=0 if parsed.ram is None else from_text({"ram": [parsed.ram]}).ram,
    )
    if not offered.updates:
        return [offered]
    return [offered, offered._replace(withheld=(_STEAL_TIME,))]


def _properties(words: list[str]) -> tuple[frozenset[str], tuple[tuple[str, Own], ...]]:
    names: set[str] = set()
    own: list[tuple[str, Own]] = []
    for word in words:
        file, colon, function = word.rpartition(":")
        if colon:
            own.append((function, _function(file, function)))
        elif word in PROPERTIES:
            names.add(word)
        else:
            from emu.scenario import did_you_mean

            raise HostError(f"there is no property {word!r}", "--property", did_you_mean(word, PROPERTIES))
    return frozenset(names), tuple(own)


def _function(file: str, name: str) -> Own:
    """The user's function of that name in that file, which is executed."""
    function = own_code.own(f"{file}:{name}", "function")
    if not callable(function):
        raise HostError(f"there is no function {name!r} in it", file)

    def holds(moment: Any) -> str | None:
        try:
            why: str | None = function(moment)
        except Exception as error:
            raise HostError(f"the property failed ({type(error).__name__}: {error})", f"{file}:{name}") from None
        return why

    return holds


def _tell(parsed: argparse.Namespace, instances: list[Instance], reports: list[Report]) -> int:
    judged = _sum(reports)
    wanted_names = [
        *(name for name in PROPERTIES if name in instances[0].properties),
        *(n for n, _ in instances[0].own),
    ]
    untested = [name for name in wanted_names if not judged.get(name)]
    last = reports[-1]
    verdict = REFUTED if last.verdict == REFUTED else OPEN if any(one.verdict == OPEN for one in reports) else PROVED
    if verdict == PROVED and untested:
        verdict = OPEN
    told: list[str] = []
    recording = ""
    if last.found is not None:
        told, recording = _record(parsed, instances[len(reports) - 1], last)
    if parsed.json:
        print(json.dumps(_as_json(parsed, verdict, instances, reports, judged, untested, told, recording)))
    else:
        print("\n".join(_text(parsed, verdict, instances, reports, judged, untested, told, recording)))
    return _STATUS[verdict]


def _record(parsed: argparse.Namespace, instance: Instance, report: Report) -> tuple[list[str], str]:
    """The story of a violation, and the file that replays it."""
    assert report.found is not None
    name = Path(parsed.guest).name.partition(".")[0]
    path = parsed.record or f"{name}.emurec"
    if parsed.record is None and os.path.exists(path) and not _is_recording(path):
        raise HostError("this file is no recording, and would be replaced", path, "name another with --record FILE")
    kept = evidence(instance, report.found, name, data.source_text)
    with output_file(path, "--record", [parsed.guest]) as file:
        file.write(recording_bytes(kept))
    return list(kept.story), path


def _is_recording(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(7) == b"emurec "
    except OSError:
        return False


def _sum(reports: list[Report]) -> dict[str, int]:
    judged: dict[str, int] = {}
    for report in reports:
        for name, count in report.judged.items():
            judged[name] = judged.get(name, 0) + count
    return judged


def _text(
    parsed: argparse.Namespace,
    verdict: str,
    instances: list[Instance],
    reports: list[Report],
    judged: dict[str, int],
    untested: list[str],
    told: list[str],
    recording: str,
) -> list[str]:
    instance = instances[0]
    lines = [*textwrap.wrap(f"{parsed.guest}: {_headline(verdict, reports, untested)}", _WIDTH), ""]
    for number, report in enumerate(reports):
        lines += textwrap.wrap(_covered(instances[number], report), _WIDTH)
    lines.append("")
    culprit = reports[-1].found.violation.property if reports[-1].found is not None else ""
    for name in _judged_names(instance):
        state = "does not hold" if name == culprit else _times(judged.get(name, 0))
        head = f"  {name:<10} {state:<22} "
        lines += textwrap.wrap(
            PROPERTIES.get(name, "a property of your own"),
            _WIDTH,
            initial_indent=head,
            subsequent_indent=" " * len(head),
        )
    if told:
        lines += ["", "The shortest schedule that shows it:", "", *(f"  {line}" for line in told)]
        lines += ["", f"saved as {recording}; `emu replay {recording}` shows where it ends"]
    return lines


def _judged_names(instance: Instance) -> list[str]:
    return [*(name for name in PROPERTIES if name in instance.properties), *(name for name, _ in instance.own)]


def _times(count: int) -> str:
    return f"judged {times(count)}" if count else "never put to the test"


def _headline(verdict: str, reports: list[Report], untested: list[str]) -> str:
    if verdict == REFUTED:
        found = reports[-1].found
        assert found is not None
        return f"refuted, by {many(len(found.way.steps), 'step')} of the host"
    if verdict == PROVED:
        return "proved, for every schedule within the bound"
    for report in reports:
        if not report.complete:
            return (
                f"not decided: the bound on states was met among the schedules with {many(report.layers, 'host step')}"
                " (--state-limit sets another)"
            )
        if report.cut:
            return f"not decided: {many(report.cut, 'run')} met the bound on instructions (--insn-limit sets another)"
    hint = "mark a read (see steal.h), name one with --read, or choose with --property"
    return (
        f"not exercised: {', '.join(untested)} {'was' if len(untested) == 1 else 'were'} never put to the test; {hint}"
    )


def _covered(instance: Instance, report: Report) -> str:
    """What was tried, in plain words."""
    states, ends = many(report.states, "state"), many(report.ends, "way")
    if instance.withheld:
        return f"On a machine that does not offer steal time: {states}, {ends} to the end."
    stores = "two stores of steal" if instance.halves else "one store of steal"
    what = f"store by store ({stores})" if instance.model == _OTHER_CPU else "each whole, between two instructions"
    burst = f", or {instance.burst:,} at once" if instance.burst > 1 else ""
    steps = [f"up to {many(instance.updates, 'update')}{burst}, {what}"] if instance.updates else []
    if instance.vcpus > 1:
        steps.append(f"up to {many(instance.switches, 'switch')} between vCPUs that nobody asked for")
    if instance.jumps:
        waits = many(instance.jumps, "wait")
        steps.append(f"up to {waits} of the vCPU, each with a jump of time and the update that follows")
    text = f"Host steps: {'; '.join(steps) or 'none'}."
    if instance.reads:
        text += f" Looked at until each vCPU has made {many(instance.reads, 'read')}."
    text += f" {states} at {many(report.points, 'visible point')}, {ends} to the end."
    if report.complete:
        text += f" That decides {many(report.schedules, 'order')} of host steps and visible points,"
        text += f" and {many(report.placements, 'placement')} between instructions."
    elif report.found is None and report.layers:
        text += f" All schedules with fewer than {many(report.layers, 'host step')} are decided."
    if report.time_matters:
        text += " The guest reads the time, so states at different times are different."
    return text


def _as_json(
    parsed: argparse.Namespace,
    verdict: str,
    instances: list[Instance],
    reports: list[Report],
    judged: dict[str, int],
    untested: list[str],
    told: list[str],
    recording: str,
) -> dict[str, Any]:
    found = reports[-1].found
    instance = instances[0]
    return {
        "guest": parsed.guest,
        "verdict": verdict,
        "host_model": instance.model,
        "updates": instance.updates,
        "steal_store": "halves" if instance.halves else "whole",
        "burst": instance.burst,
        "judged": judged,
        "untested": untested,
        "explored": [
            {
                "withheld": list(one.withheld),
                **{name: value for name, value in report._asdict().items() if name not in ("found", "judged")},
            }
            for one, report in zip(instances, reports, strict=False)
        ],
        "violation": None if found is None else found.violation._asdict(),
        "steps": None if found is None else [_step(edit) for edit in found.way.steps],
        "story": told,
        "recording": recording or None,
    }


def _step(edit: Any) -> dict[str, Any]:
    from emu.history.edits import to_json

    return to_json(edit)


def _number(text: str | None, where: str, low: int, high: int, default: int) -> int:
    if text is None:
        return default
    if not is_digits(text, 12) or not low <= int(text) <= high:
        raise HostError(f"{text!r} cannot be used", where, f"give a whole number from {low} to {high}")
    return int(text)


def _parser() -> Parser:
    usage = "emu explore GUEST [options]"
    text = "Try every placement of the host's steps over a guest's execution, and say what holds."
    parser = Parser("explore", text, _EPILOG, usage)
    parser.add_argument("guest", metavar="GUEST", help="as for `emu run`")
    host = parser.add_argument_group("what the host may do")
    host.add_argument("--updates", action=Once, metavar="N", help="so many updates of each area (default: 2)")
    host.add_argument(
        "--host-model",
        action=Once,
        choices=HOST_MODELS,
        help="kvm: an update is whole, between two instructions of its vCPU; other-cpu: store by store (default)",
    )
    host.add_argument(
        "--steal-store", action=Once, choices=STEAL_STORES, help="steal is stored whole (default) or in halves"
    )
    host.add_argument("--ram", action=Once, metavar="SIZE", help="guest memory (default: what the program needs)")
    host.add_argument("--burst", action=Once, metavar="N", help="or N updates at once, in the place of one")
    host.add_argument("--vcpus", action=Once, metavar="N", help="so many vCPUs on one pCPU (default: 1)")
    host.add_argument("--switches", action=Once, metavar="N", help="so many switches between them (default: 2)")
    host.add_argument("--jumps", action=Once, metavar="N", help="so often the vCPU is made to wait (default: 0)")
    what = parser.add_argument_group("what is judged")
    what.add_argument("--read", action=Once, metavar="FUNCTION[:REGISTER]", help="a read that the guest does not mark")
    what.add_argument("--property", action="append", metavar="NAME", help="this alone, or FILE.py:FUNCTION; repeatable")
    bound = parser.add_argument_group("how far it goes")
    bound.add_argument("--insn-limit", action=Once, metavar="N", help="the longest run, in instructions (default: 1e6)")
    bound.add_argument("--reads", action=Once, metavar="N", help="until each vCPU has made N (default: to the end)")
    bound.add_argument("--state-limit", action=Once, metavar="N", help="the most states (default: 200000)")
    rest = parser.add_argument_group("the command itself")
    rest.add_argument("--jobs", action=Once, metavar="N", help="share the work out to N processes (default: 1)")
    rest.add_argument(
        "--resume", action=Once, metavar="FILE", help="keep what is known in FILE, and go on from there if it exists"
    )
    rest.add_argument("--record", action=Once, metavar="FILE", help="where to save a violation (default: GUEST.emurec)")
    rest.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    rest.add_argument("--quiet", action="store_true", help="no progress line")
    return parser
