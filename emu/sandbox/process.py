"""The two ways to a confined process: a new one, and a copy of one that has loaded already.

In Linux: pidfd_open(2), by which a process is meant however numbers are used again.
"""

import contextlib
import json
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from emu.sandbox.tiers import Start, Tier, shown_paths

_INSIDE = str(Path(__file__).with_name("inside.py"))
LONGEST_ASKED = 1 << 20  # bytes of a request to a mother
MOST_DESCRIPTORS = 16  # that go with it
_LOADING_S = 60  # what a mother may need before the first copy says who it is
_CREDENTIALS = 12  # bytes of struct ucred: pid, uid, gid


class Process(Protocol):
    """A confined process that has been started."""

    pid: int

    def wait(self, seconds: float | None = None) -> int | None:
        """Its status: 0 to 255, or the negative number of a signal; None where it has not ended by then."""
        ...

    def kill(self) -> None:
        """End it. From any thread, at any time."""
        ...


class Own:
    """A new process, with what it starts."""

    def __init__(
        self,
        start: Start,
        config: dict[str, Any],
        function: str,
        streams: Sequence[int],
        descriptors: Sequence[int],
        bare: bool = False,
    ) -> None:
        python = [sys.executable, "-I", "-B", *(["-S"] if bare else [])]
        words = [*start.words, *python, _INSIDE, marshal.dumps(config).hex(), function]
        stdin, stdout, stderr = streams
        self._process = subprocess.Popen(
            words,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(descriptors),
            # The first process of a namespace is seen inside, and so is its environment.
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
            cwd=start.scratch or "/",
        )
        self.pid = self._process.pid

    def wait(self, seconds: float | None = None) -> int | None:
        """See Process."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """See Process."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)


class Copy:
    """A copy of a mother, which knows how it ended."""

    def __init__(self, mothers: "Mothers", mother: "_Mother", module: str, pid: int, handle: int) -> None:
        self.pid = pid
        self._mothers, self._mother, self._module = mothers, mother, module
        self._status: int | None = None
        self._handle: int | None = handle
        self._lock = threading.Lock()

    def wait(self, seconds: float | None = None) -> int | None:
        """See Process."""
        if self._status is None:
            self._status = self._mother.status(seconds)
            if self._status is not None:
                with self._lock:
                    assert self._handle is not None
                    os.close(self._handle)
                    self._handle = None
                self._mothers.give_back(self._module, self._mother)
        return self._status

    def kill(self) -> None:
        """See Process."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)


def mothers_work() -> bool:
    """Whether this machine has what a copy is ended by."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


class Before(NamedTuple):
    """A function of the same module, and its argument, which goes there as JSON. Neither is anything of whoever is not
    trusted."""

    function: str
    argument: Any


class Mothers:
    """Processes that have loaded already, in sandboxes of `tier` that show `also` too and not what is `hidden`."""

    def __init__(self, tier: Tier, hidden: Sequence[str] = (), also: Sequence[str] = ()) -> None:
        self._tier, self._hidden, self._also = tier, hidden, also
        self._lock = threading.Lock()
        self._idle: dict[str, list[_Mother]] = {}
        self._all: set[_Mother] = set()

    def copy(
        self,
        config: dict[str, Any],
        function: str,
        streams: Sequence[int],
        descriptors: Sequence[int],
        before: Before | None = None,
    ) -> Process:
        """A copy that confines itself by `config` and runs `function`; `before` is done by the mother, and what comes
        of it is in her copies. Raises OSError where none can be made."""
        module = function.partition(":")[0]
        table = {"function": function, "config": config, "numbers": list(descriptors), "before": before}
        asked = json.dumps(table).encode("ascii")
        if len(asked) > LONGEST_ASKED:
            raise OSError("a request this long cannot be sent")
        while True:
            with self._lock:
                idle = self._idle.setdefault(module, [])
                mother = idle.pop() if idle else None
            used = mother is not None
            if mother is None:
                mother = _Mother(self._tier, self._hidden, self._also)
                with self._lock:
                    self._all.add(mother)
            try:
                return Copy(self, mother, module, *mother.ask(asked, [*streams, *descriptors]))
            except OSError:
                self._drop(mother)
                if not used:  # one that was idle may have been ended meanwhile, by whatever
                    raise

    def give_back(self, module: str, mother: "_Mother") -> None:
        """It is free for the next copy."""
        if mother.dead:
            self._drop(mother)
            return
        with self._lock:
            self._idle[module].append(mother)

    def _drop(self, mother: "_Mother") -> None:
        with self._lock:
            self._all.discard(mother)
        mother.close()

    def close(self) -> None:
        """End all of them."""
        for one in list(self._all):
            self._drop(one)


class _Mother:
    def __init__(self, tier: Tier, hidden: Sequence[str], also: Sequence[str]) -> None:
        self._tier = tier
        self._start = tier.start([*shown_paths(), *also], hidden, files=False)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.dead = False
        config = {"trusted": True, "path": own_path(), "load_first": True}
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            streams = (theirs.fileno(), nothing, nothing)
            self._process = Own(self._start, config, "emu.sandbox.mother:main", streams, ())
        except OSError:
            self._channel.close()
            tier.finish(self._start)
            raise
        finally:
            theirs.close()
            os.close(nothing)

    def ask(self, asked: bytes, descriptors: list[int]) -> tuple[int, int]:
        """Have a copy made; its number, and a descriptor that means it. Raises OSError where there is none."""
        hear, hello = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with hear:
            with hello:
                hear.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                socket.send_fds(self._channel, [asked], [hello.fileno(), *descriptors])
            hear.settimeout(_LOADING_S)
            word, told, _, _ = hear.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS))
            for level, kind, content in told:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and word:
                    pid = int.from_bytes(content[:4], sys.byteorder)
                    handle = os.pidfd_open(pid)
                    hear.send(word)  # only now may it end
                    return pid, handle
        raise OSError("the copy has not said who it is")

    def status(self, seconds: float | None) -> int | None:
        """How its copy has ended; None where it has not by then. A mother that has gone took it with her."""
        ready, _, _ = select.select([self._channel], [], [], seconds)
        if not ready:
            return None
        try:
            told = self._channel.recv(64)
        except OSError:
            told = b""
        if not told:
            self.dead = True
            return -signal.SIGKILL
        return int(told)

    def close(self) -> None:
        self.dead = True
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self._tier.finish(self._start)


def own_path() -> list[str]:
    """Where emu is found by a Python that knows nothing."""
    import emu

    return [str(Path(emu.__file__).resolve().parent.parent)]
