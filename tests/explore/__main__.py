"""The full form of the bar: each line of the table with one, two and three updates, steal whole and in halves."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.explore import spin
from tests.explore.readers import MODELS, TABLE, cases, explore, violated


def main() -> int:
    wrong = 0
    print(f"{'guest':28} {'host model':10} {'does not hold':14} {'steps':>5} {'states':>8} {'placements':>22} {'s':>6}")
    for guest, model, expected, burst in cases():
        for updates in (1, 2, 3) if expected is None else (2,):
            for halves in (False, True) if model == "other-cpu" else (False,):
                begun = time.perf_counter()
                reports = explore(guest, model, updates, burst, halves=halves)
                seconds = time.perf_counter() - begun
                found = violated(reports)
                steps = len(reports[-1].found.way.steps) if reports[-1].found else updates
                states = sum(report.states for report in reports)
                sign = "" if found == expected else f"   expected {expected}"
                wrong += found != expected
                count = f"{reports[0].placements:22,}" if found is None else f"{'':22}"
                what = found or f"holds ({updates})"
                print(f"{guest:28} {model:10} {what:14} {steps:5} {states:8,} {count} {seconds:6.1f}{sign}", flush=True)
    print(f"lines that came out otherwise  {wrong}")
    wrong += _ask_spin()
    return 1 if wrong else 0


def _ask_spin() -> int:
    if shutil.which("spin") is None or shutil.which("cc") is None:
        print("Spin was not asked: there is no spin or no cc here (on Debian: apt install spin gcc)")
        return 0
    wrong = 0
    for name in spin.READERS:
        expected = list(TABLE[name][:4])
        found = []
        for bits in (64, 32):
            for model in MODELS:
                with tempfile.TemporaryDirectory() as folder:
                    found.append(spin.verdict(name, bits, model, Path(folder)))
        wrong += found != expected
        print(f"Spin on {name:14} {found}{'' if found == expected else f'   expected {expected}'}", flush=True)
    print(f"readers on which Spin disagrees  {wrong}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
