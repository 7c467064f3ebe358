"""A run's configuration: one table of options, filled from the command line, a TOML file, or Python.

Each option has a name, a default, a reader from text and a sentence of help; flags, scenario keys and keyword arguments
are three spellings of the same table. Everything that determines a run besides the guest's image stands here.

In Linux: nothing like it; tools/testing/selftests/kvm take theirs from getopt.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from emu import abi, clock
from emu.faults import HostError

HOST_MODELS = ("kvm", "other-cpu")
PROFILES = ("kvm", "kvm-bugs", "kvm-2011")
POLICIES = ("round-robin", "fair", "random", "script")
STEAL_STORES = ("whole", "halves")
STARTS = ("all", "bsp")
FEATURES = (
    *("clocksource", "steal-time", "async-pf", "async-pf-vmexit", "async-pf-int"),
    *("pv-eoi", "pv-unhalt", "pv-tlb-flush", "pv-send-ipi", "poll-control", "pv-sched-yield", "migration-control"),
)
IMAGE_MODES = ("auto", "long", "pm32", "real")
DEFAULT_STORE_GAP = 64  # under other-cpu: gaps of 0 to this many instructions, from the seed
MAX_TEXT = 1 << 20
MAX_DURATION_PS = 10**6 * clock.UNITS["s"]
MAX_OUTPUT = 256 << 20
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Config(NamedTuple):
    """What a run is determined by; durations in picoseconds, sizes in bytes. `Config()` is `emu run` without options.

    `script` is the place and the text of a script, which `policy` "script" follows; `store_gap` the exact gaps or
    nothing.
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
    swap: tuple[str, ...] = ()
    abi: str = "kvm"
    without: tuple[str, ...] = ()
    lax_cpuid: bool = False
    start: str = "all"
    mode: str = "auto"
    ps_per_insn: int = 1000
    tsc_khz: int = 1_000_000
    interleave_ps: int = clock.UNITS["us"]
    time_limit_ps: int = clock.UNITS["s"]
    insn_limit: int = 200_000_000
    exit_limit: int = 500_000
    output_limit: int = 256 << 10

    def traceable(self) -> dict[str, Any]:
        """The configuration as it stands at the head of a trace: no paths, nothing of the host."""
        return {**self._asdict(), "script": None if self.script is None else self.script[1]}


class Kind(NamedTuple):
    """What values an option has: `read` turns text into one, or raises ValueError with the reason; `allows` judges one
    that Python code has given."""

    read: Callable[[str], Any]
    allows: Callable[[Any], bool]


class Option(NamedTuple):
    """One row of the table: flag and scenario key `name`, Config's `field`; one that `repeats` holds a tuple."""

    name: str
    field: str
    kind: Kind
    help: str
    repeats: bool = False
    metavar: str = ""

    @property
    def read(self) -> Callable[[str], Any]:
        """Text to one value; raises ValueError with the reason."""
        return self.kind.read


def whole(low: int, high: int) -> Kind:
    """Whole numbers from `low` to `high`; `1e9` and `1_000` are understood."""

    def read(text: str) -> int:
        mantissa, e, exponent = text.lower().replace("_", "").partition("e")
        if not e:
            exponent = "0"
        # Lengths are bounded before anything is computed: 1e999999999 is a number too.
        if is_digits(mantissa, 20) and is_digits(exponent, 2):
            value: int = int(mantissa) * 10 ** int(exponent)
            if low <= value <= high:
                return value
        raise ValueError(f"must be a whole number from {low} to {high}")

    return Kind(read, lambda value: type(value) is int and low <= value <= high)


def is_digits(text: str, most: int) -> bool:
    """Whether `text` is 1 to `most` digits 0 to 9; str.isdecimal alone takes the digits of every script."""
    return text.isascii() and text.isdecimal() and len(text) <= most


