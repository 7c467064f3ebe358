"""How many of something, in words.

In Linux: nothing like it.
"""


def many(count: int, what: str) -> str:
    """Such as `1 step`, `2,000 steps` or `3 switches`."""
    return f"{count:,} {what}{'' if count == 1 else 'es' if what.endswith('ch') else 's'}"


def times(count: int) -> str:
    """Such as `once` or `2,000 times`."""
    return "once" if count == 1 else f"{count:,} times"
