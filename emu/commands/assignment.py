"""`emu assignment`: make an assignment, see whether it is sound, and pack it for students and graders.

Exit status: 0 where it is done, or sound; 1 where `verify` has found something; 2 for input that cannot be used.
"""

import json
import shutil
import sys
from pathlib import Path

from emu import data
from emu.classroom import assignment as assignments
from emu.classroom import judge, told, verify
from emu.classroom.assignment import FILE, HIDDEN
from emu.classroom.packing import packed
from emu.commands.flags import Once, Parser
from emu.commands.interruption import interruption
from emu.commands.output_file import output_file
from emu.commands.progress import Ticker, wanted
from emu.faults import HostError, escaped

_EPILOG = """examples:
  emu assignment list                          the assignments that come with emu
  emu assignment new lab3 --from steal-clock   a copy of one, to be changed
  emu assignment verify lab3                   solution, skeleton, wrong variants
  emu assignment pack lab3                     lab3-student.zip for the students
  emu assignment pack lab3 --gradescope        ... and lab3-autograder.zip

What the files in the folder mean is told in tutorials/assignments/README.md.

exit status: 0 done, or sound; 1 `verify` has found something; 2 bad input
"""


def main(arguments: list[str]) -> int:
    """Run `emu assignment` with these words."""
    parser = _parser()
    parsed = parser.parse(arguments)
    words = {"list": 0, "new": 1, "verify": 1, "pack": 1}
    if (parsed.name is not None) != bool(words[parsed.what]):
        parser.error(f"`{parsed.what}` {'needs a folder' if words[parsed.what] else 'takes no folder'}")
    if parsed.what == "list":
        return _list()
    if parsed.what == "new":
        return _new(parsed.name, parsed.template or "steal-clock")
    if parsed.what == "verify":
        return _verify(Path(parsed.name), as_json=parsed.json, quiet=parsed.quiet)
    return _pack(Path(parsed.name), gradescope=parsed.gradescope)


def _list() -> int:
    found = data.assignment_dirs()
    width = max(map(len, found))
    for name, folder in found.items():
        one = assignments.read(folder)
        print(f"{name:<{width}}  {one.title}  ({one.points} points, {len(one.wrong)} wrong variants)")
    return 0


def _new(name: str, template: str) -> int:
    shipped = data.assignment_dirs()
    source = shipped.get(template, Path(template))
    if not (source / FILE).is_file():
        from emu.scenario import did_you_mean

        raise HostError(f"there is no assignment {template!r}", "--from", did_you_mean(template, shipped))
    place = Path(name)
    try:
        assignments.name(place.name)
    except ValueError as reason:
        raise HostError(f"{place.name!r} cannot be its name, which must be {reason}", name) from None
    if place.exists():
        raise HostError("this is there already", name, "choose another name, or remove it")
    try:
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("failures", "__pycache__"))
        text = (place / FILE).read_text(encoding="utf-8")
        old = assignments.read(source).name
        (place / FILE).write_text(text.replace(f'name = "{old}"', f'name = "{place.name}"', 1), encoding="utf-8")
    except OSError as error:
        raise HostError(f"it cannot be made ({error.strerror})", name) from None
    print(f"made {name}/ from {template}: change {name}/{FILE}, {name}/{HIDDEN} and the files in its folders,")
    print(f"then see whether it is sound: emu assignment verify {name}")
    return 0


def _verify(folder: Path, *, as_json: bool, quiet: bool) -> int:
    assignment = assignments.read(folder)
    ticker = Ticker(sys.stderr, enabled=not (quiet or as_json) and wanted(sys.stderr, sys.stdout))
    findings: list[verify.Finding] = []
    with interruption() as check:

        def tell(what: str) -> None:
            check()
            ticker(lambda: f"{len(findings)} of {len(assignment.wrong) + 2} judged; {what}")

        for one in verify.verify(assignment, lambda asked, files: judge.judge(asked, files, tell)):
            ticker.clear()
            findings.append(one)
            if not as_json:
                points = f"{one.judgement.points:>4} points" if one.judgement is not None else " " * 11
                print(
                    escaped(f"{'no' if one.complaint else 'ok':<3} {one.what:<24} {points}  {one.complaint}".rstrip())
                )
                if one.complaint and one.judgement is not None:
                    print("\n".join(escaped(f"  {line}".rstrip()) for line in told.lines(one.judgement)))
    bad = [one for one in findings if one.complaint]
    if as_json:
        rows = [
            {"what": one.what, "points": one.judgement and one.judgement.points, "complaint": one.complaint}
            for one in findings
        ]
        print(json.dumps({"assignment": assignment.name, "sound": not bad, "findings": rows}))
    else:
        print(f"\n{assignment.name}: {f'{len(bad)} of {len(findings)} are not as they should be' if bad else 'sound'}")
    return 1 if bad else 0


def _pack(folder: Path, *, gradescope: bool) -> int:
    assignment = assignments.read(folder)
    for name, content in packed(assignment, gradescope=gradescope).items():
        with output_file(name, "pack") as file:
            file.write(content)
        print(f"wrote {name}")
    return 0


def _parser() -> Parser:
    usage = "emu assignment list|new|verify|pack [FOLDER] [options]"
    parser = Parser("assignment", "Make, verify and pack assignments.", _EPILOG, usage)
    parser.add_argument("what", choices=("list", "new", "verify", "pack"), help="what to do")
    parser.add_argument("name", nargs="?", metavar="FOLDER", help="the assignment's folder")
    parser.add_argument("--from", dest="template", action=Once, metavar="NAME", help="new: a shipped one, or a folder")
    parser.add_argument("--gradescope", action="store_true", help="pack: an autograder for Gradescope as well")
    parser.add_argument("--json", action="store_true", help="verify: print one JSON object instead of text")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    return parser
