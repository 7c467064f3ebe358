"""`make prove-grade`: two hundred submissions, 100 right, 60 wrong and 40 hostile, graded on two cores.

It measures the time and the peak of memory of all processes together, compares every verdict with the one that is
expected, and grades the same class again, killed half-way and gone on with: the bytes must be the same.
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from emu import data
from emu.sandbox.confined import _family, _memory
from tests.classroom import cohort
from tests.classroom.cohort import CLOCK, DEVICE, Student
from tests.classroom.test_grade import tree

_LIMIT_S, _LIMIT_BYTES = 60, 1 << 30


def classes(share: int = 1) -> dict[str, list[Student]]:
    """The submissions to each assignment; every `share`th of the right and wrong ones."""
    hostile = {CLOCK: cohort.hostile_clocks(), DEVICE: cohort.hostile_devices()}
    right, wrong = {CLOCK: 50, DEVICE: 50}, {CLOCK: 30, DEVICE: 30}
    return {
        name: [*cohort.right(name, right[name] // share), *cohort.wrong(name, wrong[name] // share), *hostile[name]]
        for name in (CLOCK, DEVICE)
    }


def command(where: Path, name: str, out: str) -> list[str]:
    assignment = str(data.assignment_dirs()[name])
    words = ["grade", str(where / name), "--assignment", assignment, "--out", str(where / out), "-j", "2", "--quiet"]
    return [sys.executable, "-m", "emu", *words]


def measured(words: list[str]) -> tuple[float, int]:
    """Seconds, and the most memory that all of its processes held at a time, in bytes."""
    begun = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_memory, _family(process.pid))))
        time.sleep(0.05)
    assert process.returncode == 0
    return time.monotonic() - begun, peak


def killed(words: list[str], results: Path, after: int) -> None:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(results.glob("*.json"))) < after:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def unexpected(out: Path, students: list[Student]) -> list[str]:
    """The submissions that did not get what they must."""
    with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
        points = {row["key"]: int(row["points"]) for row in csv.DictReader(file)}
    return [
        f"{one.key}: {points.get(one.key)}, not {one.points}" for one in students if points.get(one.key) != one.points
    ]


def main() -> int:
    where = Path(tempfile.mkdtemp())
    seconds, peak, wrong, count = 0.0, 0, 0, 0
    try:
        for name, students in classes().items():
            cohort.place(where / name, students)
            spent, memory = measured(command(where, name, f"{name}-out"))
            seconds, peak, count = seconds + spent, max(peak, memory), count + len(students)
            told = unexpected(where / f"{name}-out", students)
            wrong += len(told)
            print(
                f"{name:14} {len(students):4} submissions  {spent:5.1f} s  {memory >> 20:5} MiB  {len(told)} unexpected"
            )
            print("".join(f"  {line}\n" for line in told), end="", flush=True)
            again = command(where, name, f"{name}-again")
            killed(again, where / f"{name}-again" / "results", len(students) // 3)
            subprocess.run(again, stdout=subprocess.DEVNULL, check=True)
            left = {one: sum_ for one, sum_ in tree(where / f"{name}-again").items() if not one.endswith(".part")}
            same = left == tree(where / f"{name}-out")
            wrong += not same
            print(
                f"{name:14} killed half-way and gone on with: {'the same bytes' if same else 'OTHER BYTES'}", flush=True
            )
    finally:
        shutil.rmtree(where, ignore_errors=True)
    slow, large = seconds > _LIMIT_S, peak > _LIMIT_BYTES
    print(f"{count} submissions in {seconds:.1f} s (bar: {_LIMIT_S}{', MISSED' if slow else ''}),", end=" ")
    print(f"at most {peak >> 20} MiB (bar: {_LIMIT_BYTES >> 20}{', MISSED' if large else ''})")
    return 1 if wrong or slow or large else 0


if __name__ == "__main__":
    sys.exit(main())
