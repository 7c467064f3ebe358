"""Places of a run as words: `main`, `guest.c:12`, `event:wrmsr`, `version:odd`; what `emu replay --to` understands.

In Linux: perf probe takes such words for where to put a probe, tools/perf/Documentation/perf-probe.txt.
"""

import re

from emu import abi, clock
from emu.code.lines import line_addresses
from emu.code.symbols import Symbols
from emu.faults import HostError
from emu.history.conditions import At, Changes, Condition, Instructions, Register, happens, version_parity
from emu.history.history import History
from emu.scenario import did_you_mean
from emu.state import GENERAL

FORMS = """  1234               so many units of guest work (instructions) have been done
  position:1234      so much has happened: those, and each decision and visit of the host
  time:300us         so much virtual time has passed (ns, us, ms, s)
  event:7            the event of this number, counted from 0, as in a trace
  event:wrmsr,vcpu=1 the next event of this kind, with these fields
  0x100010           a vCPU is about to execute the instruction at this address
  main  main+0x10    ... at this symbol
  guest.c:12         ... at the beginning of this line
  rax  rax=5         the register of vCPU 0 changes, and to this; vcpu1.rax for another
  mem:0x140008/4     these bytes change, by whomever; mem:areas/8 by a symbol
  version:odd        the version of vCPU 0's steal-time area becomes odd (or even)
  end                the end of the run"""

_NUMBER = re.compile(r"0x[0-9a-f]{1,16}|[0-9]{1,20}", re.I)


def travel(history: History, text: str, *, last: bool = False) -> bool:
    """Take the cursor to what `text` names, the first time from here on, or the `last` time before here.

    Returns whether it came to pass. Raises HostError for words that name nothing.
    """
    kind, colon, rest = text.partition(":")
    if text == "end":
        history.end()
        return True
    if colon and kind == "position":
        history.go(_number(rest, text))
        return history.position == _number(rest, text)
    if colon and kind == "time":
        return history.to_time(_nanoseconds(rest, text))
    if colon and kind == "event" and _NUMBER.fullmatch(rest):
        return history.to_event(_number(rest, text)) is not None
    found = condition(history, text)
    return history.back_to(found) if last else history.run_to(found)


def condition(history: History, text: str) -> Condition:
    """What `text` names, as a condition. Raises HostError where it names nothing."""
    kind, colon, rest = text.partition(":")
    if text.isdecimal():
        return Instructions(_number(text, text))
    if colon and kind == "event":
        name, *fields = rest.split(",")
        return happens(name, **dict(_field(one, text) for one in fields))
    if colon and kind == "version":
        if rest not in ("odd", "even"):
            raise HostError(f"a version is odd or even, not {rest!r}", text)
        steal = history.machine.packages[0].steal
        if steal is not None and not steal.enabled:
            history.run_to(happens("wrmsr", vcpu=0, msr=abi.MSR_KVM_STEAL_TIME, accepted=True))
        return version_parity(history.machine, rest == "odd")
    if colon and kind == "mem":
        place, _, size = rest.partition("/")
        return Changes(_address(history, place, text), _size(size, text))
    if colon:
        return At(_line(history, text))
    name, equals, value = text.partition("=")
    vcpu, dot, register = name.rpartition(".")
    if register in (*GENERAL, "rip", "rflags") and (not dot or re.fullmatch(r"vcpu[0-9]{1,3}", vcpu)):
        number = int(vcpu[4:]) if dot else 0
        if number >= history.machine.config.vcpus:
            raise HostError(f"there is no {vcpu}", text, f"there are {history.machine.config.vcpus}, from 0")
        return Register(register, number, _number(value, text) if equals else None)
    return At((_address(history, text, text),))


def _address(history: History, text: str, where: str) -> int:
    if _NUMBER.fullmatch(text):
        return int(text, 0) if text.lower().startswith("0x") else int(text)
    name, plus, offset = text.partition("+")
    symbols = Symbols.of(history.machine.image.source)
    found = symbols.address(name)
    if found is None:
        raise HostError(f"there is no symbol {name!r} in the program", where, did_you_mean(name, symbols.names()))
    return found + (_number(offset, where) if plus else 0)


def _line(history: History, text: str) -> tuple[int, ...]:
    file, _, number = text.rpartition(":")
    wanted = _number(number, text)
    lines = line_addresses(history.machine.image.source)
    known = [(name, line) for name, line in lines if name == file or name.endswith(f"/{file}")]
    if not known:
        names = sorted({name.rpartition("/")[2] for name, _ in lines})
        raise HostError(f"no code of this program comes from {file!r}", text, did_you_mean(file, names))
    at = [address for name, line in known if line == wanted for address in lines[name, line]]
    if not at:
        near = min((line for _, line in known), key=lambda line: abs(line - wanted))
        raise HostError(f"line {wanted} has no code of its own", text, f"the nearest that has is {near}")
    return tuple(at)


def _field(text: str, where: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise HostError(f"{text!r} is no field with a value", where, "write it as vcpu=1")
    if value in ("true", "false"):
        return name, value == "true"
    return name, _number(value, where) if _NUMBER.fullmatch(value) else value


def _number(text: str, where: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise HostError(f"{text!r} is no number", where)
    return int(text, 16) if text.lower().startswith("0x") else int(text)


def _nanoseconds(text: str, where: str) -> int:
    try:
        return clock.ns(clock.parse_duration(text))
    except ValueError as error:
        raise HostError(str(error), where) from None


def _size(text: str, where: str) -> int:
    size = _number(text, where) if text else 8
    if not 1 <= size <= abi.PAGE_SIZE:
        raise HostError(f"{size} bytes cannot be watched", where, f"from 1 to {abi.PAGE_SIZE} can")
    return size
