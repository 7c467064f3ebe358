"""The first thing that runs in a sandbox: it gives up what the program is not to have, and then runs it, in itself.

`python inside.py CONFIG FUNCTION`: CONFIG is a dictionary, marshalled and in hexadecimal, for JSON takes longer to load
than all of this; FUNCTION is `module:function`, called without arguments. After this no limit can be raised and no
right be had back: a program that is started now, or code that is loaded now, has what is left.

In Linux: prctl(2) PR_SET_NO_NEW_PRIVS, seccomp(2), landlock(7), setrlimit(2).
"""

import ctypes
import importlib
import marshal
import os
import resource
import sys

TYPE_CHECKING = False  # typing takes as long to load as all the rest
if TYPE_CHECKING:
    from typing import Any

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 22, 38, 4
_FILTER_MODE = 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_READ = 1 << 2 | 1 << 3  # files and folders
_EXECUTE = 1
_ALL_OF_FILES = (1 << 13) - 1  # all that version 1 of Landlock knows
_O_PATH = getattr(os, "O_PATH", 0o10000000)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def confine(config: "dict[str, Any]") -> None:
    """Give up everything but what `config` says: limits, `uid`, readable and writable paths, a seccomp filter."""
    for name, value in config["rlimits"].items():
        number = getattr(resource, name, None)
        if number is not None:
            resource.setrlimit(number, tuple(value))
    libc = ctypes.CDLL(None, use_errno=True)
    if config.get("uid") is not None:
        os.setgroups([])
        os.setresgid(*[config["uid"]] * 3)
        os.setresuid(*[config["uid"]] * 3)
    _must(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    # Other processes of the same user must not look into this one.
    _must(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    if config.get("landlock"):
        _landlock(libc, config["readable"], config["writable"])
    code = bytes.fromhex(config["filter"])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _FilterProgram(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    _must(libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(program), 0, 0), "seccomp")


def _landlock(libc: "Any", readable: list[str], writable: list[str]) -> None:
    attributes = _RulesetAttributes(_ALL_OF_FILES)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    _must(min(ruleset, 0), "landlock")
    for paths, access in ((readable, _READ | _EXECUTE), (writable, _ALL_OF_FILES)):
        for path in paths:
            try:
                place = os.open(path, _O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # what is not there need not be allowed
            if not os.path.isdir(path):
                access &= ~(1 << 3) & (_EXECUTE | 1 << 1 | 1 << 2)
            rule = _PathBeneath(access, place)
            _must(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0), f"landlock, {path}")
            os.close(place)
    _must(libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def _must(result: int, what: str) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise SystemExit(f"the sandbox cannot be closed ({what}: {reason})")


def main(arguments: list[str]) -> None:
    """Confine this process, and go on with the function."""
    config = marshal.loads(bytes.fromhex(arguments[0]))
    module, _, function = arguments[1].partition(":")
    sys.path[:0] = config["path"]
    # What is to be trusted is loaded before: a path that is not readable any more cannot be looked into later.
    loaded = importlib.import_module(module) if config["load_first"] else None
    if not config.get("trusted"):
        confine(config)
    loaded = loaded or importlib.import_module(module)
    getattr(loaded, function)()


if __name__ == "__main__":
    main(sys.argv[1:])
