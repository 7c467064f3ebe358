"""The specification as the documents have it: every numbered promise with its sentence and the tests that hold it.

The documents are the one place where a promise is written down. Its form: a heading `### ST-1 sentence`, and in what
follows a line `- Tests:` with the tests' names in backquotes.

In Linux: no counterpart; its interfaces are described in Documentation/virt/kvm/ and tested elsewhere.
"""

import re
from typing import NamedTuple

from emu import data

DOCUMENTS = ("steal-time.md", "paravirtual-family.md", "interrupts-and-paging.md")


class Promised(NamedTuple):
    """A promise: `number` such as ST-1, its `sentence`, the `group` that it stands in, and `tests` as pytest takes
    them."""

    number: str
    sentence: str
    group: str
    document: str
    tests: tuple[str, ...]


def specification() -> list[Promised]:
    """All promises, in the order of the documents. Raises HostError where this installation has no documents."""
    return [promised for name in DOCUMENTS for promised in read(name, data.document(name))]


def read(document: str, text: str) -> list[Promised]:
    """The promises of one document; `group` is the heading above, without its letters."""
    parts = re.split(r"^#{2,3} (.*)$", text, flags=re.MULTILINE)
    found, group = [], ""
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        if numbered := re.fullmatch(r"([A-Z]{2}-\d+) (.+)", heading):
            tests = tuple(re.findall(r"`(tests/[^`]+::[^`]+)`", body))
            found.append(Promised(numbered[1], numbered[2], group, document, tests))
        else:
            group = re.sub(r"^[A-Z]{2}: ", "", heading)
    return found
