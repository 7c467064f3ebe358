"""A file that a command writes: it appears under its name when it is whole, or not at all."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from emu.faults import HostError


class OutputFile:
    """What output_file opened; all that can be done with it is to write on."""

    def __init__(self, file: BinaryIO, path: str, flag: str) -> None:
        self._file = file
        self._path = path
        self._flag = flag

    def write(self, content: bytes) -> None:
        """Write all of it. Raises HostError where that fails."""
        try:
            self._file.write(content)
        except OSError as error:
            raise _unwritable(error, self._path, self._flag) from None


@contextlib.contextmanager
def output_file(path: str, flag: str, inputs: Iterable[str] = ()) -> Iterator[OutputFile]:
    """A file open for writing, which is moved to `path` at the end; a pipe or a device is written to directly.

    `inputs` are files the run is read from: none of them is replaced. Raises HostError, which names the `flag`, where
    `path` cannot be written.
    """
    if path == "-":
        raise HostError("this cannot go to standard output, where the guest prints", f"{flag} -", "name a file")
    elsewhere = f"choose another place for {flag}"
    try:
        place = os.path.realpath(path)  # a link keeps pointing where it points
    except (OSError, ValueError) as error:
        raise _unwritable(error, path, flag) from None
    if os.path.isdir(place):
        raise HostError("this is a folder", path, elsewhere)
    for one in inputs:
        if os.path.exists(place) and os.path.exists(one) and os.path.samefile(place, one):
            raise HostError(f"{flag} would replace what the run is read from", path, elsewhere)
    direct = os.path.exists(place) and not os.path.isfile(place)
    partial = place if direct else f"{place}.{os.getpid()}.part"
    try:
        file = open(partial, "wb" if direct else "xb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise _unwritable(error, path, flag) from None
    try:
        yield OutputFile(file, path, flag)
        try:
            file.close()
            if not direct:
                os.replace(partial, place)
        except OSError as error:
            raise _unwritable(error, path, flag) from None
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        if not direct:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        raise


def _unwritable(error: OSError | ValueError, path: str, flag: str) -> HostError:
    reason = getattr(error, "strerror", None) or error
    return HostError(f"cannot be written ({reason})", path, f"choose another place for {flag}")
