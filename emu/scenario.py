"""A run's configuration: one table of options, filled from the command line, a TOML file, or Python.

Each option has a name, a default, a reader from text and a sentence of help; flags, scenario keys and keyword arguments
are three spellings of the same table. Everything that determines a run besides the guest's image stands here.

In Linux: nothing like it; tools/testing/selftests/kvm take theirs from getopt.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from emu import abi, clock
from emu.faults import HostError

HOST_MODELS = ("kvm", "other-cpu")
PROFILES = ("kvm", "kvm-2011")
POLICIES = ("round-robin", "fair", "random", "script")
STEAL_STORES = ("whole", "halves")
STARTS = ("all", "bsp")
FEATURES = ("steal-time",)
IMAGE_MODES = ("auto", "long", "pm32", "real")
DEFAULT_STORE_GAP = 64  # under other-cpu: gaps of 0 to this many instructions, from the seed
MAX_TEXT = 1 << 20
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Config(NamedTuple):
    """What a run is determined by; durations in picoseconds, sizes in bytes. `Config()` is `emu run` without options.

    `script` is the place and the text of a script, `store_gap` the exact gaps or nothing.
    """

    vcpus: int = 1
    pcpus: int = 1
    tasks: tuple[str, ...] = ()
    policy: str = "round-robin"
    quantum_ps: int = 100 * clock.UNITS["us"]
    script: tuple[str, str] | None = None
    seed: int = 0
    pin: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()
    ram: int = 16 << 20
    host_model: str = "kvm"
    store_gap: tuple[int, ...] = ()
    steal_store: str = "whole"
    abi: str = "kvm"
    without: tuple[str, ...] = ()
    start: str = "all"
    mode: str = "auto"
    ps_per_insn: int = 1000
    tsc_khz: int = 1_000_000
    interleave_ps: int = clock.UNITS["us"]
    time_limit_ps: int = clock.UNITS["s"]
    insn_limit: int = 1_000_000_000
    exit_limit: int = 2_000_000
    output_limit: int = 1 << 20

    def traceable(self) -> dict[str, Any]:
        """The configuration as it stands at the head of a trace: no paths, nothing of the host."""
        return {**self._asdict(), "script": None if self.script is None else self.script[1]}


class Option(NamedTuple):
    """One row of the table. `read` turns text into the value and raises ValueError with the reason."""

    name: str
    field: str
    read: Callable[[str], Any]
    help: str
    repeats: bool = False
    metavar: str = ""


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`; `1e9` and `1_000` are understood."""

    def read(text: str) -> int:
        mantissa, _, exponent = text.lower().replace("_", "").partition("e")
        exponent = exponent or "0"
        readable = mantissa.isdecimal() and exponent.isdecimal() and text.isascii()
        if readable and len(mantissa) < 20 and len(exponent) < 3:
            value: int = int(mantissa) * 10 ** int(exponent)
            if low <= value <= high:
                return value
        raise ValueError(f"must be a whole number from {low} to {high}")

    return read


def one_of(*names: str) -> Callable[[str], str]:
    """A reader of one of some names."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return read


def duration(text: str) -> int:
    """A positive duration, in picoseconds."""
    ps = clock.parse_duration(text)
    if ps == 0:
        raise ValueError("must be longer than nothing")
    return ps


def size(text: str) -> int:
    """Bytes: a whole number with K, M or G."""
    number, unit = text[:-1], text[-1:].upper()
    if unit in _SIZES and number.isdecimal() and number.isascii() and len(number) < 10:
        return int(number) * _SIZES[unit]
    raise ValueError("must be a whole number with K, M or G, such as 16M")


def gaps(text: str) -> tuple[int, ...]:
    """One gap, or several with commas between."""
    read = whole(0, 1 << 32)
    return tuple(read(part) for part in text.split(","))


def text_file(path: str) -> tuple[str, str]:
    """The place and the text of a file of at most a mebibyte."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError("is not text") from None
    if len(text) > MAX_TEXT:
        raise ValueError("is longer than a mebibyte")
    return path, text


def _plain(text: str) -> str:
    return text


def _place(text: str) -> str:
    vcpu, equals, value = text.partition("=")
    if not (equals and vcpu.isdecimal() and value.isdecimal() and len(text) < 16):
        raise ValueError("must be VCPU=NUMBER, such as 0=1")
    return text


