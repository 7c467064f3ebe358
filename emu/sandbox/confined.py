"""One confined run: started, fed, watched, ended, and what it wrote read with a bound.

In Linux: tools/testing/selftests/kselftest/runner.sh bounds a test by time alone; this bounds all of it.
"""

import contextlib
import mmap
import os
import selectors
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence

from emu.faults import HostError
from emu.sandbox import filter as syscalls
from emu.sandbox.limits import CPU, ENDED, MEMORY, OUTPUT, WALL, Confined, Limits
from emu.sandbox.process import Before, Mothers, Own, Process, own_path
from emu.sandbox.tiers import Start, Tier, shown_paths

_LOOK_S = 0.1
_MAX_ERRORS = 64 << 10
_MAX_PROCESSES = 64


class Child:
    """A confined program that runs `function` (module:name). Its standard input is `data`, or the descriptor `stdin`.

    `descriptors` stay open in it. `reserve` bytes of address space are not memory: an engine reserves much and uses
    little. `hidden` folders are not to be seen, whatever they lie in; `also` are more that are. A `bare` one needs
    nothing but emu and what Python itself brings. With `mothers` it is a copy of one of those, and what it sees is
    theirs; the mother does `before` first.
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
        bare: bool = False,
        mothers: Mothers | None = None,
        before: Before | None = None,
    ) -> None:
        assert mothers is None or not (limits.files or limits.processes), "nothing may stay for the next copy"
        self._tier = tier
        self._limits = limits
        self._start = tier.start([*shown_paths(), *also], hidden, files=limits.files)
        config = _config(limits, self._start, reserve, load_first)
        self._finished: int | None = None
        self._begun = time.monotonic()
        self._streams: dict[str, int] = {}
        try:
            with contextlib.ExitStack() as stack:
                source = stdin if stdin is not None else stack.enter_context(_readable(data))
                sink = stdout if stdout is not None else self._pipe("output", stack)
                streams = (source, sink, self._pipe("errors", stack))
                self._process: Process = (
                    Own(self._start, config, function, streams, descriptors, bare)
                    if mothers is None
                    else mothers.copy(config, function, streams, descriptors, before)
                )
        except OSError as error:
            self._close()
            raise HostError(f"the sandbox cannot be started ({error.strerror or error})", tier.name) from None

    def _pipe(self, name: str, stack: contextlib.ExitStack) -> int:
        """A pipe of which this process reads the one end; the other."""
        self._streams[name], end = os.pipe()
        stack.callback(os.close, end)
        return end

    def _close(self) -> None:
        for one in self._streams.values():
            os.close(one)
        self._streams.clear()
        self._tier.finish(self._start)

    def wait(self) -> Confined:
        """How it ended, at the latest when a limit is met."""
        process, limits = self._process, self._limits
        kept: dict[str, bytearray] = {"output": bytearray(), "errors": bytearray()}
        ended = ENDED
        look = time.monotonic() + _LOOK_S
        with selectors.DefaultSelector() as selector:
            for name, stream in self._streams.items():
                selector.register(stream, selectors.EVENT_READ, name)
            while selector.get_map() and ended == ENDED:
                for key, _ in selector.select(_LOOK_S):
                    block = os.read(key.fd, 1 << 16)
                    buffer = kept[key.data]
                    if not block:
                        selector.unregister(key.fd)
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
        if ended == ENDED and process.wait(max(limits.wall_s - (time.monotonic() - self._begun), 0.01)) is None:
            ended = WALL
        status = self.kill()
        if ended == ENDED and status in (128 + signal.SIGXCPU, -signal.SIGXCPU, 128 + signal.SIGKILL, -signal.SIGKILL):
            ended = CPU
        return Confined(status, bytes(kept["output"][: limits.output]), bytes(kept["errors"]), ended)

    def kill(self) -> int:
        """End it, if it has not ended, with all that belongs to it; its status."""
        if self._finished is None:
            self.end()
            status = self._process.wait()
            assert status is not None
            self._finished = status
            self._close()
        return self._finished

    def end(self) -> None:
        """Make `wait`, in another thread, return."""
        self._process.kill()

    def _looked(self) -> str | None:
        """What it uses too much of, as seen from outside."""
        pids = _family(self._process.pid)
        if len(pids) > _MAX_PROCESSES:
            return MEMORY
        # What is resident is soon told, and never less than the share that is its own.
        if sum(map(_resident, pids)) <= self._limits.memory:
            return None
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
    return {
        "rlimits": rlimits,
        "filter": syscalls.program(processes=limits.processes, files=limits.files).hex()
        if syscalls.available()
        else "",
        "path": own_path(),
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


def _resident(pid: int) -> int:
    """All that is resident of it, what it shares included, in bytes."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


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
