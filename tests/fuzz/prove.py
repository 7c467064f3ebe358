"""`make prove-fuzz`: the long forms of two promises.

A campaign is killed at twenty random moments and loses nothing; and for an hour nothing is found of guests and of a
host that have no bug.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from emu.fuzz.records import HOSTS
from tests.fuzz.test_command import killed

CLEAN = ("readers/seqlock", "readers/seqlock32")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        killed(Path(folder), parsed.kills)
        print(f"killed {parsed.kills} times: nothing was lost", flush=True)
        ways = [["guest", name, "--host", host] for name in CLEAN for host in HOSTS] + [["host"]]
        seconds = max(round(60 * parsed.minutes / len(ways)), 1)
        status = 0
        for number, way in enumerate(ways):
            out = ["--out", f"clean-{number}", "--time", f"{seconds}s", "--quiet"]
            words = [sys.executable, "-m", "emu", "fuzz", *way, *out]
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
            print(f"{' '.join(way):40} {done.stdout.splitlines()[0] if done.stdout else done.stderr}", flush=True)
            if done.returncode:
                print(done.stdout, flush=True)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