OPTIONS = (
    Option("vcpus", "vcpus", whole(1, abi.MAX_VCPUS), "how many virtual CPUs the guest has", metavar="N"),
    Option("pcpus", "pcpus", whole(1, abi.MAX_VCPUS), "how many physical CPUs the host has for them", metavar="N"),
    Option(
        "task",
        "tasks",
        _plain,
        "a host task that competes for the pCPUs: busy:weight=2, periodic:period=10ms,run=3ms,phase=0,"
        " bursty:on=2ms,off=5ms; each may have weight= and pcpu=; may be given several times",
        repeats=True,
        metavar="KIND",
    ),
    Option("policy", "policy", one_of(*POLICIES), f"how the host schedules: {', '.join(POLICIES)}", metavar="NAME"),
    Option("quantum", "quantum_ps", duration, "how long one runs before the next is considered", metavar="TIME"),
    Option(
        "script", "script", text_file, "for --policy script: a file of lines `pcpu who duration|insns`", metavar="FILE"
    ),
    Option("seed", "seed", whole(0, (1 << 64) - 1), "for everything random", metavar="N"),
    Option("pin", "pin", _place, "bind a vCPU to a pCPU, as VCPU=PCPU", repeats=True, metavar="V=P"),
    Option("weight", "weight", _place, "a vCPU's weight under fair, as VCPU=WEIGHT", repeats=True, metavar="V=W"),
    Option("ram", "ram", size, "guest memory, such as 16M", metavar="SIZE"),
    Option(
        "host-model",
        "host_model",
        one_of(*HOST_MODELS),
        "kvm: an update happens between two entries of its vCPU, as in real KVM; other-cpu: each of its stores may"
        " fall between any two instructions, as another CPU sees it",
        metavar="NAME",
    ),
    Option(
        "store-gap",
        "store_gap",
        gaps,
        f"under other-cpu: instructions before each store of an update, as N or N,N,... repeated; else 0 to"
        f" {DEFAULT_STORE_GAP} from the seed",
        metavar="N",
    ),
    Option(
        "steal-store",
        "steal_store",
        one_of(*STEAL_STORES),
        "whole: the host stores steal in one piece, as a 64-bit host does; halves: low half first, as a 32-bit one",
        metavar="NAME",
    ),
    Option("abi", "abi", one_of(*PROFILES), "the interface of today, or of the 2011 document", metavar="NAME"),
    Option(
        "without",
        "without",
        one_of(*FEATURES),
        f"withhold a feature: {', '.join(FEATURES)}",
        repeats=True,
        metavar="NAME",
    ),
    Option("start", "start", one_of(*STARTS), "which vCPUs run from the start: all, or bsp (vCPU 0)", metavar="WHO"),
    Option(
        "mode",
        "mode",
        one_of(*IMAGE_MODES),
        "how a flat image is entered: long, pm32 (32-bit protected) or real; auto takes ELF files only",
        metavar="MODE",
    ),
    Option("ps-per-insn", "ps_per_insn", whole(1, 10**9), "picoseconds one guest instruction takes", metavar="PS"),
    Option("tsc-khz", "tsc_khz", whole(1, 10**8), "how fast the guest's time-stamp counter runs", metavar="KHZ"),
    Option(
        "interleave",
        "interleave_ps",
        duration,
        "with several pCPUs: how far one may run ahead of another",
        metavar="TIME",
    ),
    Option("time-limit", "time_limit_ps", duration, "end the run at this virtual time", metavar="TIME"),
    Option("insn-limit", "insn_limit", whole(1, 10**15), "end the run after this many instructions", metavar="N"),
    Option("exit-limit", "exit_limit", whole(1, 10**12), "end the run after this many exits", metavar="N"),
    Option("output-limit", "output_limit", size, "end the run after this much console output", metavar="SIZE"),
)
BY_FIELD = {option.field: option for option in OPTIONS}


def from_text(values: Mapping[str, list[str]], base: Config = Config(), where: str = "") -> Config:
    """`base` with options given as text, by option name. Raises HostError naming the option and the remedy."""
    changes: dict[str, Any] = {}
    known = {option.name: option for option in OPTIONS}
    for name, texts in values.items():
        option = known[name]
        read = []
        for text in texts:
            try:
                read.append(option.read(text))
            except ValueError as reason:
                place = f"{where}{name}" if where else f"--{name}"
                raise HostError(f"{text!r} cannot be used: {reason}", place) from None
        changes[option.field] = tuple(read) if option.repeats else read[-1]
    return base._replace(**changes)


class Scenario(NamedTuple):
    """A scenario file: its guest, if it names one, and its configuration."""

    guest: str | None
    config: Config


def load_scenario(path: str) -> Scenario:
    """Read a TOML file whose keys are the option names, with `guest` beside them. Raises HostError with the place.

    Numbers may be written as numbers; `task`, `pin`, `weight` and `without` take a list.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise HostError(f"cannot be read ({error.strerror})", path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HostError(f"is not TOML: {error}", path) from None
    guest = table.pop("guest", None)
    if guest is not None and not isinstance(guest, str):
        raise HostError("the guest must be a path or a name", f"{path}: guest")
    known = {option.name: option for option in OPTIONS}
    values: dict[str, list[str]] = {}
    for key, value in table.items():
        if key not in known:
            raise HostError(f"there is no option {key!r}", path, f"known are guest, {', '.join(known)}")
        several = value if isinstance(value, list) else [value]
        for one in several:
            if isinstance(one, bool) or not isinstance(one, (str, int)):
                raise HostError("must be text or a whole number", f"{path}: {key}")
        if isinstance(value, list) and not known[key].repeats:
            if key != "store-gap":
                raise HostError("takes one value, not a list", f"{path}: {key}")
            several = [",".join(map(str, value))]
        values[key] = [str(one) for one in several]
    if "script" in values:
        values["script"] = [os.path.join(os.path.dirname(path), values["script"][0])]
    return Scenario(guest, from_text(values, where=f"{path}: "))
