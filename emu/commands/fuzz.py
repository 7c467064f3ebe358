"""`emu fuzz`: a guest under a host that is odd or hostile, and what is done with inputs and findings.

Exit status: 0 where nothing was found, 1 where something was; 2 for input that cannot be used; 130 after Ctrl-C, and
what was found by then is kept.
"""

import json
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from emu import data
from emu.commands import fuzz_inputs
from emu.commands.flags import Once, Parser
from emu.commands.fuzz_words import HOSTS_TOLD, add_target, count, table_of
from emu.commands.interruption import interruption
from emu.commands.output_file import output_file
from emu.commands.progress import Ticker, wanted
from emu.faults import HostError, escaped
from emu.fuzz import campaign, coverage, findings
from emu.fuzz.campaign import Listener, State
from emu.fuzz.findings import Finding
from emu.fuzz.harness import Harness
from emu.fuzz.host import HostHarness, harness_for
from emu.fuzz.outcome import ORACLES
from emu.fuzz.target import REGISTERED, Target, target_of
from emu.fuzz.worker import AFL, ATHERIS, HYPOTHESIS, RANDOM, SWEEP, Job
from emu.scenario import did_you_mean, is_digits
from emu.view.many import times

_ENGINES = (ATHERIS, AFL, HYPOTHESIS, RANDOM, SWEEP)
_WIDTH = 78
_INDENT: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  "}

_EPILOG = """ways:
  emu fuzz guest TARGET         look for a schedule of the host that breaks it
  emu fuzz host                 look for what a host does not get right
  emu fuzz replay FINDING       run a finding again, and record it
  emu fuzz merge TARGET CORPUS... -o DIR
                                a small corpus that does what several do
  emu fuzz shrink INPUT TARGET  the shortest input that fails in the same way
  emu fuzz decode INPUT         an input as lines
  emu fuzz encode LINES         and back
  emu fuzz seeds RECORDING...   inputs made of what ordinary hosts did

Each has a --help of its own. exit status: 0 nothing found; 1 something found;
2 bad input; 70 a fault of emu itself; 130 Ctrl-C
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
_GUEST_EPILOG = f"""{HOSTS_TOLD}
TARGET is a guest as for `emu run`, or a TOML file with the keys guest, host,
start, since, read, insns, passes, clamps, oracles, also and ram. It starts at its
entry point, or at --start. Each execution begins at the moment at which it has
registered its area, or at a function that --since names. Reads are what stands
between STEAL_MARK_BEGIN and STEAL_MARK_END of steal.h, or a function that --read
names.

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


class Way(NamedTuple):
    """One way to fuzz: its command line, and what it does with the words behind its name."""

    parser: Callable[[], Parser]
    run: Callable[[list[str]], int]


def main(arguments: list[str]) -> int:
    """Run `emu fuzz` with these words."""
    if not arguments or arguments[0] in ("-h", "--help"):
        parser = Parser("fuzz", "Look for what breaks a guest, from the host's side.", _EPILOG, "emu fuzz WAY ...")
        parser.parse(arguments or ["--help"])
    name, *words = arguments
    if name not in WAYS:
        raise HostError(f"there is no way to fuzz called {name!r}", "emu fuzz", did_you_mean(name, WAYS))
    return WAYS[name].run(words)


# --- a campaign ------------------------------------------------------------------------------------------------------


def _guest_parser() -> Parser:
    parser = Parser(
        "fuzz guest",
        "Look for a schedule of the host that breaks a guest: all short ones, then as an engine leads.",
        _GUEST_EPILOG,
        "emu fuzz guest TARGET [options]",
    )
    parser.add_argument("target", metavar="TARGET")
    add_target(parser)
    _add_campaign(parser, "fuzz-TARGET")
    return parser


def _guest(arguments: list[str]) -> int:
    parsed = _guest_parser().parse(arguments)
    table = table_of(parsed)
    target = target_of(table)
    engine = _engine(parsed)
    early = findings.before(target, data.source_text)
    harness = None
    try:
        harness = Harness(target)  # whatever cannot be used is told before anything is started
        harness.fails(b"")
    except HostError:
        if not early:
            raise
    out = Path(parsed.out or f"fuzz-{Path(parsed.target).stem}")
    _put_aside(parsed, out, harness, early)
    kept = findings.Findings(out / "findings", target)
    for one in early:
        if kept.add(one):
            _say(parsed, f"found before anything is done to it: {one.why}")

    def report(state: State) -> int:
        return _report(parsed, target, out, engine, state)

    if harness is None or (early and parsed.exit_on_first):  # it cannot be entered, or need not be
        return report(campaign.NOT_BEGUN)
    return _campaign(parsed, engine, table, out, report)


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
    table = {"kvm": parsed.judge is not None, "known": not parsed.no_known, "device": parsed.device}
    engine = _engine(parsed)
    if engine == AFL:
        raise HostError("AFL++ leads guests alone", "--engine", f"choose {ATHERIS} or {HYPOTHESIS}")
    harness = harness_for(table, careful=True)  # that there is no KVM is told before anything is started
    out = Path(parsed.out or "fuzz-host")
    try:
        _put_aside(parsed, out, harness, ())
    finally:
        harness.close()
    who = parsed.device or ("KVM and the emulator" if table["kvm"] else "the emulator")

    def report(state: State) -> int:
        known = campaign.findings(out)
        if parsed.json:
            print(json.dumps({"host": who, "engine": engine, **state._asdict(), "findings": known}))
            return 1 if known else 0
        speed = state.executions / max(state.seconds, 0.1)
        told = [f"{who}: {state.executions:,} sequences in {state.seconds:.1f} s ({speed:,.0f}/s), engine {engine}"]
        told += _swept(state)
        if state.deaths:
            told.append(
                f"a worker died {times(state.deaths)}, and was started again: each sequence apart, which is slower"
            )
        told += [] if known else ["", "nothing was found"]
        for one in known:
            story = (out / "findings" / one["key"] / "story.txt").read_text(encoding="utf-8")
            told += ["", one["key"], *(f"  {line}" for line in story.splitlines())]
        print("\n".join(escaped(line) for line in told))
        return 1 if known else 0

    return _campaign(parsed, engine, table, out, report)


