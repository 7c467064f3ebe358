"""Virtual time: one integer of picoseconds, and the two scales guests and traces read it in.

No wall clock enters the machine anywhere. Picoseconds are exact; a timestamp in nanoseconds is their floor, and every
duration that is published (ran, stolen, idle) is a difference of such timestamps, so sums cannot drift by rounding.
"""

PS_PER_NS = 1_000
PS_PER_SECOND = 10**12
PS_PER_KHZ_TICK = 10**9  # one tick of a clock of N kHz lasts 10**9 / N ps

UNITS = {"ns": PS_PER_NS, "us": 10**6, "ms": 10**9, "s": PS_PER_SECOND}


def ns(ps: int) -> int:
    """A timestamp in nanoseconds: the floor of picoseconds."""
    return ps // PS_PER_NS


def tsc(ps: int, khz: int) -> int:
    """Ticks of a time-stamp counter of `khz` that started at virtual time 0."""
    return ps * khz // PS_PER_KHZ_TICK


def tsc_due_ps(ticks: int, khz: int) -> int:
    """The first picosecond at which such a counter reads at least `ticks`."""
    return -(-ticks * PS_PER_KHZ_TICK // khz)


def parse_duration(text: str) -> int:
    """Picoseconds of a duration such as `10ms`, `250us` or `40ns`: a whole number and its unit. Raises ValueError."""
    for unit in ("ns", "us", "ms", "s"):
        number = text[: -len(unit)]
        if text.endswith(unit) and number.isdecimal() and number.isascii():
            return int(number) * UNITS[unit]
    raise ValueError(f"{text!r} is not a duration: write a whole number with ns, us, ms or s, such as 10ms")
