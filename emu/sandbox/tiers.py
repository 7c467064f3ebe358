"""The two ways to shut a program in, behind one interface, and which of them this machine has.

`bubblewrap`: namespaces of its own. It sees a read-only toolchain, a private /tmp, no network, no other process.
`own-uid`: for root in a container that has no user namespaces. A user of its own, whom no file of the grader's is
readable for, and Landlock where the kernel has it; the same filter of system calls, which refuses the network.

In Linux: user_namespaces(7), landlock(7); bubblewrap's bubblewrap.c.
"""

import ctypes
import functools
import itertools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from emu.faults import HostError
from emu.sandbox import filter as syscalls

BUBBLEWRAP, OWN_UID = "bubblewrap", "own-uid"
TIERS = (BUBBLEWRAP, OWN_UID)
TRUSTED = "none"
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
_OF_ETC = ("/etc/ld.so.cache", "/etc/alternatives")
_TMP = 64 << 20  # bytes of the private /tmp
_FIRST_UID, _UIDS = 2_000_000, 100_000


class Start(NamedTuple):
    """How to start a confined program: the words before its own, its own confinement, its folder for files."""

    words: tuple[str, ...]
    config: dict[str, object]
    scratch: str | None


class Tier(Protocol):
    """One way to shut a program in."""

    name: str

    def start(self, shown: Sequence[str], hidden: Sequence[str], *, files: bool) -> Start:
        """For a program that may read `shown`, not `hidden`, and make files where `files` are allowed."""
        ...

    def finish(self, start: Start) -> None:
        """Its program is over: nothing of it stays."""
        ...


def shown_paths() -> list[str]:
    """What Python and emu need to be read."""
    import emu

    package = Path(emu.__file__).resolve().parent
    prefixes = {str(Path(one).resolve()) for one in (sys.prefix, sys.base_prefix)}
    return [*_SYSTEM, *_OF_ETC, *sorted(prefixes), str(package), str(package.parent / "guests")]


def program_paths(program: str) -> list[str]:
    """What a program outside the system's folders needs to be read: its package below /opt, elsewhere its folder."""
    found = shutil.which(program)
    if found is None:
        return []
    places = dict.fromkeys((Path(found).absolute().parent, Path(found).resolve().parent))
    return [str(Path(*one.parts[:3]) if one.is_relative_to("/opt") else one) for one in places]


class Bubblewrap:
    """Namespaces by the program `bwrap`."""

    name = BUBBLEWRAP

    def start(self, shown: Sequence[str], hidden: Sequence[str], *, files: bool) -> Start:
        words = [
            "bwrap",
            "--unshare-all",
            "--unshare-user",
            "--as-pid-1",
            "--uid",
            "65534",
            "--gid",
            "65534",
            "--die-with-parent",
        ]
        words += ["--new-session", "--clearenv", "--setenv", "PATH", os.environ.get("PATH", "/usr/bin:/bin")]
        words += ["--setenv", "HOME", "/tmp", "--setenv", "LC_ALL", "C.UTF-8", "--hostname", "sandbox"]
        # First what is private: what is shown may lie in it, as a checkout in /tmp does.
        words += ["--proc", "/proc", "--dev", "/dev", "--size", str(_TMP), "--tmpfs", "/tmp"]
        for path in dict.fromkeys(shown):
            if os.path.islink(path):
                words += ["--symlink", os.readlink(path), path]
            elif os.path.exists(path):
                words += ["--ro-bind", path, path]
        for path in hidden:
            if any(Path(path).is_relative_to(one) for one in shown) and os.path.isdir(path):
                words += ["--tmpfs", path, "--remount-ro", path]
        words += ["--remount-ro", "/dev", "--chdir", "/tmp", "--"]
        return Start(tuple(words), {}, None)

    def finish(self, start: Start) -> None:
        pass


