"""`make bench-fuzz`: planted bugs, and how soon each engine finds them, side by side.

Magma's way: of each bug one build has it and the clean one has not. Median over the seeds of executions and of seconds,
from the start of the command to its end with the first finding; misses are seeds that found nothing within the bound.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.test_host import WRONG, device
from tests.fuzz.test_planted import PLANTED

_ALONE = ("atheris", *(("afl",) if shutil.which("afl-fuzz") else ()), "hypothesis", "random")
ENGINES = (("sweep first", "atheris", True), *((one, one, False) for one in _ALONE))


def one(words: list[str], engine: str, seed: int, seconds: int, *, sweep: bool) -> tuple[int, float] | None:
    """Executions and seconds to the first finding, or None."""
    out = tempfile.mkdtemp()
    command = [sys.executable, "-m", "emu", "fuzz", *words, "--engine", engine, "--seed", str(seed), "--out", out]
    command += ["--time", f"{seconds}s", "--exit-on-first", "--json", "--quiet", *([] if sweep else ["--no-sweep"])]
    begun = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        spent = time.monotonic() - begun
    finally:
        shutil.rmtree(out, ignore_errors=True)
    told = json.loads(done.stdout)
    return (told["executions"], spent) if told["findings"] else None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--only", default="", help="targets whose names have this in them")
    parser.add_argument("--engines", default="", help="of these alone, such as: sweep first,atheris")
    parsed = parser.parse_args()
    chosen = [each for each in ENGINES if not parsed.engines or each[0] in parsed.engines.split(",")]
    where = Path(tempfile.mkdtemp())
    targets = {f"guest {name}": ["guest", f"readers/{name}"] for name in PLANTED}
    for name in WRONG:
        (where / name).mkdir()
        targets[f"host {name}"] = ["host", "--device", device(where / name, name)]
    print(f"{parsed.seeds} seeds, at most {parsed.seconds:g} s each: median executions, median seconds (misses)")
    print(f"{'':24}" + "".join(f"{title:>26}" for title, _, _ in chosen), flush=True)
    missed = 0
    for title, words in targets.items():
        if parsed.only not in title:
            continue
        cells = []
        for _, engine, sweep in chosen:
            if engine == "afl" and words[0] == "host":
                cells.append("guests alone")
                continue
            done = [one(words, engine, seed, parsed.seconds, sweep=sweep) for seed in range(parsed.seeds)]
            found = [each for each in done if each is not None]
            misses = len(done) - len(found)
            missed += misses if sweep else 0
            if found:
                executions, seconds = (statistics.median(each[at] for each in found) for at in (0, 1))
                cells.append(f"{executions:,.0f}  {seconds:.2f} s ({misses})")
            else:
                cells.append(f"none ({misses})")
        print(f"{title:24}" + "".join(f"{cell:>26}" for cell in cells), flush=True)
    shutil.rmtree(where, ignore_errors=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
