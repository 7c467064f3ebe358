"""One confined run: started, fed, watched, ended, and what it wrote read with a bound.

In Linux: tools/testing/selftests/kselftest/runner.sh bounds a test by time alone; this bounds all of it.
"""

import contextlib
import json
import mmap
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from emu.faults import HostError
from emu.sandbox import filter as syscalls
from emu.sandbox.limits import CPU, ENDED, MEMORY, OUTPUT, WALL, Confined, Limits
from emu.sandbox.tiers import Start, Tier, shown_paths

_INSIDE = str(Path(__file__).with_name("inside.py"))
_LOOK_S = 0.1
_MAX_ERRORS = 64 << 10
_MAX_PROCESSES = 64


class Child:
    """A confined program that runs `function` (module:name). Its standard input is `data`, or the descriptor `stdin`.

    `descriptors` stay open in it. `reserve` bytes of address space are not memory: an engine reserves much and uses
    little. `hidden` folders are not to be seen, whatever they lie in; `also` are more that are.
    """

    def __init__(
        self,
        tier: Tier,
        function: str,
        limits: Limits,
        *,
        data: bytes = b"",
        stdin: int | None = None,
        stdout: int | None = None,
        descriptors: Sequence[int] = (),
        hidden: Sequence[str] = (),
        reserve: int = 0,
        load_first: bool = True,
        also: Sequence[str] = (),
    ) -> None:
        self._tier = tier
        self._limits = limits
        self._start = tier.start([*shown_paths(), *also], hidden, files=limits.files)
        config = _config(limits, self._start, reserve, load_first)
        command = [
            *self._start.words,
            sys.executable,
            "-I",
            "-B",
            _INSIDE,
            json.dumps(config),
            function,
        ]
        self._finished: int | None = None
        self._begun = time.monotonic()
        try:
            with contextlib.ExitStack() as stack:
                source = stdin if stdin is not None else stack.enter_context(_readable(data))
                self._process = subprocess.Popen(
                    command,
                    stdin=source,
                    stdout=subprocess.PIPE if stdout is None else stdout,
                    stderr=subprocess.PIPE,
                    pass_fds=tuple(descriptors),
                    # The first process of a namespace is seen inside, and so is its environment.
                    env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"},
                    start_new_session=True,
                    cwd=self._start.scratch or "/",
                )
        except OSError as error:
            tier.finish(self._start)
            raise HostError(f"the sandbox cannot be started ({error.strerror})", tier.name) from None

    def wait(self) -> Confined:
        """How it ended, at the latest when a limit is met."""
        process, limits = self._process, self._limits
        kept: dict[str, bytearray] = {"output": bytearray(), "errors": bytearray()}
        ended = ENDED
        look = time.monotonic() + _LOOK_S
        with selectors.DefaultSelector() as selector:
            for name, stream in (("output", process.stdout), ("errors", process.stderr)):
                if stream is not None:
                    os.set_blocking(stream.fileno(), False)
                    selector.register(stream, selectors.EVENT_READ, name)
            while selector.get_map() and ended == ENDED:
                for key, _ in selector.select(_LOOK_S):
                    block = os.read(key.fd, 1 << 16)
                    buffer = kept[key.data]
                    if not block:
                        selector.unregister(key.fileobj)
                    elif key.data == "errors":
                        buffer += block[: _MAX_ERRORS - len(buffer)]
                    else:
                        buffer += block
                        if len(buffer) > limits.output:
                            ended = OUTPUT
                now = time.monotonic()
                if now - self._begun > limits.wall_s:
                    ended = WALL
                elif now > look:
                    look = now + _LOOK_S
                    ended = self._looked() or ended
        if ended == ENDED:
            try:
                process.wait(max(limits.wall_s - (time.monotonic() - self._begun), 0.01))
            except subprocess.TimeoutExpired:
                ended = WALL
        status = self.kill()
        if ended == ENDED and status in (128 + signal.SIGXCPU, -signal.SIGXCPU, 128 + signal.SIGKILL, -signal.SIGKILL):
            ended = CPU
        return Confined(status, bytes(kept["output"][: limits.output]), bytes(kept["errors"]), ended)

    def kill(self) -> int:
        """End it, if it has not ended, with all that belongs to it; its status."""
        if self._finished is not None:
            return self._finished
        self.end()
        status = self._finished = self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._tier.finish(self._start)
        return status

    def end(self) -> None:
        """Make `wait`, in another thread, return."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _looked(self) -> str | None:
        """What it uses too much of, as seen from outside."""
        pids = _family(self._process.pid)
        if len(pids) > _MAX_PROCESSES:
            return MEMORY
        return MEMORY if sum(map(_memory, pids)) > self._limits.memory else None


def _config(limits: Limits, start: Start, reserve: int, load_first: bool) -> dict[str, object]:
    space = limits.memory + reserve
    rlimits = {
        "RLIMIT_CPU": (limits.cpu_s, limits.cpu_s + 1),
        "RLIMIT_AS": (space, space),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (limits.file, limits.file) if limits.files else (0, 0),
        "RLIMIT_NOFILE": (128, 128),
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
        "RLIMIT_NPROC": (_MAX_PROCESSES, _MAX_PROCESSES),
        "RLIMIT_STACK": (8 << 20, 8 << 20),
    }
    import emu

    return {
        "rlimits": rlimits,
        "filter": syscalls.program(processes=limits.processes, files=limits.files).hex()
        if syscalls.available()
        else "",
        "path": [str(Path(emu.__file__).resolve().parent.parent)],
        "load_first": load_first,
        **start.config,
    }


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[int]:
    """A descriptor from which `data` can be read, and nothing be written to."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        file.seek(0)
        again = f"/proc/self/fd/{file.fileno()}"
        descriptor = os.open(again, os.O_RDONLY) if os.path.exists(again) else os.dup(file.fileno())
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _family(pid: int) -> list[int]:
    """This process and all that descend from it."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children", encoding="ascii") as file:
                    found += [int(word) for word in file.read().split()]
    return found


def _memory(pid: int) -> int:
    """What it holds of memory in bytes: PSS, or what is resident and its own where that is not told."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            _, resident, shared = map(int, file.read().split()[:3])
            return (resident - shared) * mmap.PAGESIZE
    except (OSError, ValueError):
        return 0
