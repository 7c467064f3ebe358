"""What runs inside the first sandbox: files come in, a program goes out. It loads nothing but what builds.

In Linux: usermodehelpers are as short of rights, and as short.
"""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from emu.classroom import program
from emu.classroom.wire import packed, unpacked
from emu.compiler import Compiler
from emu.faults import HostError

_OBJECT = re.compile(r"[\w.+-]{1,200}\.o")
_KEYS = ("message", "where", "remedy", "detail")


def request(
    compiler: Compiler, files: Mapping[str, bytes], given: Mapping[str, bytes], made: Mapping[str, bytes]
) -> bytes:
    """What `build` and `prepare` read; `made` is what the latter has made."""
    table = {
        "compiler": compiler,
        "files": packed(files),
        "given": packed(given),
        "made": packed(made),
    }
    return json.dumps(table).encode("ascii")


def prepare() -> None:
    """Read a request, and write a JSON object of those objects that are the same in all programs."""
    asked = json.loads(sys.stdin.buffer.read())
    _answer(json.dumps(packed(program.prepared(unpacked(asked["given"]), _compiler(asked)))).encode("ascii"))


def made(output: bytes) -> dict[str, bytes]:
    """The objects from what `prepare` wrote; ValueError where it wrote something else."""
    told = json.loads(output)
    if type(told) is not dict or not all(type(one) is str and _OBJECT.fullmatch(name) for name, one in told.items()):
        raise ValueError("the builder's answer is none")
    return unpacked(told)


def build() -> None:
    """Read a request, and write `+` and the program, or `-` and a JSON object that says why there is none."""
    asked = json.loads(sys.stdin.buffer.read())
    files, given = unpacked(asked["files"]), unpacked(asked["given"])
    try:
        answer = b"+" + program.build(files, given, _compiler(asked), unpacked(asked["made"]))
    except HostError as error:
        answer = b"-" + json.dumps({key: getattr(error, key) for key in _KEYS}).encode("ascii")
    _answer(answer)


def _compiler(asked: Mapping[str, Any]) -> Compiler:
    name, version, command, targets, home = asked["compiler"]
    known = {int(bits): tuple(flags) for bits, flags in targets.items()}
    return Compiler(name, version, tuple(command), known, home)


def _answer(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def built(output: bytes) -> bytes:
    """The program from what `build` wrote. Raises HostError as that says, ValueError where it wrote something else."""
    if output[:1] == b"+":
        return output[1:]
    if output[:1] != b"-":
        raise ValueError("the builder did not answer")
    told = json.loads(output[1:])
    if type(told) is not dict or not all(type(told.get(key)) is str for key in _KEYS):
        raise ValueError("the builder's answer is none")
    raise HostError(*(told[key] for key in _KEYS))
