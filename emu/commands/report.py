"""`emu report`: a run as one page to look at, to step through and to pass on.

Exit status: 0 when the file is written, 2 for input that cannot be used, 130 for Ctrl-C.
"""

import argparse
import os
import shlex
import sys

from emu.commands.flags import Once, Parser, add_options
from emu.commands.interruption import interruption
from emu.commands.opened import Opened, opened
from emu.commands.output_file import output_file
from emu.commands.progress import Ticker, wanted
from emu.faults import HostError
from emu.history import where
from emu.report.chrome import ChromeTrace
from emu.report.film import MOST_FRAMES
from emu.report.projector import Projector, exported
from emu.report.waves import Waves

_STEPS = 3000
_EPILOG = f"""examples:
  emu report demo -o demo.html
  emu report readers/odd_only -o odd_only.html
  emu report odd_only.emurec -o found.html          a recording, such as explore makes
  emu report demo --around event:store -o update.html
  emu report demo --svg -o demo.svg                 the picture alone, for slides
  emu report demo --perfetto -o demo.json           for Perfetto, or chrome://tracing
  emu report demo --vcd -o demo.vcd                 waveforms, for GTKWave or Surfer

The page is one file without any address outside; link to page.html#step=123.

where --from, --to and --around can be:
{where.FORMS}
"""


def main(arguments: list[str]) -> int:
    """Run `emu report` with these words."""
    parsed = _parser().parse(arguments)
    if parsed.output is None:
        raise HostError("say where to write it", remedy="such as -o page.html")
    if parsed.around is not None and (parsed.first or parsed.to):
        raise HostError("--around says all of where to look", remedy="leave --from and --to away")
    if parsed.svg + parsed.perfetto + parsed.vcd > 1:
        raise HostError("one file has one format", remedy="give one of --svg, --perfetto and --vcd")
    steps = _number(parsed.steps)
    ticker = Ticker(sys.stderr, enabled=wanted(sys.stderr, sys.stdout))
    with interruption() as check:
        run = opened(parsed)
        try:
            with output_file(parsed.output, "-o", run.inputs) as file:
                if parsed.perfetto or parsed.vcd:
                    text = exported(ChromeTrace() if parsed.perfetto else Waves(), run.history, ticker, check)
                elif parsed.svg:
                    text = Projector(run.history, ticker, check).picture(run.name, alone=True)
                else:
                    text = _page(run, Projector(run.history, ticker, check), parsed, steps, arguments)
                content = text.encode("utf-8")
                file.write(content)
        finally:
            ticker.clear()
    print(f"wrote {parsed.output} ({len(content) / 1000:,.0f} kB)")
    return 0


def _page(run: Opened, projector: Projector, parsed: argparse.Namespace, steps: int, words: list[str]) -> str:
    stretch = projector.stretch(steps, parsed.first, parsed.to, parsed.around, run.cursor)
    name = os.path.basename(run.name) if run.name.endswith(".emurec") else run.name
    shown = [os.path.basename(word) if os.sep in word and os.path.exists(word) else word for word in words]
    return projector.page(name, shlex.join(["emu", "report", *shown]), run.lines, stretch, run.story)


def _number(text: str | None) -> int:
    if text is None:
        return _STEPS
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MOST_FRAMES):
        raise HostError(f"{text!r} is no number of steps", "--steps", f"from 1 to {MOST_FRAMES:,} can be shown")
    return int(text)


def _parser() -> Parser:
    parser = Parser("report", "Write a run as one HTML page.", _EPILOG, "emu report GUEST -o FILE [options]")
    parser.add_argument("guest", metavar="GUEST", help="as for `emu run`, or a recording (.emurec)")
    parser.add_argument("-o", "--output", action=Once, metavar="FILE", help="the file to write")
    parser.add_argument("--svg", action="store_true", help="the picture of the whole run alone, as SVG")
    parser.add_argument("--perfetto", action="store_true", help="the whole run for Perfetto, as Chrome's trace JSON")
    parser.add_argument("--vcd", action="store_true", help="the whole run as waveforms (VCD)")
    parser.add_argument("--steps", action=Once, metavar="N", help=f"how many single steps to show (default: {_STEPS})")
    parser.add_argument("--from", dest="first", action=Once, metavar="WHERE", help="the first of them (default: 0)")
    parser.add_argument("--to", action=Once, metavar="WHERE", help="the last of them")
    parser.add_argument("--around", action=Once, metavar="WHERE", help="show as many before this place as behind it")
    add_options(parser)
    return parser
