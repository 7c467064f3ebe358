"""The report on a triple fault on a terminal: in its width, and in colours where it has them."""

from typing import TYPE_CHECKING

from emu.diagnosis.report import diagnose
from emu.machine import Machine

if TYPE_CHECKING:
    from rich.console import Console


def render_rich(console: "Console", machine: Machine) -> None:
    """Print the report on a rich console, which knows whether there are colours (and respects NO_COLOR)."""
    from rich.text import Text

    lines = diagnose(machine, console.width)
    verdict = max((number for number, line in enumerate(lines) if not line), default=0) + 1
    for number, line in enumerate(lines):
        bad = number == 0 or number >= verdict
        console.print(Text(line, _style(line, bad)), soft_wrap=True, highlight=False)


def _style(line: str, bad: bool) -> str:
    if bad:
        return "bold red"
    if line.startswith("=>"):
        return "bold yellow"
    return "bold" if line.startswith("  - ") else ""
