"""What runs inside a sandbox: one function builds, one judges. Data comes in, data goes out, nothing else is shared.

In Linux: usermodehelpers are as short of rights, and as short.
"""

import base64
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emu.classroom import assignment, criteria, judge, program, verdict
from emu.classroom.criteria import Criterion
from emu.compiler import Compiler
from emu.faults import HostError

# Loaded before the door is shut, for some of it is asked for late.
PRELOADED = (
    *("emu.boot.elf", "emu.code.lines", "emu.explore.search", "emu.explore.cause", "emu.explore.evidence"),
    *("emu.diagnosis", "elftools.elf.elffile", "elftools.dwarf.dwarfinfo", "difflib", "encodings.ascii"),
)


def build_request(compiler: Compiler, files: Mapping[str, bytes], given: Mapping[str, bytes]) -> bytes:
    """What `build` reads."""
    return json.dumps({"compiler": compiler, "files": _packed(files), "given": _packed(given)}).encode("ascii")


def judge_request(
    folder_name: str,
    public: bytes,
    hidden: bytes | None,
    built: bytes,
    files: Mapping[str, bytes],
    given: Mapping[str, bytes],
) -> bytes:
    """What `judge_built` reads."""
    asked = {
        "name": folder_name,
        "public": _text(public),
        "hidden": None if hidden is None else _text(hidden),
        "program": _text(built),
        "files": _packed(files),
        "given": _packed(given),
    }
    return json.dumps(asked).encode("ascii")


def build() -> None:
    """Read a request, and write the program; or a JSON object that says why there is none, behind a first byte."""
    asked = json.loads(sys.stdin.buffer.read())
    name, version, command, targets, home = asked["compiler"]
    known = {int(bits): tuple(flags) for bits, flags in targets.items()}
    compiler = Compiler(name, version, tuple(command), known, home)
    try:
        content = b"+" + program.build(_unpacked(asked["files"]), _unpacked(asked["given"]), compiler)
    except HostError as error:
        told = {"message": error.message, "where": error.where, "remedy": error.remedy, "detail": error.detail}
        content = b"-" + json.dumps(told).encode("ascii")
    _write(content)


def built(output: bytes) -> bytes:
    """The program from what `build` wrote. Raises HostError as that says, ValueError where it wrote something else."""
    if output[:1] == b"+":
        return output[1:]
    if output[:1] != b"-":
        raise ValueError("the builder did not answer")
    told = json.loads(output[1:])
    keys = ("message", "where", "remedy", "detail")
    if type(told) is not dict or not all(type(told.get(key)) is str for key in keys):
        raise ValueError("the builder's answer is none")
    raise HostError(*(told[key] for key in keys))


def judge_built() -> None:
    """Read a request, and write a judgement."""
    asked = json.loads(sys.stdin.buffer.read())
    found = criteria_of(asked)
    files, given = _unpacked(asked["files"]), _unpacked(asked["given"])
    judgement = judge.judge_program(found, _bytes(asked["program"]), {**files, **given}, set(files) - set(given))
    _write(verdict.to_bytes(judgement))


def criteria_of(asked: Mapping[str, Any]) -> tuple[Criterion, ...]:
    """The criteria of the two files in a request."""
    hidden = None if asked["hidden"] is None else _bytes(asked["hidden"])
    return assignment.parsed(Path(asked["name"]), _bytes(asked["public"]), hidden).criteria


def _write(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _packed(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: _text(content) for name, content in files.items()}


def _unpacked(files: Mapping[str, str]) -> dict[str, bytes]:
    return {name: _bytes(content) for name, content in files.items()}


__all__ = ["build", "build_request", "built", "criteria", "judge_built", "judge_request"]


def _preload() -> None:
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)


_preload()