def _engine(parsed: Any) -> str:
    engine: str = parsed.engine or campaign.default_engine()
    if engine not in _ENGINES:
        raise HostError(f"there is no engine {engine!r}", "--engine", did_you_mean(engine, _ENGINES))
    campaign.require(engine)
    return engine


def _put_aside(parsed: Any, out: Path, harness: Harness | HostHarness | None, early: Iterable[Finding]) -> None:
    """Put aside what was found earlier and is fixed, and say so."""
    for key in findings.settle(out / "findings", harness, early):
        _say(parsed, f"fixed since it was found: {key}, now in {out}/fixed")


def _say(parsed: Any, line: str) -> None:
    if not parsed.json:
        print(escaped(line), flush=True)


def _campaign(parsed: Any, engine: str, table: dict[str, Any], out: Path, report: Callable[[State], int]) -> int:
    """Run a campaign in `out`, and report; after Ctrl-C as well."""
    runs, seconds = count(parsed.runs, "--runs", 0), _seconds(parsed.time)
    if seconds is None:
        seconds = 0 if runs else 60
    seed, jobs = count(parsed.seed, "--seed", 0), max(count(parsed.jobs, "--jobs", 1), 1)
    job = Job(table, str(out), engine, seed, seconds, runs, parsed.exit_on_first, not parsed.no_sweep)
    ticker = Ticker(sys.stderr, enabled=not parsed.quiet and wanted(sys.stderr, sys.stdout))
    last = campaign.NOT_BEGUN

    def found(line: dict[str, Any]) -> None:
        ticker.clear()
        _say(parsed, f"found after {line['after']:,} executions, {line['at']} s: {line['why']}")

    def told(state: State) -> None:
        nonlocal last
        last = state
        ticker(lambda: _live(state))

    try:
        with interruption() as check:
            last = campaign.run(job, jobs, Listener(told, found, check))
    except KeyboardInterrupt:
        ticker.clear()
        report(last)
        raise
    finally:
        ticker.clear()
    return report(last)


def _live(state: State) -> str:
    speed = state.executions / max(state.seconds, 0.1)
    return (
        f"{state.seconds:.0f} s  {state.executions:,} at {speed:,.0f}/s  findings {state.findings}"
        f"  {state.edges} edges, the last {state.since_edge:.0f} s ago  corpus {state.corpus}"
    )


def _begins(target: Target) -> str:
    return "where the area is registered" if target.since == REGISTERED else f"at {target.since}"


def _report(parsed: Any, target: Target, out: Path, engine: str, state: State) -> int:
    blocks = campaign.blocks(out)
    covered = coverage.covered(target.image, blocks)
    files = {
        "coverage.html": coverage.as_page(covered, target.name, _begins(target), data.source_text).encode(),
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
        told.append(f"a worker died {times(state.deaths)}, and was started again")
    told.append(f"{state.edges} edges, {lines[0]} of {lines[1]} lines: {out}/coverage.html")
    if not known:
        return [*told, "", "nothing was found"]
    told += ["", f"{len(known)} {'finding' if len(known) == 1 else 'findings'}, by cause:"]
    for one in known:
        told += ["", f"{one['oracle']}: {ORACLES.get(one['oracle'], '')}"]
        told += textwrap.wrap(one["why"], _WIDTH, **_INDENT)
        if one["cause"]:
            told += textwrap.wrap(f"{one['place']}: {one['cause']}", _WIDTH, **_INDENT)
        elif one["place"]:
            told.append(f"  {one['place']}")
        place = out / "findings" / one["key"]
        told += [f"  {one['bytes']} bytes; the story: {place}/story.txt", f"  emu step {place}/replay.emurec"]
    return told


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


def _seconds(word: str | None) -> int | None:
    if word is None:
        return None
    number, unit = (word[:-1], word[-1:]) if word[-1:] in "smh" else (word, "s")
    if not is_digits(number, 6) or not int(number):
        raise HostError(f"{word!r} is no time", "--time", "write such as 90s, 10m or 2h")
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


WAYS = {
    "guest": Way(_guest_parser, _guest),
    "host": Way(_host_parser, _host_under_test),
    "replay": Way(fuzz_inputs.replay_parser, fuzz_inputs.run_replay),
    "merge": Way(fuzz_inputs.merge_parser, fuzz_inputs.run_merge),
    "shrink": Way(fuzz_inputs.shrink_parser, fuzz_inputs.run_shrink),
    "decode": Way(fuzz_inputs.decode_parser, fuzz_inputs.run_decode),
    "encode": Way(fuzz_inputs.encode_parser, fuzz_inputs.run_encode),
    "seeds": Way(fuzz_inputs.seeds_parser, fuzz_inputs.run_seeds),
}
