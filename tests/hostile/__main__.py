"""The full form of the bar: `python -m tests.hostile --operations 1000000` (`make prove-hostile`).

Cases run in a process of their own, some hundreds in each, so that a crash or a hang of the engine is a finding as
well. `--first N --runs 1` repeats one case.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter

from tests.hostile.run import run

COMMAND = (sys.executable, "-m", "tests.hostile")
PER_PROCESS = 200
SECONDS_PER_CASE = 60  # real time; the slowest takes some two seconds on a quiet machine
REPEATED = 100  # every so many, a case runs twice and must have one trace
# What the bar counts.
OPERATIONS = ("Wrmsr", "Rdmsr", "Cpuid", "Hlt", "PortIn", "PortOut")


def child(first: int, runs: int) -> None:
    """Run cases, a line of JSON before and after each."""
    for number in range(first, first + runs):
        print(json.dumps({"begin": number}), flush=True)
        twice = number % REPEATED == 0
        try:
            outcome = run(number, digest=twice)
            if twice and run(number, digest=True).digest != outcome.digest:
                raise AssertionError("two runs have two traces")
        except Exception as error:
            told = traceback.format_exception(error)
            print(json.dumps({"failed": number, "why": "".join(told[-3:])}), flush=True)
            continue
        done = {"reason": outcome.reason, "kinds": outcome.kinds, "seconds": outcome.seconds}
        print(json.dumps({"done": number, "instructions": outcome.instructions, **done}), flush=True)


class Campaign:
    """Cases from `first` on; `kinds`, `reasons` and `failures` are what came of them."""

    def __init__(self, first: int, runs: int | None, operations: int) -> None:
        self.first = self.next = first
        self.end = None if runs is None else first + runs
        self.wanted = operations
        self.kinds: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.failures = 0
        self.instructions = 0
        self.slowest = 0.0, first

    @property
    def operations(self) -> int:
        return sum(self.kinds[kind] for kind in OPERATIONS)

    def go(self) -> None:
        while self.operations < self.wanted and (self.end is None or self.next < self.end):
            self._process(PER_PROCESS if self.end is None else min(PER_PROCESS, self.end - self.next))

    def _process(self, runs: int) -> None:
        """One process of cases; where it ends early, the case it was at is the one to blame."""
        command = [*COMMAND, "--child", "--first", str(self.next), "--runs", str(runs)]
        began, end = self.next, self.next + runs
        beat, hung = time.monotonic(), False
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            over = threading.Event()

            def watch() -> None:
                nonlocal hung
                while not over.wait(1):
                    if time.monotonic() - beat > SECONDS_PER_CASE:
                        hung = True
                        process.kill()
                        return

            watchdog = threading.Thread(target=watch, daemon=True)
            watchdog.start()
            for line in process.stdout:
                beat = time.monotonic()
                self._heard(json.loads(line))
                if self.operations >= self.wanted:
                    process.terminate()
                    break
            over.set()
            watchdog.join()
        if self.operations >= self.wanted or self.next >= end:
            return
        why = f"no end within {SECONDS_PER_CASE} s" if hung else f"the process ended with status {process.returncode}"
        self._fail(max(self.next, began), why)

    def _heard(self, told: dict) -> None:
        if "failed" in told:
            self._fail(told["failed"], told["why"])
        elif "done" in told:
            self.next = told["done"] + 1
            self.kinds.update(told["kinds"])
            self.reasons[told["reason"]] += 1
            self.instructions += told["instructions"]
            self.slowest = max(self.slowest, (told["seconds"], told["done"]))

    def _fail(self, number: int, why: str) -> None:
        self.failures += 1
        self.next = number + 1
        again = f"python -m tests.hostile --first {number} --runs 1"
        print(f"\ncase {number}: {why.rstrip()}\n  to repeat it: {again}", flush=True)

    def table(self, seconds: float) -> list[str]:
        lines = [f"operations   {self.operations:>10}", f"runs         {self.next - self.first:>10}"]
        lines += [f"seconds      {seconds:>10.0f}"]
        lines += [f"  {kind:<18}{self.kinds[kind]:>10}" for kind in OPERATIONS]
        lines += ["besides"]
        lines += [f"  {kind:<18}{count:>10}" for kind, count in sorted(self.kinds.items()) if kind not in OPERATIONS]
        lines += ["ended by"]
        lines += [f"  {reason:<18}{count:>10}" for reason, count in self.reasons.most_common()]
        lines += [f"instructions {self.instructions:>10}"]
        lines += [f"slowest run  {self.slowest[0]:>10.1f}  s, number {self.slowest[1]}"]
        return [*lines, f"failures     {self.failures:>10}"]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description="random hostile guests")
    parser.add_argument("--operations", type=int, default=1_000_000, help="stop after so many")
    parser.add_argument("--first", type=int, default=0, help="the first case")
    parser.add_argument("--runs", type=int, help="how many cases, at most")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.first, options.runs)
        return 0
    campaign = Campaign(options.first, options.runs, options.operations)
    began = time.monotonic()
    over = threading.Event()

    def show() -> None:
        while not over.wait(0.5):
            print(f"\r{campaign.operations} of {options.operations} operations, {campaign.failures} failures ",
                  end="", file=sys.stderr, flush=True)  # fmt: skip

    if sys.stderr.isatty():
        threading.Thread(target=show, daemon=True).start()
    campaign.go()
    over.set()
    print("\r" + "\n".join(campaign.table(time.monotonic() - began)))
    return 1 if campaign.failures or not campaign.operations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
