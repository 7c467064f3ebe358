"""AFL++ leads: this process speaks its fork server's protocol, without ever forking, and lends it the guest's edges.

`python -m emu.fuzz.afl JOB`, started by afl-fuzz. What a worker would say goes into a file of the campaign's folder,
for afl-fuzz lets its target say nothing.

Protocol: afl-fuzz's forkserver (docs/persistent_mode and include/types.h of AFL++ 4): descriptors 198 and 199.
"""

import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emu.faults import HostError
from emu.fuzz.corpus import dictionary, written
from emu.fuzz.harness import MAP_SIZE
from emu.fuzz.records import MOST_BYTES
from emu.fuzz.target import target_of
from emu.fuzz.worker import Enough, GuestSession, Job

PROGRAM = "afl-fuzz"
_CONTROL, _STATUS = 198, 199
_OPTIONS, _SHARED_INPUT, _SIZED_MAP = 0x80000001, 0x01000000, 0x40000000
_WORD = struct.Struct("<I")
_QUIET = {
    "AFL_NO_UI": "1",
    "AFL_SKIP_CPUFREQ": "1",
    "AFL_NO_AFFINITY": "1",
    "AFL_SKIP_BIN_CHECK": "1",
    "AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES": "1",
    "AFL_AUTORESUME": "1",
    "AFL_MAP_SIZE": str(MAP_SIZE),
}


def start(job: Job, jobs: int) -> list["subprocess.Popen[bytes]"]:
    """So many instances of afl-fuzz, of which the first is the main one. Raises HostError where there is none."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise HostError("afl-fuzz is not installed", "--engine afl", "on Debian and Ubuntu: sudo apt install afl++")
    out = Path(job.out)
    seeds = out / "corpus"
    seeds.mkdir(parents=True, exist_ok=True)
    if not any(seeds.iterdir()):
        (seeds / "nothing").write_bytes(bytes(4))
    target = target_of(job.target)
    place = written(out, dictionary(target.host, target.events))
    found = []
    for number in range(jobs):
        one = job._replace(number=number, seed=job.seed + number, sweep=job.sweep and not number, seconds=0)
        words = [program, "-i", str(seeds), "-o", str(out / "afl"), "-t", "20000", "-G", str(MOST_BYTES)]
        words += ["-x", str(place)]
        words += [*("-M" if not number else "-S", f"emu{number}"), "-s", str(one.seed + 1)]
        words += ["-V", str(int(job.seconds))] if job.seconds else []
        words += ["--", sys.executable, "-m", "emu.fuzz.afl", json.dumps(one._asdict())]
        with (out / f"afl-{number}.log").open("wb") as log:
            found.append(
                subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **_QUIET},
                    start_new_session=True,
                )
            )
    return found


def told(out: Path, number: int) -> dict[str, Any]:
    """What the target of that instance has said last; nothing where it has not yet."""
    try:
        found = json.loads((out / f"status-{number}.json").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return found if type(found) is dict else {}


class _Quiet(GuestSession):
    """A session that says how it goes in a file."""

    def tell(self, **more: Any) -> None:
        """See Session."""
        place = Path(self.job.out) / f"status-{self.job.number}.json"
        new = place.with_suffix(".new")
        new.write_text(json.dumps({**self.state(), **more}) + "\n", encoding="ascii")
        os.replace(new, place)


class _Shared:
    """Memory that afl-fuzz shares, by its System V number."""

    def __init__(self, number: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        libc.shmat.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_int
        place = libc.shmat(number, None, 0)
        if place in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "no shared memory")
        self.place = int(place)


def main(words: Sequence[str]) -> None:
    """Serve afl-fuzz until it goes away, or the job's bound is met."""
    job = Job(**json.loads(words[0]))
    session = _Quiet(job, target_of(job.target))
    try:
        if job.sweep:
            session.sweep()
        _serve(session)
    except Enough:
        pass
    session.tell(done=True)
    session.cover()


def _serve(session: GuestSession) -> None:
    options = _OPTIONS | _SHARED_INPUT | _SIZED_MAP | MAP_SIZE - 1 << 1
    shared = _Shared(int(os.environ["__AFL_SHM_ID"]))
    session.harness.use_map(shared.place)
    first = ctypes.c_uint8.from_address(shared.place)
    os.write(_STATUS, _WORD.pack(options))
    if not _WORD.unpack(os.read(_CONTROL, 4))[0] & _SHARED_INPUT:
        raise SystemExit("this afl-fuzz does not share its inputs; use AFL++ 4")
    given = _Shared(int(os.environ["__AFL_SHM_FUZZ_ID"])).place
    size = ctypes.c_uint32.from_address(given)
    own, fine = _WORD.pack(os.getpid()), _WORD.pack(0)
    while len(os.read(_CONTROL, 4)) == 4:
        os.write(_STATUS, own)
        first.value = 1  # afl-fuzz takes an empty map for a target that is not instrumented
        session.one(ctypes.string_at(given + 4, size.value))
        os.write(_STATUS, fine)


if __name__ == "__main__":
    main(sys.argv[1:])
