"""`emu fuzz`: a guest under a host that is odd or hostile, and what is done with inputs and findings.

Exit status: 0 where nothing was found, 1 where something was; 2 for input that cannot be used; 130 after Ctrl-C, and
what was found by then is kept.
"""

import json
import os
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emu import data
from emu.commands.flags import Once, Parser
from emu.commands.interruption import interruption
from emu.commands.output_file import output_file
from emu.commands.progress import Ticker, wanted
from emu.conform.text import format_sequence, parse_sequence
from emu.faults import HostError, escaped
from emu.fuzz import campaign, coverage, findings, operations, records, seeds
from emu.fuzz.campaign import State
from emu.fuzz.harness import Harness
from emu.fuzz.host import HostHarness
from emu.fuzz.outcome import ORACLES
from emu.fuzz.own_device import device_of
from emu.fuzz.records import HOSTS, ODD_HOST
from emu.fuzz.target import Target, target_of
from emu.fuzz.worker import AFL, ATHERIS, HYPOTHESIS, RANDOM, SWEEP, Job
from emu.history.recording import load_recording
from emu.scenario import did_you_mean, is_digits

_ENGINES = (ATHERIS, AFL, HYPOTHESIS, RANDOM, SWEEP)
_MAX_INPUT = 1 << 16
_WIDTH = 78
_INDENT: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  "}

_EPILOG = """ways:
  emu fuzz guest TARGET         look for a schedule of the host that breaks it
  emu fuzz host                 look for what a host does not get right
  emu fuzz replay FINDING       run a finding again, and record it
  emu fuzz shrink INPUT TARGET  the shortest input that fails in the same way
  emu fuzz decode INPUT         an input as lines
  emu fuzz encode LINES         and back
  emu fuzz seeds RECORDING...   inputs made of what ordinary hosts did

Each has a --help of its own. exit status: 0 nothing found; 1 something found;
2 bad input; 70 a fault of emu itself; 130 Ctrl-C
"""
_HOSTS = """hosts:
  honest   keeps the protocol as KVM does
  odd      keeps it, in ways KVM never would: versions about to wrap, steal at
           the borders of its halves, bytes that mean nothing (the default)
  hostile  keeps nothing; only what no host may bring about is a finding
"""
_HOST_EPILOG = """A sequence is one to eight operations: RDMSR, WRMSR, CPUID, loads and stores of
a guest; entries, save and restore, INIT from outside. The specification's model
says what each must come to.

  emu fuzz host
  emu fuzz host --judge kvm --time 10m
  emu fuzz host --device mine.py:StealTime

The device is a class derived from emu.devices.steal_time.StealTime; its file is
code, and runs as you do. Of each finding there is the shortest sequence, and
the command that does it again.

exit status: 0 nothing found; 1 something found; 2 bad input; 130 Ctrl-C
"""
_GUEST_EPILOG = f"""{_HOSTS}
TARGET is a guest as for `emu run`, or a TOML file with the keys guest, host,
since, insns, passes, clamps and oracles. It is entered at the moment at which it has
registered its area, or at a function that --since names; reads are what stands
between STEAL_MARK_BEGIN and STEAL_MARK_END of steal.h.

  emu fuzz guest readers/odd_only
  emu fuzz guest readers/seqlock --time 60s --jobs 2
  emu fuzz guest my_kernel.elf --since main_loop --host hostile --out campaign
  emu fuzz guest my_kernel.elf --oracle mine.py:balanced

An oracle of your own is a function of one argument, a Seen (see
emu/fuzz/outcome.py), that returns None where all is well and else says what is
not. It is code, and runs as you do.

In the folder of --out are corpus/ and findings/; the same command goes on with
them. Of each finding there are the shortest input, its story, and a recording
for `emu step` and every other viewer.

exit status: 0 nothing found; 1 something found; 2 bad input; 130 Ctrl-C
"""


