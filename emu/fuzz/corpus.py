"""A corpus of inputs: what is worth keeping of it, and words that a mutator does well to know.

The rule is libFuzzer's of `-merge=1`: inputs are gone through from the shortest on, and one that takes an edge no other
took, or one some other number of times, is kept.

In Linux: nothing like it; syzkaller's syz-manager minimizes its corpus so.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from emu.fuzz import operations
from emu.fuzz.harness import MAP_SIZE, Harness
from emu.fuzz.records import HEADER_SIZE, Record, decode, encode
from emu.fuzz.sweep import first_steps, in_parts

# How often an edge was taken counts by these steps, as in libFuzzer and AFL.
_STEPS = bytes(
    0 if count == 0 else next(at for at, most in enumerate((1, 2, 3, 7, 15, 31, 127, 255), 1) if count <= most)
    for count in range(256)
)
_WORD_GAPS = (0, 1, 2)


def minimized(
    harness: Harness, inputs: Iterable[bytes], tell: Callable[[int], None] = lambda _: None
) -> tuple[list[bytes], int]:
    """Those of these inputs that together do what all of them do, shortest first; and how many edges and counts that
    is. `tell` hears of how many have been executed."""
    seen: set[tuple[int, int]] = set()
    kept = []
    for number, data in enumerate(sorted(set(inputs), key=lambda one: (len(one), one)), 1):
        memory = memoryview(harness.map).cast("B")
        memory[:] = bytes(MAP_SIZE)
        harness.run(data)
        counts = bytes(memory).translate(_STEPS)
        new = {(edge, step) for edge, step in enumerate(counts) if step} - seen
        if new:
            seen |= new
            kept.append(data)
        tell(number)
    return kept, len(seen)


def dictionary(host: str, events: frozenset[str]) -> str:
    """Records that a host of this class begins with, and updates in parts, as a dictionary of libFuzzer and AFL++."""
    single = [(Record(kind, gap, argument),) for kind, argument in first_steps(host, events) for gap in _WORD_GAPS]
    words = [
        encode(decode(b"", host)._replace(records=records))[HEADER_SIZE:]
        for records in (*single, *in_parts(_WORD_GAPS))
    ]
    return _text("records, each of a kind, a gap and an argument", words)


def dictionary_of_operations() -> str:
    """Operations of a guest that tell most about a host, in the same form."""
    return _text("operations", [operations.encode([one]) for one in operations.alphabet()])


def _text(title: str, words: Iterable[bytes]) -> str:
    lines = ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in words]
    return "\n".join([f"# {title}", *lines]) + "\n"


def written(folder: Path, text: str) -> Path:
    """A dictionary as a file in the folder of a campaign."""
    place = folder / "dictionary"
    if not place.is_file() or place.read_text(encoding="ascii") != text:
        part = place.with_suffix(f".{os.getpid()}")
        part.write_text(text, encoding="ascii")
        os.replace(part, place)
    return place
