"""The stepper on a real terminal: from a key to the last byte that it brings to the screen."""

import time

from tests.view.terminal import Terminal

GUEST = "conformance/paging"  # the largest that is built from guests/
SIZES = ((80, 24), (200, 50))
_KEYS = 200
_QUIET_S = 0.12


def repainting() -> dict[str, dict[str, float]]:
    """Milliseconds at the 50th, 95th and 99th percentile of 200 keys, for each size of the terminal."""
    found = {}
    for columns, rows in SIZES:
        terminal = Terminal([GUEST, "--task", "busy"], columns, rows)
        try:
            while terminal.quiet(2.0) is None:
                time.sleep(0.1)
            times = sorted(_answer(terminal, "s" if n % 3 else "n" if n % 2 else "b") for n in range(_KEYS))
        finally:
            terminal.close()
        found[f"{columns}x{rows}"] = {f"p{percent}": times[_KEYS * percent // 100] for percent in (50, 95, 99)}
    return found


def _answer(terminal: Terminal, key: str) -> float:
    begun = time.monotonic()
    terminal.press(key)
    return 1000 * ((terminal.quiet(_QUIET_S) or begun) - begun)
