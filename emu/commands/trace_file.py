"""The file of a run's events: one line of JSON for each."""

import contextlib
from collections.abc import Iterable, Iterator

from emu.commands.output_file import output_file
from emu.recorder import Sink
from emu.trace import Event, to_json


@contextlib.contextmanager
def trace_file(path: str | None, inputs: Iterable[str] = ()) -> Iterator[Sink | None]:
    """A sink that writes events to `path`, as output_file does; None without one. Raises HostError as that does."""
    if path is None:
        yield None
        return
    with output_file(path, "--trace", inputs) as file:

        def write(event: Event) -> None:
            file.write(to_json(event).encode("ascii") + b"\n")

        yield write
