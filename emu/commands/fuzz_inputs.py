"""What `emu fuzz` does with one input: run it again, make it shorter, read it, write it."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from emu import data
from emu.commands.flags import Once, Parser
from emu.commands.fuzz_words import HOSTS_TOLD, add_host, add_target, host_class, read_small, table_of
from emu.commands.output_file import output_file
from emu.commands.progress import Ticker, wanted
from emu.conform.text import format_sequence, parse_sequence
from emu.faults import HostError, escaped
from emu.fuzz import corpus, findings, operations, records, seeds
from emu.fuzz.harness import Harness
from emu.fuzz.host import harness_for
from emu.fuzz.target import target_of
from emu.history.recording import load_recording


def replay_parser() -> Parser:
    """Of `emu fuzz replay`."""
    parser = Parser(
        "fuzz replay",
        "Run a finding again, on the target as it is now: its story, or that it is fixed.",
        "FINDING is a folder of findings/, or an input; then name the target, too.\n\n"
        "exit status: 0 fixed, nothing fails; 1 it fails; 2 bad input",
        "emu fuzz replay FINDING [TARGET] [options]",
    )
    parser.add_argument("finding", metavar="FINDING")
    parser.add_argument("target", metavar="TARGET", nargs="?")
    add_target(parser)
    parser.add_argument("--record", action=Once, metavar="FILE", help="keep the run, for `emu step` and the others")
    return parser


def run_replay(arguments: list[str]) -> int:
    """`emu fuzz replay` with these words."""
    parsed = replay_parser().parse(arguments)
    path, told = Path(parsed.finding), {}
    if path.is_dir():
        told = _finding_of(path)
        if "under" in told:
            return _replay_host(path, told["under"])
        parsed.target = parsed.target or told["target"]
        parsed.host = parsed.host or told["host"]
        path = path / "input"
    if parsed.target is None:
        raise HostError("an input alone does not say what it is for", str(path), "name the target behind it")
    table = table_of(parsed)
    for name in findings.CLAIMS:
        if name in told:
            table.setdefault(name, told[name])
    target = target_of(table)
    early = [one for one in findings.before(target, data.source_text) if one.key == path.parent.name]
    found = early[0] if early else findings.finding(Harness(target), read_small(path), data.source_text)
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


def _replay_host(path: Path, under: dict[str, Any]) -> int:
    """A sequence for a host, again."""
    harness = harness_for(under, careful=True)
    try:
        found = harness.finding(read_small(path / "input"))
    finally:
        harness.close()
    if found is None:
        print("fixed: nothing fails with this sequence")
        return 0
    print("\n".join(escaped(line) for line in found.story))
    return 1


def shrink_parser() -> Parser:
    """Of `emu fuzz shrink`."""
    parser = Parser(
        "fuzz shrink",
        "Make an input as short as it can be while it fails in the same way.",
        "exit status: 0 it was made, or is as short as can be; 1 nothing fails with it; 2 bad input",
        "emu fuzz shrink INPUT TARGET [options]",
    )
    parser.add_argument("input", metavar="INPUT")
    parser.add_argument("target", metavar="TARGET")
    add_target(parser)
    parser.add_argument("-o", "--output", action=Once, metavar="FILE", help="where it goes (default: INPUT.short)")
    return parser


def run_shrink(arguments: list[str]) -> int:
    """`emu fuzz shrink` with these words."""
    parsed = shrink_parser().parse(arguments)
    harness = Harness(target_of(table_of(parsed)))
    given = read_small(Path(parsed.input))
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


def merge_parser() -> Parser:
    """Of `emu fuzz merge`."""
    parser = Parser(
        "fuzz merge",
        "Put of several corpora into one what together takes all edges that they take, shortest inputs first.",
        "CORPUS is a folder of inputs: corpus/ of a campaign, or queue/ of an instance of AFL++.",
        "emu fuzz merge TARGET CORPUS... -o DIR [options]",
    )
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("corpora", metavar="CORPUS", nargs="+")
    add_target(parser)
    parser.add_argument(
        "-o", "--output", action=Once, metavar="DIR", help="where they go: a new folder, or an empty one"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress line")
    return parser


def run_merge(arguments: list[str]) -> int:
    """`emu fuzz merge` with these words."""
    parsed = merge_parser().parse(arguments)
    if parsed.output is None:
        raise HostError("where to is missing", "emu fuzz merge", "say -o DIR")
    harness = Harness(target_of(table_of(parsed)))
    inputs = [read_small(path) for name in parsed.corpora for path in _inputs(Path(name))]
    out = Path(parsed.output)
    if out.is_dir() and any(out.iterdir()):
        raise HostError("there is something in this folder already", str(out), "name a new one")
    ticker = Ticker(sys.stderr, enabled=not parsed.quiet and wanted(sys.stderr, sys.stdout))

    def tell(done: int) -> None:
        ticker(lambda: f"{done:,} of {len(inputs):,} inputs")

    kept, edges = corpus.minimized(harness, inputs, tell)
    ticker.clear()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for data in kept:
            (out / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    except OSError as error:
        raise HostError(f"this folder cannot be written ({error.strerror})", str(out)) from None
    print(escaped(f"{len(kept)} of {len(inputs)} inputs, for {edges} edges and how often each is taken: {out}"))
    return 0


def _inputs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise HostError("this is no folder", str(folder), "name one with inputs in it")
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def decode_parser() -> Parser:
    """Of `emu fuzz decode`."""
    parser = Parser(
        "fuzz decode",
        "Print an input as lines, which `emu fuzz encode` reads.",
        HOSTS_TOLD,
        "emu fuzz decode INPUT [--host H]",
    )
    parser.add_argument("input", metavar="INPUT")
    add_host(parser)
    parser.add_argument("--operations", action="store_true", help="it is an input of `emu fuzz host`")
    return parser


def run_decode(arguments: list[str]) -> int:
    """`emu fuzz decode` with these words."""
    parsed = decode_parser().parse(arguments)
    content = read_small(Path(parsed.input))
    if parsed.operations:
        print("\n".join(format_sequence([one]) for one in operations.decode(content)))
        return 0
    print(records.to_text(records.decode(content, host_class(parsed.host))), end="")
    return 0


def encode_parser() -> Parser:
    """Of `emu fuzz encode`."""
    meanings = "\n".join(f"  {name:13} {text}" for name, text in records.MEANS.items())
    parser = Parser(
        "fuzz encode",
        "Make an input of lines, such as: after 3 step 0x10",
        f"kinds:\n{meanings}\n\n`after N` counts the guest's accesses to its area since the line before, and\n"
        "its exits for CPUID, MSRs, the time and hypercalls.",
        "emu fuzz encode LINES -o FILE",
    )
    parser.add_argument("lines", metavar="LINES")
    parser.add_argument("-o", "--output", action=Once, metavar="FILE", help="the input (default: LINES.input)")
    parser.add_argument("--operations", action="store_true", help="it is to be an input of `emu fuzz host`")
    return parser


def run_encode(arguments: list[str]) -> int:
    """`emu fuzz encode` with these words."""
    parsed = encode_parser().parse(arguments)
    try:
        text = read_small(Path(parsed.lines)).decode("utf-8")
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


def seeds_parser() -> Parser:
    """Of `emu fuzz seeds`."""
    parser = Parser(
        "fuzz seeds",
        "Make inputs of what the hosts of recorded runs did (`emu run --record`): a corpus to begin with.",
        HOSTS_TOLD,
        "emu fuzz seeds RECORDING... --out DIR",
    )
    parser.add_argument("recordings", metavar="RECORDING", nargs="+")
    parser.add_argument("--out", action=Once, metavar="DIR", help="the folder of the corpus (default: corpus)")
    add_host(parser)
    return parser


def run_seeds(arguments: list[str]) -> int:
    """`emu fuzz seeds` with these words."""
    parsed = seeds_parser().parse(arguments)
    made = {}
    for path in parsed.recordings:
        made[f"{Path(path).stem}.seed"] = seeds.seed(load_recording(path), path, host_class(parsed.host))
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


def _finding_of(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(read_small(path / "finding.json"))
        if "under" in told:
            return {"under": {name: told["under"][name] for name in findings.HOST_CLAIMS}}
        claims = {name: told[name] for name in findings.CLAIMS if name in told}
        return {"target": str(told["target"]), "host": str(told["host"]), **claims}
    except (ValueError, KeyError, TypeError):
        raise HostError("this is no finding", str(path), "name a folder of findings/") from None
