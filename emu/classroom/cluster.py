"""Grading on other machines: one function from bytes to bytes, which a worker of Dask calls.

The workers are trusted, and the submissions are not: each is judged in a sandbox on the worker, as it would be here.
A worker must have the same emu and the same compiler, so that it comes to the same bytes.

In Linux: nothing like it; distcc hands out a build in the same way.
"""

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.classroom import assignment as assignments
from emu.classroom import verdict
from emu.classroom.assignment import Assignment
from emu.classroom.grader import Grader
from emu.classroom.verdict import Judgement
from emu.classroom.wire import content, packed, text, unpacked
from emu.compiler import Compiler, find_compiler
from emu.faults import HostError
from emu.sandbox import tiers

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_S = 20


def request(asked: Assignment, compiler: Compiler, files: "Mapping[str, bytes]") -> bytes:
    """What `grade` reads."""
    table = {
        "emu": version("kvm-steal-emu"),
        "compiler": str(compiler),
        "name": asked.name,
        "public": text(asked.public),
        "private": None if asked.private is None else text(asked.private),
        "given": packed(asked.given_files()),
        "files": packed(files),
    }
    return json.dumps(table).encode("ascii")


def grade(asked: bytes) -> bytes:
    """On a worker: judge a submission; `+` and a judgement, or `-` and why there can be none."""
    table = json.loads(asked)
    files = unpacked(table.pop("files"))
    try:
        judgement = _grader(json.dumps(table)).grade(files)
    except HostError as error:
        return b"-" + error.sentence.encode()
    return b"+" + verdict.to_bytes(judgement)


def judgement_of(answer: bytes) -> Judgement:
    """What a worker has answered. Raises HostError where it could not judge."""
    if answer[:1] != b"+":
        raise HostError(answer[1:].decode("utf-8", "replace"), "a worker of the cluster")
    try:
        return verdict.from_bytes(answer[1:])
    except ValueError as reason:
        raise HostError(f"it has answered with no judgement ({reason})", "a worker of the cluster") from None


@functools.lru_cache(maxsize=4)
def _grader(described: str) -> Grader:
    table: dict[str, Any] = json.loads(described)
    own, compiler = version("kvm-steal-emu"), find_compiler(lambda _: None)
    if table["emu"] != own:
        raise HostError(f"it has emu {own}, and {table['emu']} is wanted")
    if table["compiler"] != str(compiler):
        raise HostError(f"it has the compiler {compiler}, and {table['compiler']} is wanted", remedy="set CC")
    private = None if table["private"] is None else content(table["private"])
    asked = assignments.parsed(Path(table["name"]), content(table["public"]), private)
    return Grader(asked, tiers.choose(), compiler, unpacked(table["given"]))


def connect(address: str) -> Any:
    """A client of the Dask scheduler at this address. Raises HostError where there is none."""
    try:
        from distributed import Client
    except ImportError:
        remedy = "python -m pip install 'kvm-steal-emu[cluster]'"
        raise HostError("the package `distributed` is not installed", "--cluster", remedy) from None
    try:
        client = Client(address, timeout=CONNECT_S)
        if not client.scheduler_info()["workers"]:
            raise HostError(
                "this scheduler has no workers", f"--cluster {address}", f"start some: dask worker {address}"
            )
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HostError(
            f"there is no scheduler ({reason})", f"--cluster {address}", "start one: dask scheduler"
        ) from None
    return client
