"""Judgements that are known, by what they are of: so that a grading that was interrupted goes on, and nothing is judged
twice.

A judgement's name is the hash of all that determines it. One file holds each; it appears when it is whole.

In Linux: ccache keeps objects so; scripts/Makefile.build decides by the same kind of sum.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from emu.classroom import verdict
from emu.classroom.assignment import Assignment
from emu.classroom.verdict import Judgement
from emu.faults import HostError


class Store:
    """Judgements in `folder`, which is made when the first is kept. `circumstances` are what else they depend on."""

    def __init__(self, folder: Path, assignment: Assignment, circumstances: Mapping[str, object]) -> None:
        self._folder = folder
        given = {name: _sum(content) for name, content in assignment.given_files().items()}
        private = None if assignment.private is None else _sum(assignment.private)
        self._base = json.dumps([_sum(assignment.public), private, given, dict(circumstances)], sort_keys=True)

    def key(self, files: Mapping[str, bytes]) -> str:
        """The name of the judgement of these files."""
        own = json.dumps({name: _sum(content) for name, content in files.items()}, sort_keys=True)
        return _sum(f"{self._base}\n{own}".encode())

    def known(self, key: str) -> Judgement | None:
        """The judgement of this name, if it was kept and is whole."""
        with contextlib.suppress(OSError, ValueError):
            content = (self._folder / f"{key}.json").read_bytes()
            return verdict.from_bytes(content)
        return None

    def keep(self, key: str, judgement: Judgement) -> None:
        """Keep it. Raises HostError where that cannot be done."""
        path = self._folder / f"{key}.json"
        partial = path.with_suffix(f".{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(verdict.to_bytes(judgement))
            os.replace(partial, path)
        except OSError as error:
            raise HostError(f"the result cannot be kept ({error.strerror})", str(path)) from None


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
