"""What a hostile program tries inside a sandbox; each attack says what came of it. It is loaded there, before the door
is shut."""

import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable


def _read(path: str) -> Callable[[], object]:
    def attack() -> object:
        with open(path, "rb") as file:
            return file.read(20)

    return attack


def _fork() -> object:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def _write(path: str) -> Callable[[], object]:
    def attack() -> object:
        with open(path, "wb") as file:
            return file.write(b"x")

    return attack


def _fill() -> object:
    """Write into a file that is there already, as far as it goes."""
    with open("/proc/self/fd/0", "wb") as file:
        return file.write(b"x" * (1 << 20))


def _secret() -> object:
    """What the grader's environment has in it, if anybody here has got it."""
    for name in (one for one in os.listdir("/proc") if one.isdecimal()):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if b"EMU_SECRET" in file.read():
                    return "found"
        except OSError:
            continue
    raise PermissionError


def _clone3() -> object:
    return _call(435, 0, 0)


def _call(number: int, *words: int) -> object:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(number, *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _thread() -> object:
    found: list[int] = []
    one = threading.Thread(target=lambda: found.append(1))
    one.start()
    one.join()
    return found


ATTACKS: dict[str, Callable[[], object]] = {
    "passwd": _read("/etc/passwd"),
    "shadow": _read("/etc/shadow"),
    "environment-of-init": _secret,
    "home": lambda: os.listdir(sys.argv[3]) if len(sys.argv) > 3 else [],
    "fork": _fork,
    "vfork": lambda: _call(58) if os.uname().machine == "x86_64" else _fork(),
    "clone3": _clone3,
    "write-tmp": _write("/tmp/emu-attack"),
    "write-shm": _write("/dev/shm/emu-attack"),
    "write-here": _write("emu-attack"),
    "mkdir": lambda: os.mkdir("/tmp/emu-attack-folder"),
    "symlink": lambda: os.symlink("/etc/passwd", "/tmp/emu-attack-link"),
    "fill-stdin": _fill,
    "socket": lambda: socket.socket().close(),
    "kill-parent": lambda: os.kill(os.getppid(), 9),
    "parent-memory": lambda: open(f"/proc/{os.getppid()}/mem", "rb").close(),
    "parent-files": lambda: [os.open(f"/proc/{os.getppid()}/fd/{n}", os.O_RDONLY) for n in range(5)],
    "kill-all": lambda: os.kill(-1, 9),
    "become-root": lambda: os.setuid(0),
    "memory": lambda: len(bytearray(1 << 30)),
    "memfd": lambda: os.memfd_create("emu"),
    "ptrace": lambda: _call(101 if os.uname().machine == "x86_64" else 117, 16, os.getppid(), 0, 0),
    "unshare": lambda: _call(272 if os.uname().machine == "x86_64" else 97, 0x10000000),
    "sysv-memory": lambda: _call(29 if os.uname().machine == "x86_64" else 194, 0, 1 << 20, 0o1600),
}


def main() -> None:
    """Try everything; one line for each: what it was, and what came of it."""
    print(f"thread {_thread()}")
    for name, attack in ATTACKS.items():
        try:
            print(f"{name} done {attack()!r}"[:200])
        except BaseException as error:
            print(f"{name} refused {type(error).__name__}")
    sys.stdout.flush()


def endless() -> None:
    """Use CPU time for ever."""
    while True:
        pass


_KEPT: list[int] = []


def remembers() -> None:
    """Say how often this has been called in what is this process's memory."""
    _KEPT.append(0)
    print(len(_KEPT))


def sleeps() -> None:
    """Wait for ever."""
    threading.Event().wait()


def talks() -> None:
    """Write for ever."""
    while True:
        sys.stdout.write("x" * 65536)


def grows() -> None:
    """Use memory that the limit of address space allows, and more than the limit of memory."""
    found = []
    while True:
        found.append(os.urandom(1 << 20))
        if len(found) > 300:
            threading.Event().wait(30)