class OwnUid:
    """A user of its own for each program."""

    name = OWN_UID

    def __init__(self) -> None:
        self._numbers = itertools.cycle(range(_UIDS))
        self._lock = threading.Lock()

    def start(self, shown: Sequence[str], hidden: Sequence[str], *, files: bool) -> Start:
        with self._lock:
            # Two graders at once on one machine begin at different places.
            uid = _FIRST_UID + (os.getpid() * 64 + next(self._numbers)) % _UIDS
        scratch = tempfile.mkdtemp(prefix="emu-sandbox-")
        os.chown(scratch, uid, uid)
        readable = [*(_visible(shown, hidden)), "/proc/self", "/dev/null", "/dev/urandom", "/dev/zero"]
        config: dict[str, object] = {
            "uid": uid,
            "landlock": landlock_version() > 0,
            "readable": readable,
            "writable": [scratch, "/dev/null"] if files else ["/dev/null"],
        }
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": scratch, "TMPDIR": scratch}
        words = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), "LC_ALL=C.UTF-8"]
        return Start(tuple(words), config, scratch)

    def finish(self, start: Start) -> None:
        uid = start.config["uid"]
        for pid in _processes_of(int(str(uid))):
            with _gone():
                os.kill(pid, 9)
        if start.scratch is not None:
            shutil.rmtree(start.scratch, ignore_errors=True)


class Trusted:
    """No sandbox at all: for those who say `--trust`."""

    name = TRUSTED

    def start(self, shown: Sequence[str], hidden: Sequence[str], *, files: bool) -> Start:
        return Start((), {"trusted": True}, None)

    def finish(self, start: Start) -> None:
        pass


def _visible(shown: Sequence[str], hidden: Sequence[str]) -> Iterator[str]:
    """The paths of `shown` without the `hidden` ones below them: Landlock knows only what is allowed."""
    for path in dict.fromkeys(shown):
        below = [Path(one) for one in hidden if Path(one).is_relative_to(path)]
        if not below:
            yield path
            continue
        for one in sorted(Path(path).iterdir()):
            if one not in below:
                yield from _visible([str(one)], hidden)


def _processes_of(uid: int) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with _gone():
                if os.stat(f"/proc/{name}").st_uid == uid:
                    yield int(name)


class _gone:  # noqa: N801 - reads as a word of the language
    """Passes over a process that has left meanwhile."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


def closed_to_others() -> str:
    """A folder of Python's or emu's that only its owner can look into, or nothing: what a program under `own-uid` loads
    after the door is shut would not be found there."""
    import emu

    for place in (sys.prefix, sys.base_prefix, os.path.dirname(emu.__file__)):
        path = Path(place).resolve()
        for one in (path, *path.parents):
            if not one.stat().st_mode & stat.S_IXOTH:
                return str(one)
    return ""


@functools.cache
def landlock_version() -> int:
    """The version of the kernel's Landlock; 0 where it has none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(int(ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1)), 0)


@functools.cache
def missing(name: str) -> str:
    """Why this machine has not the tier of this name; empty where it has."""
    if not sys.platform.startswith("linux"):
        return "it is for Linux"
    if not syscalls.available():
        return "it is for x86-64 and ARM64"
    if name == OWN_UID:
        return "" if os.geteuid() == 0 else "it needs root, as in Gradescope's container"
    if shutil.which("bwrap") is None:
        return "the program `bwrap` is not installed"
    tried = subprocess.run(
        [*Bubblewrap().start(["/usr", "/bin", "/lib", "/lib64"], [], files=False).words, "true"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=30,
        check=False,
    )
    return "" if tried.returncode == 0 else f"`bwrap` cannot make namespaces here ({tried.stderr.strip()[:200]})"


def choose(name: str | None = None) -> Tier:
    """The tier of this name, else the first that this machine has. Raises HostError where there is none."""
    makers: dict[str, type[Bubblewrap] | type[OwnUid]] = {BUBBLEWRAP: Bubblewrap, OWN_UID: OwnUid}
    for one in (name,) if name else TIERS:
        reason = missing(one)
        if not reason:
            return makers[one]()
        if name:
            raise HostError(f"the sandbox {one!r} is not to be had: {reason}", "--sandbox")
    raise HostError(
        f"there is no sandbox on this machine: {missing(BUBBLEWRAP)}; and {missing(OWN_UID)}",
        remedy="on Debian and Ubuntu `sudo apt install bubblewrap`; --trust goes without, for work that you have read",
    )
