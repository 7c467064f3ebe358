"""A process that has loaded what a confined program needs, and becomes it over and over: each time a copy of it, which
shuts the door behind itself as inside.py does. Loading takes longer than most of these programs run.

Only trusted code runs here. A copy cannot make files or other processes, nor look into this one, so nothing of one is
left for the next. It is for such programs alone; what makes files gets a sandbox of its own each.

In Linux: fork(2), unix(7) SCM_RIGHTS and SCM_CREDENTIALS. Android calls its own the zygote.
"""

import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

from emu.sandbox.inside import confine
from emu.sandbox.process import LONGEST_ASKED, MOST_DESCRIPTORS

_PR_SET_DUMPABLE, _PR_SET_PDEATHSIG = 4, 1
_HIGH = 512  # descriptors from here on are in nobody's way


def main() -> None:
    """Serve the socket that is the standard input: a request with descriptors, then how its copy ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with socket.socket(fileno=os.dup(0)) as channel:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        while True:
            message, descriptors, _, _ = socket.recv_fds(channel, LONGEST_ASKED, MOST_DESCRIPTORS)
            if not message:
                return
            asked = json.loads(message)
            module, _, function = asked["function"].partition(":")
            # Before the copy is made, so that the next one has it too.
            loaded = importlib.import_module(module)
            if asked["before"] is not None:
                getattr(loaded, asked["before"][0])(asked["before"][1])
            gc.freeze()  # a copy's collector would write to all that is loaded, and so make it a copy indeed
            pid = os.fork()
            if pid == 0:
                channel.close()
                _become(asked, getattr(loaded, function), descriptors)
            for one in descriptors:
                os.close(one)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            channel.send(json.dumps(status).encode("ascii"))


def _become(asked: dict[str, Any], function: Any, descriptors: list[int]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        _arrange(descriptors, [0, 1, 2, *asked["numbers"]])
        if not asked["config"].get("trusted"):
            confine(asked["config"])
        function()
        status = 0
    except SystemExit as end:
        status = end.code if type(end.code) is int else 1
        if type(end.code) is str:
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _arrange(descriptors: list[int], numbers: list[int]) -> None:
    """The first descriptor tells who this is, and goes; the others get these numbers, and there are no more."""
    hello, *others = [fcntl.fcntl(one, fcntl.F_DUPFD, _HIGH) for one in descriptors]
    os.write(hello, b"+")  # with it goes the number of this process, as the kernel knows it
    os.read(hello, 1)  # whoever asked has a hold of it
    for source, number in zip(others, numbers, strict=True):
        os.dup2(source, number)
    kept = sorted(numbers)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for before, after in zip(kept, [*kept[1:], limit], strict=True):
        os.closerange(before + 1, after)
