"""Prints every bar beside its baseline: `python -m tests.bench [speed|exits|startup|memory ...]`; with `--json` too."""

import json
import sys

from tests.bench import exit_costs, footprint, speed

PARTS = ("speed", "exits", "startup", "memory")


def main(words: list[str]) -> int:
    chosen = [word for word in words if not word.startswith("-")] or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        print(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    report: dict[str, object] = {}
    quiet = "--json" in words
    say = (lambda *_: None) if quiet else print
    if "speed" in chosen:
        say("guest speed, million instructions per second; bar: machine at least 1/1.10 of counted from 100,000 on")
        say(f"{'program':<9}{'quantum':>12}{'raw':>9}{'counted':>9}{'machine':>9}{'/raw':>8}{'counted/machine':>17}")
        report["speed"] = rows = speed.rows()
        for name, quantum, raw, counted, machine in rows:
            verdict = "" if quantum < 100_000 else "  ok" if counted / machine <= 1.10 else "  MISSED"
            say(
                f"{name:<9}{quantum:>12,}{raw:>9.0f}{counted:>9.1f}{machine:>9.1f}{machine / raw:>8.3f}"
                f"{counted / machine:>17.2f}{verdict}"
            )
    if "exits" in chosen:
        say("\nmicroseconds per exit, complete, trace off; bar: an MSR exit in at most 25")
        report["exits"] = costs = exit_costs.rows()
        for kind, cost in costs:
            verdict = "" if "MSR steal" not in kind else "  ok" if cost <= 25 else "  MISSED"
            say(f"  {kind:<36}{cost:>7.1f}{verdict}")
    if "startup" in chosen:
        command, baseline = footprint.startup()
        report["startup"] = (command, baseline)
        say("\nstart-up, median of 20; bar: at most 2.5 times the baseline")
        ratio = f"ratio {command / baseline:.2f}"
        say(f"  emu run hello {command:.0f} ms; import unicorn, capstone {baseline:.0f} ms; {ratio}")
    if "memory" in chosen:
        report["memory"] = footprint.kib_per_vcpu()
        say(f"\nmemory: {report['memory']:.0f} KiB per further vCPU")
    if quiet:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
