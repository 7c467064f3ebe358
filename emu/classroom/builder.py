"""What runs inside the first sandbox: files come in, a program goes out. It loads nothing but what builds.

In Linux: usermodehelpers are as short of rights, and as short.
"""

import json
import sys
from collections.abc import Mapping

from emu.classroom import program
from emu.classroom.wire import packed, unpacked
from emu.compiler import Compiler
from emu.faults import HostError

_KEYS = ("message", "where", "remedy", "detail")


def request(compiler: Compiler, files: Mapping[str, bytes], given: Mapping[str, bytes]) -> bytes:
    """What `build` reads."""
    return json.dumps({"compiler": compiler, "files": packed(files), "given": packed(given)}).encode("ascii")


def build() -> None:
    """Read a request, and write `+` and the program, or `-` and a JSON object that says why there is none."""
    asked = json.loads(sys.stdin.buffer.read())
    name, version, command, targets, home = asked["compiler"]
    known = {int(bits): tuple(flags) for bits, flags in targets.items()}
    compiler = Compiler(name, version, tuple(command), known, home)
    try:
        content = b"+" + program.build(unpacked(asked["files"]), unpacked(asked["given"]), compiler)
    except HostError as error:
        content = b"-" + json.dumps({key: getattr(error, key) for key in _KEYS}).encode("ascii")
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
