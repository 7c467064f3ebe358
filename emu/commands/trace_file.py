"""The file of a run's events: it appears under its name when it is whole, or not at all."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from emu.faults import HostError
from emu.trace import Event, to_json

_ELSEWHERE = "choose another place for --trace"


@contextlib.contextmanager
def trace_file(path: str | None, inputs: Iterable[str] = ()) -> Iterator[Callable[[Event], None] | None]:
    """A sink that writes events as JSON lines to `path`; None without one.

    A file is written beside its place and moved there at the end; a pipe or a device is written to directly. `inputs`
    are files the run is read from: none of them is replaced. Raises HostError where `path` cannot be written.
    """
    if path is None:
        yield None
        return
    if path == "-":
        raise HostError("the trace cannot go to standard output, where the guest prints", "--trace -", "name a file")
    try:
        place = os.path.realpath(path)  # a link keeps pointing where it points
    except (OSError, ValueError) as error:
        raise _unwritable(error, path) from None
    if os.path.isdir(place):
        raise HostError("this is a folder", path, _ELSEWHERE)
    for one in inputs:
        if os.path.exists(place) and os.path.exists(one) and os.path.samefile(place, one):
            raise HostError("the trace would replace what the run is read from", path, _ELSEWHERE)
    direct = os.path.exists(place) and not os.path.isfile(place)
    partial = place if direct else f"{place}.{os.getpid()}.part"
    try:
        file = open(partial, "w" if direct else "x", encoding="ascii", newline="\n")  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise _unwritable(error, path) from None
    try:
        yield _sink(file, path)
        try:
            file.close()
            if not direct:
                os.replace(partial, place)
        except OSError as error:
            raise _unwritable(error, path) from None
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        if not direct:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        raise


def _sink(file: TextIO, path: str) -> Callable[[Event], None]:
    def write(event: Event) -> None:
        try:
            file.write(to_json(event) + "\n")
        except OSError as error:
            raise _unwritable(error, path) from None

    return write


def _unwritable(error: OSError | ValueError, path: str) -> HostError:
    return HostError(f"cannot be written ({getattr(error, 'strerror', None) or error})", path, _ELSEWHERE)
