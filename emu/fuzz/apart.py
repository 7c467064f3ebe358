"""A call in a copy of this process: it may end, hang or take too much memory there, and this process goes on.

In Linux: fork(2); the fork server of AFL++ does the same for each input.
"""

import contextlib
import os
import pickle
import resource
import select
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

_MEMORY = 512 << 20  # bytes beyond what is mapped when the limit is set
_PATIENCE_S = 2.0
_MOST_ANSWER = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Lost(NamedTuple):
    """There was no answer; `why` says how it ended."""

    why: str


def apart(call: Callable[[], Any], seconds: float = _PATIENCE_S) -> Any:
    """What `call` returns, which can be pickled, or Lost. It gets `seconds`, and the memory of limit_memory."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _answer(call, writing)
    os.close(writing)
    answer, ended = b"", False
    try:
        while not ended and len(answer) <= _MOST_ANSWER and select.select([reading], [], [], seconds)[0]:
            block = os.read(reading, 1 << 16)
            answer += block
            ended = not block
    finally:  # after Ctrl-C as well, which the copy may not heed
        os.close(reading)
        if not ended:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if not ended:
        return Lost(f"no end within {seconds:g} s")
    if status or not answer:
        return Lost(_ending(os.waitstatus_to_exitcode(status)))
    try:
        return pickle.loads(answer)
    except Exception:  # whatever else was written to that pipe
        return Lost("an answer that cannot be read")


def _ending(code: int) -> str:
    """How a process has ended, in words; `code` as subprocess gives it."""
    if code >= 0:
        return f"the end of the process, with status {code}"
    return f"the end of the process, by signal {-code}"


def limit_memory() -> None:
    """From now on this process can map half a gibibyte more than it has, and no more."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm", encoding="ascii") as file:
            mapped = int(file.read().split()[0]) * _PAGE
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = mapped + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _answer(call: Callable[[], Any], writing: int) -> None:
    """In the copy: the answer, and its end. Nobody else is to hear of it."""
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit_memory()
        try:
            answer = pickle.dumps(call())
        except BaseException as error:
            answer = pickle.dumps(Lost(repr(error)))
        while answer:
            answer = answer[os.write(writing, answer) :]
    finally:
        os._exit(0)