def one_of(*names: str) -> Kind:
    """One of some names."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError(
                f"must be {', '.join(names[:-1])} or {names[-1]}" if names[1:] else f"can be {names[0]} only"
            )
        return text

    return Kind(read, lambda value: value in names)


def _yes(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


# True or false; on the command line the flag alone, which means true.
FLAG = Kind(_yes, lambda value: type(value) is bool)


def _duration(text: str) -> int:
    try:
        ps = clock.parse_duration(text)
    except ValueError:
        ps = 0
    if not 0 < ps <= MAX_DURATION_PS:
        raise ValueError("must be a whole number with ns, us, ms or s, such as 10ms, from 1ns to 1000000s")
    return ps


# A positive duration, in picoseconds; MAX_DURATION_PS at most.
DURATION = Kind(_duration, lambda value: type(value) is int and 0 < value <= MAX_DURATION_PS)


def size(low: int, high: int, step: int = 1) -> Kind:
    """Bytes, a whole number with K, M or G; from `low` to `high`, in multiples of `step`."""

    def read(text: str) -> int:
        number, unit = text[:-1], text[-1:].upper()
        if unit in _SIZES and is_digits(number, 12):
            value = int(number) * _SIZES[unit]
            if low <= value <= high and value % step == 0:
                return value
        bounds = f"from {low >> 10}K to {high >> 20}M" + (f", in steps of {step >> 10}K" if step > 1 << 10 else "")
        raise ValueError(f"must be a whole number with K, M or G, such as 16M, {bounds}")

    return Kind(read, lambda value: type(value) is int and low <= value <= high and value % step == 0)


_GAP = whole(0, 1 << 32)
# One gap, or several with commas between.
GAPS = Kind(
    lambda text: tuple(_GAP.read(part) for part in text.split(",")),
    lambda value: type(value) is tuple and all(map(_GAP.allows, value)),
)


def read_text(path: str) -> str:
    """The text of a UTF-8 file of at most MAX_TEXT bytes. Raises ValueError with what is wrong with it."""
    try:
        # A pipe or a device could keep the reader waiting for ever.
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError("it is a folder" if os.path.isdir(path) else "it is not a file")
        with open(path, "rb") as file:
            raw = file.read(MAX_TEXT + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8 (byte {error.start})") from None
    if len(raw) > MAX_TEXT:
        raise ValueError(f"it is longer than {MAX_TEXT >> 20} MiB")
    return text


def _is_script(value: Any) -> bool:
    return value is None or (type(value) is tuple and len(value) == 2 and all(isinstance(one, str) for one in value))


def _place(text: str) -> str:
    vcpu, equals, value = text.partition("=")
    if not (equals and is_digits(vcpu, 3) and is_digits(value, 9)):
        raise ValueError("must be VCPU=NUMBER, such as 0=1")
    return f"{int(vcpu)}={int(value)}"


def _is_place(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(_place(value))
    except ValueError:
        return False


SCRIPT = Kind(lambda path: (path, read_text(path)), _is_script)
TASK = Kind(lambda text: text, lambda value: isinstance(value, str))  # its grammar is emu.host.task's
PLACE = Kind(_place, _is_place)


ABI_HELP = "kvm: the interface of today; kvm-bugs: with the defects of real KVM; kvm-2011: that of the 2011 document"

OPTIONS = (
    Option("vcpus", "vcpus", whole(1, abi.MAX_VCPUS), "how many virtual CPUs the guest has", metavar="N"),
    Option("pcpus", "pcpus", whole(1, abi.MAX_VCPUS), "how many physical CPUs the host has for them", metavar="N"),
    Option(
        "task",
        "tasks",
        TASK,
        "a host task that competes for the pCPUs: busy:weight=2, periodic:period=10ms,run=3ms,phase=0,"
        " bursty:on=2ms,off=5ms; each may have weight= and pcpu=; may be given several times",
        repeats=True,
        metavar="KIND",
    ),
    Option("policy", "policy", one_of(*POLICIES), f"how the host schedules: {', '.join(POLICIES)}", metavar="NAME"),
    Option("quantum", "quantum_ps", DURATION, "how long one runs before the next is considered", metavar="TIME"),
    Option(
        "script",
        "script",
        SCRIPT,
        "a file of lines `pcpu who duration|insns` that the host follows; alone it implies --policy script",
        metavar="FILE",
    ),
    Option("seed", "seed", whole(0, (1 << 64) - 1), "for everything random", metavar="N"),
    Option("pin", "pin", PLACE, "bind a vCPU to a pCPU, as VCPU=PCPU", repeats=True, metavar="V=P"),
    Option("weight", "weight", PLACE, "a vCPU's weight under fair, as VCPU=WEIGHT", repeats=True, metavar="V=W"),
    Option("ram", "ram", size(abi.MIN_RAM, abi.MAX_RAM, abi.PAGE_SIZE), "guest memory, such as 16M", metavar="SIZE"),
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
        GAPS,
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
    Option(
        "swap",
        "swap",
        TASK,
        "a page that the host takes away, as PAGE:at=TIME,in=TIME,every=TIME: it is back `in` after the guest has"
        " touched it; PAGE is a symbol or an address; may be given several times",
        repeats=True,
        metavar="PAGE:..",
    ),
    Option("abi", "abi", one_of(*PROFILES), ABI_HELP, metavar="NAME"),
    Option(
        "without",
        "without",
        one_of(*FEATURES),
        f"withhold a feature: {', '.join(FEATURES)}",
        repeats=True,
        metavar="NAME",
    ),
    Option("lax-cpuid", "lax_cpuid", FLAG, "what is withheld is missing in CPUID alone: MSRs and hypercalls work"),
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
        DURATION,
        "with several pCPUs: how far one may run ahead of another",
        metavar="TIME",
    ),
    Option("time-limit", "time_limit_ps", DURATION, "end the run at this virtual time", metavar="TIME"),
    Option("insn-limit", "insn_limit", whole(1, 10**15), "end the run after this many instructions", metavar="N"),
    Option("exit-limit", "exit_limit", whole(1, 10**12), "end the run after this many exits", metavar="N"),
    Option(
        "output-limit",
        "output_limit",
        size(1 << 10, MAX_OUTPUT),
        "end the run after this much console output",
        metavar="SIZE",
    ),
)
BY_FIELD = {option.field: option for option in OPTIONS}
BY_NAME = {option.name: option for option in OPTIONS}
_EXAMPLES = {"tasks": "busy", "pin": "0=1", "weight": "0=2", "without": "steal-time", "swap": "buffer:at=1ms,in=200us"}
_FORMS = {"script": "give a pair of texts: a name for messages, and the script itself"}
_KINDS: dict[type, str] = {
    bool: "true or false",
    float: "a number with a fraction",
    int: "so large a number",
    dict: "a table",
    list: "a list",
}


def from_text(values: Mapping[str, list[str]], base: Config = Config(), where: str = "") -> Config:
    """`base` with options given as text, by option name. Raises HostError naming the option and the remedy.

    `where` is the file they come from; without it they are flags. A script without a policy is followed.
    """
    changes: dict[str, Any] = {}
    for name, texts in values.items():
        option = BY_NAME[name]
        place = f"{where}: {name}" if where else f"--{name}"
        if len(texts) > 1 and not option.repeats:
            raise HostError(f"given {len(texts)} times: {', '.join(map(repr, texts))}", place, "give it once")
        read: list[Any] = []
        for text in texts:
            try:
                value = option.read(text)
            except ValueError as reason:
                raise HostError(f"{text!r} cannot be used: {reason}", place) from None
            if option.kind is PLACE and any(value.partition("=")[0] == one.partition("=")[0] for one in read):
                raise HostError(f"vCPU {value.partition('=')[0]} is named twice", place, "name it once")
            read.append(value)
        changes[option.field] = tuple(read) if option.repeats else read[-1]
    if "script" in values and "policy" not in values:
        changes["policy"] = "script"
    return base._replace(**changes)


def check(config: Config) -> None:
    """Raises HostError, naming the field, where a Config that Python code made has a value that no flag could give."""
    if not isinstance(config, Config):
        raise HostError(f"{config!r} is no configuration", remedy="give it as emu.Config(vcpus=2)")
    for option in OPTIONS:
        value = getattr(config, option.field)
        if option.repeats and type(value) is not tuple:
            remedy = f"give a tuple of texts, such as {option.field}=({_EXAMPLES[option.field]!r},)"
            raise HostError(f"{value!r} cannot be used", f"Config.{option.field}", remedy)
        for one in value if option.repeats else (value,):
            if not option.kind.allows(one):
                remedy = _FORMS.get(option.field, f"it is {option.help}")
                raise HostError(f"{one!r} cannot be used", f"Config.{option.field}", remedy)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for a word that is not known: the one it resembles, else all of them."""
    from difflib import get_close_matches

    names = list(known)
    close = get_close_matches(word.lower().replace("_", "-"), names, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"


class Scenario(NamedTuple):
    """A scenario file: its guest, if it names one, and its configuration."""

    guest: str | None
    config: Config


def load_scenario(path: str | os.PathLike[str]) -> Scenario:
    """Read a TOML file whose keys are the option names, with `guest` beside them. Raises HostError with the place.

    Numbers may be written as numbers; `task`, `pin`, `weight`, `without` and `store-gap` take a list as well. A `guest`
    or `script` with a relative path is looked for beside the file; a bare name that is not there is a shipped guest.
    """
    import tomllib

    path = os.fspath(path)
    try:
        table = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise HostError(f"this is not TOML: {error}", path) from None
    except ValueError as error:
        raise HostError(f"the scenario cannot be used: {error}", path) from None
    except RecursionError:
        raise HostError("this is nested too deeply for a scenario", path) from None
    guest = table.pop("guest", None)
    if guest is not None and not (isinstance(guest, str) and guest):
        raise HostError("the guest must be a path or a name, in quotes", f"{path}: guest")
    values = _table_texts(table, path, ("guest",))
    if "script" in values:
        values["script"] = [os.path.join(os.path.dirname(path), one) for one in values["script"]]
    return Scenario(guest and _beside(path, guest), from_text(values, where=path))


def from_table(table: Mapping[str, Any], where: str, base: Config = Config()) -> Config:
    """`base` with the options of a TOML table. Raises HostError, naming the option below `where`."""
    return from_text(_table_texts(table, where), base, where)


def _table_texts(table: Mapping[str, Any], where: str, others: tuple[str, ...] = ()) -> dict[str, list[str]]:
    values = {}
    for key, value in table.items():
        if key not in BY_NAME:
            raise HostError(f"there is no option {key!r}", where, did_you_mean(key, (*others, *BY_NAME)))
        values[key] = _texts(BY_NAME[key], value, f"{where}: {key}")
    return values


def _texts(option: Option, value: object, where: str) -> list[str]:
    """A TOML value as the texts that flags would have given."""
    several = value if isinstance(value, list) else [value]
    for one in several:
        if isinstance(one, bool) and option.kind is FLAG:
            continue
        if isinstance(one, bool) or not isinstance(one, (str, int)) or (type(one) is int and one.bit_length() > 64):
            kind = _KINDS.get(type(one), "a date or time")
            raise HostError(f"{kind} cannot be used here", where, "write text in quotes, or a whole number")
    texts = [str(one).lower() if isinstance(one, bool) else str(one) for one in several]
    if isinstance(value, list) and not option.repeats:
        if option.kind is not GAPS:
            raise HostError("a list cannot be used here", where, "give one value")
        return [",".join(texts)]
    return texts


def _beside(path: str, guest: str) -> str:
    beside = os.path.join(os.path.dirname(path), guest)
    bare = os.path.basename(guest) == guest and not os.path.splitext(guest)[1]
    return guest if bare and not os.path.isfile(beside) else beside
