"""Prints every bar beside its baseline: `python -m tests.bench [PART ...]`; with `--json` too."""

import json
import sys

from tests.bench import exit_costs, footprint, fuzzing, history, speed

PARTS = ("speed", "exits", "startup", "memory", "walk", "explore", "page", "keys", "fuzz")


def main(words: list[str]) -> int:
    chosen = [word for word in words if not word.startswith("-")] or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        print(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    report: dict[str, object] = {}
    quiet = "--json" in words
    say = (lambda *_, **__: None) if quiet else print
    if "speed" in chosen:
        bars = ", ".join(f"{name} {bar}" for name, bar in speed.BARS.items())
        say(f"guest speed, million instructions per second; bars, machine/raw at {speed.LONG_QUANTUM:,}: {bars}")
        say("hooked: a callback in C that does nothing for each block; counted: Unicorn's own count=")
        say(
            f"{'program':<9}{'quantum':>12}{'raw':>9}{'hooked':>9}{'counted':>9}{'machine':>9}{'/raw':>7}{'/hooked':>9}"
        )
        report["speed"] = rows = speed.rows()
        for row in rows:
            ratio, bar = row.machine / row.raw, speed.BARS[row.program]
            verdict = "" if row.quantum != speed.LONG_QUANTUM else "  ok" if ratio >= bar else "  MISSED"
            of_hooked = f"{row.machine / row.hooked:9.2f}" if row.hooked else f"{'':9}"
            say(
                f"{row.program:<9}{row.quantum:>12,}{row.raw:>9.0f}{row.hooked:>9.0f}{row.counted:>9.1f}"
                f"{row.machine:>9.1f}{ratio:>7.2f}{of_hooked}{verdict}"
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
    if "walk" in chosen:
        report["walk"] = walk = history.walking()
        say("\na run of 100 million instructions as a history; bars: a step back near the end 50 ms, one far back 2 s")
        say(f"  forward {walk['history']:.2f} s, the machine alone {walk['run']:.2f} s", end="; ")
        say(f"ratio {walk['history'] / walk['run']:.2f}")
        for name, bar in (("near", 0.05), ("far", 2.0)):
            verdict = "ok" if walk[name] <= bar else "MISSED"
            say(f"  worst of five {name:<5} {1000 * walk[name]:8.1f} ms  {verdict}")
        say(f"  {walk['checkpoints']} checkpoints, {walk['pages']} pages that ever changed")
    if "explore" in chosen:
        report["explore"] = found = history.exploring()
        say("\n2 updates of 4 stores over readers/seqlock; bars: 5 s on one core, 20 times the naive rate")
        say(f"  {found['seconds']:.2f} s for {found['states']:,} states  {'ok' if found['seconds'] <= 5 else 'MISSED'}")
        say(f"  with two jobs {found['two_jobs']:.2f} s; ratio {found['seconds'] / found['two_jobs']:.2f}")
        say(f"  {found['rate']:,.0f} placements between instructions decided a second")
        ratio = found["rate"] / found["naive_rate"]
        say(f"  naively {found['naive_rate']:,.0f}; ratio {ratio:,.0f}  {'ok' if ratio >= 20 else 'MISSED'}")
    if "page" in chosen:
        from tests.bench import page  # playwright is here for this alone

        report["page"] = found = page.scrubbing()
        say("\nthe page of the demonstration in Chromium, 3,000 positions in no order; bar: p95 at most 33 ms")
        times = ", ".join(f"{name} {found[name]:.1f} ms" for name in ("p50", "p95", "p99"))
        say(f"  input to frame {times}; {found['kb']:.0f} kB  {'ok' if found['p95'] <= 33 else 'MISSED'}")
    if "keys" in chosen:
        from tests.bench import keys  # and pyte for this one

        report["keys"] = sizes = keys.repainting()
        say("\na key of the stepper to the last byte on a terminal; bars: p95 50 ms, p99 100 ms")
        for size, times in sizes.items():
            verdict = "ok" if times["p95"] <= 50 and times["p99"] <= 100 else "MISSED"
            say(f"  {size:<7}" + ", ".join(f"{name} {time:.1f} ms" for name, time in times.items()) + f"  {verdict}")
    if "fuzz" in chosen:
        report["fuzz"] = speeds = fuzzing.rows()
        say(f"\nexecutions a second, {speeds['insns']:,.0f} instructions each; bars: atheris 20,000, bare 40,000")
        base, bars = speeds["bare loop"], {"atheris": 20_000, "bare loop": 40_000}
        for kind, each in speeds.items():
            if kind != "insns" and each is not None:
                verdict = "" if kind not in bars else "  ok" if each >= bars[kind] else "  MISSED"
                say(f"  {kind:<24}{each:>10,.0f}  ratio {each / base:5.2f}{verdict}")
    if quiet:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
