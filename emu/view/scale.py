"""The scale of a picture of time: round durations for a column, ticks for an axis, durations as text.

Columns get round durations because then equal quanta are drawn equally long, and a reader can count columns.
"""

_TICK_COLUMNS = 10
_ROUND = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
_QUANTA = (10, 20, 25, 50)  # what divides a quantum of 100 us or 1 ms, so that quanta look alike


def readable(ns: int, unit: str = "") -> str:
    """A duration, exact, in the largest unit that keeps it above 1, or in `unit`: `1.32 ms`."""
    scales = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
    unit = unit or next((name for name, scale in scales.items() if ns >= scale), "ns")
    whole, rest = divmod(ns, scales[unit])
    decimals = str(rest).rjust(len(str(scales[unit])) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{decimals} {unit}" if decimals else f"{whole} {unit}"


def tick_ns(cell_ns: int) -> int:
    """The smallest of 1, 2 or 5 times a power of ten nanoseconds that leaves room for a label."""
    scale = 1
    while True:
        for head in (1, 2, 5):
            if head * scale >= cell_ns * _TICK_COLUMNS:
                return head * scale
        scale *= 10


def round_up(ns: int, *, even: bool = False) -> int:
    """The next duration with a round number, so that a column's worth can be read.

    `even` prefers one that divides a usual quantum, where that leaves no more than a third of the columns empty.
    """
    divisor_ns = _rounded(ns, _QUANTA)[0]
    return divisor_ns if even and 2 * divisor_ns <= 3 * ns else _rounded(ns, _ROUND)[0]


def round_down(ns: int) -> int:
    """The last duration before that divides a usual quantum; at least 1 ns."""
    return _rounded(ns, _QUANTA)[1]


def _rounded(ns: int, heads: tuple[int, ...]) -> tuple[int, int]:
    """The nearest of the `heads` times powers of ten (in tenths) from above and from below."""
    scale, below = 1, 1
    while True:
        for head in heads:
            if head * scale % 10 == 0:
                value = head * scale // 10
                if value >= ns:
                    return value, value if value == ns else below
                below = value
        scale *= 10
