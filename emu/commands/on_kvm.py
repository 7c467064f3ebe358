"""`emu run --on kvm`: the same guest on the real /dev/kvm, with the same console, statuses and fields.

What only an emulated host can do is refused, not ignored: a user who asks for a host task or a trace would otherwise
take what Linux happened to do for an answer.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from emu import clock
from emu import result as results
from emu.boot.image import Image
from emu.commands.console import ConsoleWriter
from emu.faults import HostError
from emu.kvm.cpuid import Withheld
from emu.kvm.result import Result, VcpuResult
from emu.kvm.runner import Runner, Settings
from emu.scenario import BY_FIELD, Config
from emu.view.scale import readable

# The rest of a configuration describes the emulated host, its clock, or the emulated interface.
_MEANT = frozenset(
    ("vcpus", "ram", "without", "lax_cpuid", "start", "mode", "time_limit_ps", "exit_limit", "output_limit")
)

_ENDINGS = {
    results.HALTED: "halted: every vCPU sleeps and nothing is armed that could wake one",
    results.TRIPLE_FAULT: "a triple fault (an exception while a double fault was delivered) ended the run",
    results.INTERRUPTED: "interrupted: these are the books so far",
    results.TIME_LIMIT: "stopped at the limit of real time (--time-limit sets another)",
    results.EXIT_LIMIT: "stopped at --exit-limit",
    results.OUTPUT_LIMIT: "stopped at --output-limit",
}


def run_on_kvm(
    parsed: argparse.Namespace,
    config: Config,
    image: Image,
    ctrl_c: Callable[[Runner], AbstractContextManager[None]],
) -> Result:
    """Run `image`, show its console and its books. Raises HostError where that cannot be done on KVM."""
    if parsed.trace is not None:
        raise HostError("real KVM tells no events, so there is no trace", "--trace", "leave out --trace or --on kvm")
    if parsed.record is not None:
        raise HostError("a run on real KVM cannot be played again", "--record", "leave out --record or --on kvm")
    settings = settings_from(config)
    writer = ConsoleWriter(sys.stderr if parsed.json else sys.stdout, raw=parsed.raw)
    runner = Runner(image, settings, console=writer)
    try:
        with ctrl_c(runner):
            result = runner.run(lambda _: writer.flush())
    finally:
        writer.finish(more=not (parsed.quiet or parsed.json))
    if runner.shutdown is not None:
        vcpu, rip = runner.shutdown
        sys.stdout.flush()
        print(
            f"triple fault on vCPU {vcpu} at RIP {rip:#x}; without --on kvm emu shows why", file=sys.stderr, flush=True
        )
    if parsed.quiet and result.reason in results.LIMITS:
        sys.stdout.flush()
        print(f"emu: {_ENDINGS[result.reason]}", file=sys.stderr, flush=True)
    if parsed.json:
        import json

        print(json.dumps(result.as_json()))
    elif not parsed.quiet:
        print("\n".join(lines(result, runner.withheld)))
    return result


def settings_from(config: Config) -> Settings:
    """The part of a configuration that has a meaning on KVM. Raises HostError for an option that has none.

    A time limit is wall-clock time here; the default is that of `Settings`, not the emulator's.
    """
    default = Config()
    for field, value in config._asdict().items():
        if field not in _MEANT and value != getattr(default, field):
            name = BY_FIELD[field].name
            raise HostError(
                "this is about the emulated host, and means nothing on real KVM", f"--{name}", "leave it out"
            )
    settings = Settings(
        vcpus=config.vcpus,
        ram=config.ram,
        start=config.start,
        without=config.without,
        lax_cpuid=config.lax_cpuid,
        exit_limit=config.exit_limit,
        output_limit=config.output_limit,
    )
    if config.time_limit_ps == default.time_limit_ps:
        return settings
    return settings._replace(limit_ns=max(clock.ns(config.time_limit_ps), 1))


def lines(result: Result, withheld: list[Withheld]) -> list[str]:
    """The summary: each vCPU's books, and how the run ended."""
    made = [_books(one) for one in result.vcpus]
    ending = _ENDINGS.get(result.reason, f"the guest ended the run with status {result.exit_code}")
    made += ["", f"{ending}, after {readable(result.wall_ns)} of real time on /dev/kvm"]
    if withheld:
        bits = ", ".join(bit.name for bit in withheld)
        made.append(
            f"this KVM does not support some CPUID bits of the emulator, so the guest was not told of them: {bits}"
        )
    return made


def _books(one: VcpuResult) -> str:
    books = f"ran {one.ran_ns:,} + stolen {one.stolen_ns:,} + idle {one.idle_ns:,} = elapsed {one.elapsed_ns:,} ns"
    area: Any = one.area
    shown = "no area" if area is None else f"area: steal {area.steal:,} ns, version {area.version:,}"
    return f"vcpu{one.id}: {books}; {shown}"
