"""The criteria: what each kind asks, read from its table.

    build     the program builds
    run       a run of it, on this machine, ends and says what it must
    explore   properties hold in every schedule within a bound
    device    a device answers as the reference does, under so many random sequences of operations

In Linux: nothing like it.
"""

import re
from collections.abc import Mapping
from typing import Any

from emu import scenario
from emu.classroom.asks import ANSWERS, PROTOCOL, Build, Criterion, Device, Explore, Run
from emu.classroom.fields import Field, flag, list_of, number, one_of, taken, text
from emu.explore.instance import MAX_UPDATES, Instance
from emu.explore.properties import OF_READS, PROPERTIES
from emu.faults import HostError
from emu.history.edits import MAX_BURST
from emu.scenario import FEATURES, HOST_MODELS, PROFILES, STEAL_STORES, Config

INSN_LIMIT, STATE_LIMIT = 20_000, 20_000  # of an exploration, unless an assignment says otherwise
# Unless `machine` says otherwise; the output is somewhat more than the longest that can be asked for.
RUN_INSN_LIMIT, RUN_EXIT_LIMIT, RUN_OUTPUT_LIMIT = 5_000_000, 50_000, 10 << 10
_PLACEHOLDER = re.compile(r"<steal (\d{1,2}|all)>")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


DEVICE_OPERATIONS = ("rdmsr", "wrmsr", "update", "preempt", "store", "reset")

COMMON = (
    Field("name", lambda value: _name(value), "the criterion's short name, such as never-torn"),
    Field("kind", one_of("build", "run", "explore", "device"), "build, run, explore or device"),
    Field("title", text(120), "what must be so, in one line, for the students"),
    Field("points", number(0, 10_000), "what it is worth"),
)
RUN = (
    Field("machine", lambda value: value, "a table of options of `emu run`, such as { vcpus = 2, task = 'busy' }", {}),
    Field("exit", number(0, 255), "the exit status", 0),
    Field(
        "console", text(10_000), "all that is printed; <steal 0> is what vCPU 0 read last, <steal all> the sum", None
    ),
    Field("updates", number(0, 10**6), "how many updates each area has got at least", 0),
    Field("registered", flag, "whether every vCPU's area is registered at the end, or none", None),
    Field("refused", number(0, 1000), "how many writes to MSR_KVM_STEAL_TIME were refused, and survived", 0),
    Field("reads", number(0, 10**6), "how many marked reads each vCPU has made at least", 0),
    Field("properties", list_of(one_of(*OF_READS)), "what holds of these reads", ()),
)
EXPLORE = (
    Field("properties", list_of(one_of(*PROPERTIES), 1), "what holds in every schedule"),
    Field("updates", number(0, MAX_UPDATES), "so many updates of each area", 1),
    Field("burst", number(1, MAX_BURST), "or so many updates at once, in the place of one", 1),
    Field("host-model", one_of(*HOST_MODELS), "whether updates are whole (kvm) or store by store", "other-cpu"),
    Field("steal-store", one_of(*STEAL_STORES), "whether steal is stored whole or in halves", "whole"),
    Field("vcpus", number(1, 4), "so many vCPUs on one pCPU", 1),
    Field("switches", number(0, 16), "so many switches between them that nobody asked for", 0),
    Field("jumps", number(0, 16), "so often the vCPU is made to wait", 0),
    Field("reads", number(0, 100), "a run is looked at until each vCPU has made so many; 0: to its end", 0),
    Field("without", list_of(one_of(*FEATURES)), "features that the machine does not offer", ()),
    Field("insn-limit", number(1, 10**9), "the longest run, in instructions", INSN_LIMIT),
    Field("state-limit", number(1, 10**7), "the most states", STATE_LIMIT),
)
DEVICE = (
    Field("abi", one_of(*PROFILES), "the interface: kvm, kvm-bugs or kvm-2011", "kvm"),
    Field("seed", number(0, 2**32 - 1), "from which the sequences are drawn", 1),
    Field("sequences", number(1, 100_000), "how many sequences", 1000),
    Field("length", number(1, 64), "how many operations each has at most", 12),
    Field("operations", list_of(one_of(*DEVICE_OPERATIONS), 1), "the operations in them", DEVICE_OPERATIONS),
    Field("judge", one_of(ANSWERS, PROTOCOL), "answers: as the reference's; protocol: when it stores what", ANSWERS),
)
KINDS: Mapping[str, tuple[Field, ...]] = {"build": (), "run": RUN, "explore": EXPLORE, "device": DEVICE}
OF_GUEST = ("build", "run", "explore")


def read(table: Mapping[str, Any], assignment_kind: str, where: str, *, hidden: bool) -> Criterion:
    """A [[criterion]] of an assignment of this kind. Raises HostError, naming the place."""
    named = table.get("name")
    place = f"{where} ({named})" if isinstance(named, str) and _NAME.fullmatch(named) else where
    kind = table.get("kind")
    own = KINDS.get(kind, ()) if isinstance(kind, str) else ()
    values = taken(table, (*COMMON, *own), place)
    allowed = OF_GUEST if assignment_kind == "guest" else ("device",)
    if not isinstance(kind, str) or kind not in allowed:
        raise HostError(f"kind {kind!r} is not for a {assignment_kind}", place, f"use {' or '.join(allowed)}")
    ask = _ASKS[kind](values, place)
    return Criterion(values["name"], kind, values["title"], values["points"], hidden, ask)


def placeholders(console: str) -> list[str]:
    """The texts between, before and after the placeholders of a console text, which stand at odd places."""
    return _PLACEHOLDER.split(console)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("a short name in small letters, digits and dashes")
    return value


def _run(values: Mapping[str, Any], where: str) -> Run:
    config = Config(insn_limit=RUN_INSN_LIMIT, exit_limit=RUN_EXIT_LIMIT, output_limit=RUN_OUTPUT_LIMIT)
    if not isinstance(values["machine"], Mapping):
        raise HostError("machine must be a table", where, "such as machine = { vcpus = 2, task = 'busy' }")
    config = scenario.from_table(values["machine"], f"{where}: machine", config)
    if config.script is not None:
        raise HostError("a script cannot be used here", f"{where}: machine")
    return Run(
        config,
        values["exit"],
        values["console"],
        values["updates"],
        values["registered"],
        values["reads"],
        values["properties"],
        values["refused"],
    )


def _explore(values: Mapping[str, Any], where: str) -> Explore:
    settings = {
        "model": values["host-model"],
        "updates": values["updates"],
        "halves": values["steal-store"] == "halves",
        "burst": values["burst"],
        "vcpus": values["vcpus"],
        "switches": values["switches"],
        "jumps": values["jumps"],
        "reads": values["reads"],
        "withheld": values["without"],
        "insn_limit": values["insn-limit"],
        "state_limit": values["state-limit"],
        "properties": frozenset(values["properties"]),
    }
    assert settings.keys() <= set(Instance._fields)
    return Explore(settings, values["properties"])


def _device(values: Mapping[str, Any], where: str) -> Device:
    return Device(
        values["abi"], values["seed"], values["sequences"], values["length"], values["operations"], values["judge"]
    )


_ASKS: Mapping[Any, Any] = {"build": lambda values, where: Build(), "run": _run, "explore": _explore, "device": _device}