def main(arguments: list[str]) -> int:
    """Run `emu fuzz` with these words."""
    ways: dict[str, Callable[[list[str]], int]] = {
        "guest": _guest,
        "host": _host_under_test,
        "replay": _replay,
        "shrink": _shrink,
        "decode": _decode,
        "encode": _encode,
        "seeds": _seeds,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        parser = Parser("fuzz", "Look for what breaks a guest, from the host's side.", _EPILOG, "emu fuzz WAY ...")
        parser.parse(arguments or ["--help"])
    if arguments[0] not in ways:
        raise HostError(
            f"there is no way to fuzz called {arguments[0]!r}", "emu fuzz", did_you_mean(arguments[0], ways)
        )
    return ways[arguments[0]](arguments[1:])


# --- a campaign ------------------------------------------------------------------------------------------------------


def _guest_parser() -> Parser:
    parser = Parser(
        "fuzz guest",
        "Look for a schedule of the host that breaks a guest: all short ones, then as an engine leads.",
        _GUEST_EPILOG,
        "emu fuzz guest TARGET [options]",
    )
    parser.add_argument("target", metavar="TARGET")
    _add_target(parser)
    _add_campaign(parser, "fuzz-TARGET")
    return parser


def _guest(arguments: list[str]) -> int:
    parsed = _guest_parser().parse(arguments)
    table = _table(parsed)
    target = target_of(table)
    early = findings.before(target, data.source_text)
    harness = None
    try:
        harness = Harness(target)  # whatever cannot be used is told before anything is started
        harness.fails(b"")
    except HostError:
        if not early:
            raise
    out = Path(parsed.out or f"fuzz-{Path(parsed.target).stem}")
    for key in findings.settle(out / "findings", harness, early):
        if not parsed.json:
            print(escaped(f"fixed since it was found: {key}, now in {out}/fixed"))

    def report(engine: str, state: State) -> int:
        return _report(parsed, target, out, engine, state)

    return _campaign(parsed, table, out, report, sweep=not parsed.no_sweep)


def _host_parser() -> Parser:
    parser = Parser(
        "fuzz host",
        "Look for a sequence of a guest's operations in which a host does not do what the specification says.",
        _HOST_EPILOG,
        "emu fuzz host [options]",
    )
    parser.add_argument("--judge", action=Once, metavar="NAME", help="kvm: real KVM is under test as well")
    parser.add_argument("--no-known", action="store_true", help="known differences of KVM are findings, too")
    parser.add_argument("--device", action=Once, metavar="FILE.py:CLASS", help="this steal-time device is under test")
    _add_campaign(parser, "fuzz-host")
    return parser


def _host_under_test(arguments: list[str]) -> int:
    parsed = _host_parser().parse(arguments)
    if parsed.judge not in (None, "kvm"):
        raise HostError(f"there is no judge {parsed.judge!r}", "--judge", "there is: kvm")
    if parsed.device is not None:
        device_of(parsed.device)
    table = {"kvm": parsed.judge is not None, "known": not parsed.no_known, "device": parsed.device}
    if parsed.engine == AFL:
        raise HostError("AFL++ leads guests alone", "--engine", f"choose {ATHERIS} or {HYPOTHESIS}")
    if table["kvm"]:
        HostHarness(kvm=True).close()  # that there is none is told before anything is started
    out = Path(parsed.out or "fuzz-host")
    who = parsed.device or ("KVM and the emulator" if table["kvm"] else "the emulator")

    def report(engine: str, state: State) -> int:
        known = campaign.findings(out)
        if parsed.json:
            print(json.dumps({"host": who, "engine": engine, **state._asdict(), "findings": known}))
            return 1 if known else 0
        speed = state.executions / max(state.seconds, 0.1)
        told = [f"{who}: {state.executions:,} sequences in {state.seconds:.1f} s ({speed:,.0f}/s), engine {engine}"]
        told += _swept(state)
        told += [] if known else ["", "nothing was found"]
        for one in known:
            story = (out / "findings" / one["key"] / "story.txt").read_text(encoding="utf-8")
            told += ["", one["key"], *(f"  {line}" for line in story.splitlines())]
        print("\n".join(escaped(line) for line in told))
        return 1 if known else 0

    return _campaign(parsed, table, out, report, sweep=not parsed.no_sweep)


def _campaign(
    parsed: Any, table: dict[str, Any], out: Path, report: Callable[[str, State], int], *, sweep: bool
) -> int:
    """Run a campaign in `out`, and report; after Ctrl-C as well."""
    engine = parsed.engine or campaign.default_engine()
    if engine not in _ENGINES:
        raise HostError(f"there is no engine {engine!r}", "--engine", did_you_mean(engine, _ENGINES))
    runs, seconds = _count(parsed.runs, "--runs", 0), _seconds(parsed.time)
    if seconds is None:
        seconds = 0 if runs else 60
    seed, jobs = _count(parsed.seed, "--seed", 0), max(_count(parsed.jobs, "--jobs", 1), 1)
    job = Job(table, str(out), engine, seed, seconds, runs, parsed.exit_on_first, sweep)
    ticker = Ticker(sys.stderr, enabled=not parsed.quiet and wanted(sys.stderr, sys.stdout))
    last: list[State] = []

    def found(line: dict[str, Any]) -> None:
        if not parsed.json:
            ticker.clear()
            print(escaped(f"found after {line['after']:,} executions, {line['at']} s: {line['why']}"), flush=True)

    def told(state: State) -> None:
        last[:] = [state]
        ticker(lambda: _live(state))

    try:
        with interruption() as check:
            state = campaign.run(job, jobs, told, found, check)
    except KeyboardInterrupt:
        ticker.clear()
        if last:
            report(engine, last[0])
        raise
    finally:
        ticker.clear()
    return report(engine, state)


def _live(state: State) -> str:
    speed = state.executions / max(state.seconds, 0.1)
    return (
        f"{state.seconds:.0f} s  {state.executions:,} executions, {speed:,.0f}/s  {state.edges} edges"
        f" (last new {state.since_edge:.0f} s ago)  corpus {state.corpus}  findings {state.findings}"
    )


def _report(parsed: Any, target: Target, out: Path, engine: str, state: State) -> int:
    blocks = campaign.blocks(out)
    covered = coverage.covered(target.image, blocks)
    files = {
        "coverage.html": coverage.as_page(covered, f"{target.name}: what was executed", data.source_text).encode(),
        "coverage.info": coverage.as_lcov(covered).encode(),
        "coverage.drcov": coverage.as_drcov(target.image, target.name, blocks),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with output_file(str(out / name), "--out") as file:
            file.write(content)
    known = campaign.findings(out)
    if parsed.json:
        told = {
            "target": target.name,
            "host": target.host,
            "engine": engine,
            **state._asdict(),
            "swept": [list(one) for one in state.swept],
            "lines": list(covered.lines),
            "findings": known,
        }
        print(json.dumps(told))
        return 1 if known else 0
    print("\n".join(escaped(line) for line in _lines(target, out, engine, state, covered.lines, known)))
    return 1 if known else 0


def _swept(state: State) -> list[str]:
    if not state.swept:
        return []
    told = [f"  {size:7,}  {name}" for name, size in state.swept]
    return ["all of these were tried, none left to chance:", *told]


def _lines(
    target: Target, out: Path, engine: str, state: State, lines: tuple[int, int], known: list[dict[str, Any]]
) -> list[str]:
    speed = state.executions / max(state.seconds, 0.1)
    told = [
        f"{target.name}, under a host that is {target.host}: {state.executions:,} executions in {state.seconds:.1f} s"
        f" ({speed:,.0f}/s), engine {engine}{'' if state.native else ', without the callbacks in C'}",
    ]
    told += _swept(state)
    if state.exactly:
        told.append(f"{state.exactly:,} executions needed the whole machine, which is slower")
    if state.deaths:
        told.append(f"a worker died {state.deaths} times, and was started again")
    told.append(f"{state.edges} edges, {lines[0]} of {lines[1]} lines: {out}/coverage.html")
    if not known:
        return [*told, "", "nothing was found"]
    told += ["", f"{len(known)} {'finding' if len(known) == 1 else 'findings'}, by cause:"]
    for one in known:
        told += ["", f"{one['oracle']}: {ORACLES.get(one['oracle'], '')}"]
        told += textwrap.wrap(one["why"], _WIDTH, **_INDENT)
        if one["cause"]:
            told += textwrap.wrap(
                f"{one['place']}: {one['cause']}", _WIDTH, initial_indent="  ", subsequent_indent="  "
            )
        elif one["place"]:
            told.append(f"  {one['place']}")
        place = out / "findings" / one["key"]
        told += [f"  {one['bytes']} bytes; the story: {place}/story.txt", f"  emu step {place}/replay.emurec"]
    return told


# --- one input -------------------------------------------------------------------------------------------------------


def _replay_parser() -> Parser:
    parser = Parser(
        "fuzz replay",
        "Run a finding again, on the target as it is now: its story, or that it is fixed.",
        "FINDING is a folder of findings/, or an input; then name the target, too.\n\n"
        "exit status: 0 fixed, nothing fails; 1 it fails; 2 bad input",
        "emu fuzz replay FINDING [TARGET] [options]",
    )
    parser.add_argument("finding", metavar="FINDING")
    parser.add_argument("target", metavar="TARGET", nargs="?")
    _add_target(parser)
    parser.add_argument("--record", action=Once, metavar="FILE", help="keep the run, for `emu step` and the others")
    return parser


def _replay(arguments: list[str]) -> int:
    parsed = _replay_parser().parse(arguments)
    path = Path(parsed.finding)
    if path.is_dir():
        told = _finding_of(path)
        parsed.target = parsed.target or told["target"]
        parsed.host = parsed.host or told["host"]
        path = path / "input"
    if parsed.target is None:
        raise HostError("an input alone does not say what it is for", str(path), "name the target behind it")
    target = target_of(_table(parsed))
    early = [one for one in findings.before(target, data.source_text) if one.key == path.parent.name]
    found = early[0] if early else findings.finding(Harness(target), _input(path), data.source_text)
    if found is None:
        print("fixed: nothing fails with this input")
        return 0
    print("\n".join(escaped(line) for line in found.story))
    if found.cause:
        print(escaped(f"likely cause: {found.place}: {found.cause}"))
    if parsed.record:
        with output_file(parsed.record, "--record", [str(path)]) as file:
            file.write(found.recording)
        print(escaped(f"see it: emu step {parsed.record}"))
    return 1


def _shrink_parser() -> Parser:
    parser = Parser(
        "fuzz shrink",
        "Make an input as short as it can be while it fails in the same way.",
        "exit status: 0 it was made, or is as short as can be; 1 nothing fails with it; 2 bad input",
        "emu fuzz shrink INPUT TARGET [options]",
    )
    parser.add_argument("input", metavar="INPUT")
    parser.add_argument("target", metavar="TARGET")
    _add_target(parser)
    parser.add_argument("-o", "--output", action=Once, metavar="FILE", help="where it goes (default: INPUT.short)")
    return parser


def _shrink(arguments: list[str]) -> int:
    parsed = _shrink_parser().parse(arguments)
    harness = Harness(target_of(_table(parsed)))
    given = _input(Path(parsed.input))
    if harness.fails(given) is None:
        print("nothing fails with this input")
        return 1
    short = findings.shortest(harness, given)
    place = parsed.output or f"{parsed.input}.short"
    with output_file(place, "-o") as file:
        file.write(short)
    print(escaped(f"{len(given)} bytes became {len(short)}: {place}"))
    print(records.to_text(records.decode(short, harness.target.host)), end="")
    return 0


def _decode_parser() -> Parser:
    parser = Parser(
        "fuzz decode",
        "Print an input as lines, which `emu fuzz encode` reads.",
        _HOSTS,
        "emu fuzz decode INPUT [--host H]",
    )
    parser.add_argument("input", metavar="INPUT")
    _add_host(parser)
    parser.add_argument("--operations", action="store_true", help="it is an input of `emu fuzz host`")
    return parser


def _decode(arguments: list[str]) -> int:
    parsed = _decode_parser().parse(arguments)
    content = _input(Path(parsed.input))
    if parsed.operations:
        print("\n".join(format_sequence([one]) for one in operations.decode(content)))
        return 0
    print(records.to_text(records.decode(content, _host(parsed.host))), end="")
    return 0


def _encode_parser() -> Parser:
    meanings = "\n".join(f"  {name:13} {text}" for name, text in records.MEANS.items())
    parser = Parser(
        "fuzz encode",
        "Make an input of lines, such as: after 3 step 0x10",
        f"kinds:\n{meanings}\n\n`after N` counts the guest's accesses to its area since the line before.",
        "emu fuzz encode LINES -o FILE",
    )
    parser.add_argument("lines", metavar="LINES")
    parser.add_argument("-o", "--output", action=Once, metavar="FILE", help="the input (default: LINES.input)")
    parser.add_argument("--operations", action="store_true", help="it is to be an input of `emu fuzz host`")
    return parser


def _encode(arguments: list[str]) -> int:
    parsed = _encode_parser().parse(arguments)
    try:
        text = _input(Path(parsed.lines)).decode("utf-8")
    except UnicodeDecodeError:
        raise HostError("this is no text", parsed.lines) from None
    if parsed.operations:
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        content = operations.encode(parse_sequence(";".join(lines)))
    else:
        content = records.encode(records.from_text(text, parsed.lines))
    place = parsed.output or f"{parsed.lines}.input"
    with output_file(place, "-o", [parsed.lines]) as file:
        file.write(content)
    print(escaped(f"{len(content)} bytes: {place}"))
    return 0


def _seeds_parser() -> Parser:
    parser = Parser(
        "fuzz seeds",
        "Make inputs of what the hosts of recorded runs did (`emu run --record`): a corpus to begin with.",
        _HOSTS,
        "emu fuzz seeds RECORDING... --out DIR",
    )
    parser.add_argument("recordings", metavar="RECORDING", nargs="+")
    parser.add_argument("--out", action=Once, metavar="DIR", help="the folder of the corpus (default: corpus)")
    _add_host(parser)
    return parser


def _seeds(arguments: list[str]) -> int:
    parsed = _seeds_parser().parse(arguments)
    made = {}
    for path in parsed.recordings:
        made[f"{Path(path).stem}.seed"] = seeds.seed(load_recording(path), path, _host(parsed.host))
    out = Path(parsed.out or "corpus")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"the corpus cannot be put here ({error.strerror})", str(out)) from None
    for name, content in made.items():
        with output_file(str(out / name), "--out") as file:
            file.write(content)
        print(escaped(f"{len(content)} bytes: {out / name}"))
    return 0


def _add_campaign(parser: Parser, folder: str) -> None:
    engines = ", ".join(_ENGINES)
    parser.add_argument("--engine", action=Once, metavar="NAME", help=f"{engines} (default: the best there is)")
    parser.add_argument("--time", action=Once, metavar="T", help="end after so long: 90s, 10m, 2h (default: 60s)")
    parser.add_argument("--runs", action=Once, metavar="N", help="end after so many executions")
    parser.add_argument("-j", "--jobs", action=Once, metavar="N", help="so many processes (default: 1)")
    parser.add_argument("--seed", action=Once, metavar="N", help="of whatever is left to chance (default: 0)")
    parser.add_argument("--out", action=Once, metavar="DIR", help=f"where everything is kept (default: {folder})")
    parser.add_argument("--no-sweep", action="store_true", help="leave what is short to chance as well")
    parser.add_argument("--exit-on-first", action="store_true", help="end with the first finding")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress line")


# --- words -----------------------------------------------------------------------------------------------------------


def _add_host(parser: Parser) -> None:
    parser.add_argument("--host", action=Once, metavar="CLASS", help=f"{', '.join(HOSTS)} (default: {ODD_HOST})")


def _add_target(parser: Parser) -> None:
    _add_host(parser)
    parser.add_argument("--since", action=Once, metavar="FUNCTION", help="begin there, not where an area is registered")
    parser.add_argument("--insns", action=Once, metavar="N", help="end an execution after so many instructions")
    parser.add_argument(
        "--passes", action=Once, metavar="N,...", help="statuses that mean that all is well (default 0)"
    )
    parser.add_argument("--oracle", action="append", metavar="FILE.py:FUNCTION", help="what must hold; may be repeated")
    parser.add_argument("--clamps", action="store_true", help="its clock never goes back, whatever the host does")


def _host(word: str | None) -> str:
    if word is not None and word not in HOSTS:
        raise HostError(f"there is no host {word!r}", "--host", did_you_mean(word, HOSTS))
    return word or ODD_HOST


def _table(parsed: Any) -> dict[str, Any]:
    """The target: its file's table, where it has one, under what the flags say."""
    table: dict[str, Any] = {"guest": parsed.target}
    if parsed.target.endswith(".toml") and Path(parsed.target).is_file():
        table = _toml(Path(parsed.target))
    if parsed.host is not None:
        table["host"] = parsed.host
    if parsed.since is not None:
        table["since"] = parsed.since
    if parsed.insns is not None:
        table["insns"] = _count(parsed.insns, "--insns", 0)
    if parsed.passes is not None:
        table["passes"] = [_count(word, "--passes", 0) for word in parsed.passes.split(",")]
    if parsed.oracle:
        table["oracles"] = [*table.get("oracles", []), *parsed.oracle]
    if parsed.clamps:
        table["clamps"] = True
    return table


def _toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(_input(path).decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HostError(f"this is no TOML ({error})", str(path)) from None
    guest = table.get("guest")
    if type(guest) is str and (path.parent / guest).is_file():
        table["guest"] = os.path.relpath(path.parent / guest)
    return table


def _finding_of(path: Path) -> dict[str, str]:
    try:
        told = json.loads(_input(path / "finding.json"))
        if "target" not in told and (path / "story.txt").is_file():
            raise HostError("this is a sequence for a host", str(path), "its story.txt says how to do it again")
        return {"target": str(told["target"]), "host": str(told["host"])}
    except (ValueError, KeyError, TypeError):
        raise HostError("this is no finding", str(path), "name a folder of findings/") from None


def _input(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_INPUT + 1)
    except OSError as error:
        raise HostError(f"it cannot be read ({error.strerror})", str(path)) from None
    if len(content) > _MAX_INPUT:
        raise HostError(f"it has more than {_MAX_INPUT:,} bytes", str(path))
    return content


def _count(word: str | None, flag: str, default: int) -> int:
    if word is None:
        return default
    if not is_digits(word, 12):
        raise HostError(f"{word!r} is no whole number", flag)
    return int(word)


def _seconds(word: str | None) -> int | None:
    if word is None:
        return None
    number, unit = (word[:-1], word[-1:]) if word[-1:] in "smh" else (word, "s")
    if not is_digits(number, 6) or not int(number):
        raise HostError(f"{word!r} is no time", "--time", "write such as 90s, 10m or 2h")
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]
