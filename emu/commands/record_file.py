"""The file that `emu run --record` writes."""

import contextlib
import os
from collections.abc import Iterable, Iterator

from emu import data
from emu.commands.output_file import OutputFile, output_file
from emu.history.recording import Outcome, Recording, TraceHash, source_texts, to_bytes
from emu.machine import Machine
from emu.recorder import Sink
from emu.trace import Event


class RecordFile:
    """Listens to a run, and writes down what determined it."""

    def __init__(self, file: OutputFile) -> None:
        self._file = file
        self._hash = TraceHash()

    def listening(self, other: Sink | None) -> Sink:
        """A sink of events for the machine, which passes them on to `other`."""
        if other is None:
            return self._hash

        def both(event: Event) -> None:
            self._hash(event)
            other(event)

        return both

    def write(self, guest: str, machine: Machine) -> None:
        """Write the recording of a run that is over."""
        config, reason = machine.config, machine.reason
        assert reason is not None
        if config.script is not None:  # its text is what counts; where it stood is this computer's affair
            config = config._replace(script=(os.path.basename(config.script[0]), config.script[1]))
        outcome = Outcome(machine.position, reason, machine.exit_port.code, self._hash.hexdigest())
        source = machine.image.source
        lines = source_texts(source, data.source_text)
        recording = Recording(os.path.basename(guest) if os.sep in guest else guest, source, config, outcome)
        self._file.write(to_bytes(recording._replace(lines=lines)))


@contextlib.contextmanager
def record_file(path: str, inputs: Iterable[str] = ()) -> Iterator[RecordFile]:
    """A recording at `path`, as output_file makes files. Raises HostError as that does."""
    with output_file(path, "--record", inputs) as file:
        yield RecordFile(file)
