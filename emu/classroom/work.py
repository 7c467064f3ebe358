"""What runs inside the second sandbox: a program comes in, a judgement goes out, and nothing else is shared.

In Linux: usermodehelpers are as short of rights, and as short.
"""

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from emu.classroom import assignment, judge, verdict
from emu.classroom.assignment import Assignment
from emu.classroom.wire import content, packed, text, unpacked

# Loaded before the door is shut, for some of it is asked for late.
_PRELOADED = (
    *("emu.boot.elf", "emu.code.lines", "emu.explore.search", "emu.explore.cause", "emu.explore.evidence"),
    *("emu.diagnosis", "elftools.elf.elffile", "elftools.dwarf.dwarfinfo", "difflib"),
    *("encodings.ascii", "encodings.utf_8_sig"),
)
for _name in _PRELOADED:
    importlib.import_module(_name)


def request(asked: Assignment, built: bytes, files: Mapping[str, bytes], given: Mapping[str, bytes]) -> bytes:
    """What `judge_built` reads."""
    table = {
        "name": asked.name,
        "public": text(asked.public),
        "private": None if asked.private is None else text(asked.private),
        "program": text(built),
        "files": packed(files),
        "given": packed(given),
    }
    return json.dumps(table).encode("ascii")


def judge_built() -> None:
    """Read a request, and write a judgement."""
    asked = json.loads(sys.stdin.buffer.read())
    private = None if asked["private"] is None else content(asked["private"])
    found = assignment.parsed(Path(asked["name"]), content(asked["public"]), private).criteria
    files, given = unpacked(asked["files"]), unpacked(asked["given"])
    judgement = judge.judge_program(found, content(asked["program"]), {**files, **given}, set(files) - set(given))
    sys.stdout.buffer.write(verdict.to_bytes(judgement))
    sys.stdout.buffer.flush()
