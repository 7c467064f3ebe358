"""The readers as Promela models, for Spin: another tool, another author's search, the same verdicts.

A model has the host's stores and the reader's loads as its steps, and nothing of machine code. What a read returned is
looked for in the set of values that were current meanwhile, as in emu/explore/properties.py.
"""

import subprocess
from pathlib import Path

from emu.explore.properties import CURRENT, ENDS

UPDATES = 2

_MODEL = """
byte version, low, high, seen, result_low, result_high;
bool reading, done, resting;
short current = 0;

proctype host() {{
    byte number = 1;
    do
    :: number <= {updates} ->
{update}
        number++
    :: break
    od;
    resting = true
}}

proctype reader() {{
    byte first, second, l, h;
    byte tries = 2;
    atomic {{ reading = true; seen = (current >= 0 -> 1 << current : 0) }};
{reader}
    atomic {{
        assert(l == h && (seen >> l) & 1);
        reading = false
    }};
    done = true
}}

init {{ atomic {{ run host(); run reader() }} }}

ltl ends {{ <> done }}
"""
_ODD = "        atomic { version++; current = -1 };\n"
_STEAL = {64: "        atomic { low = number; high = number };\n", 32: "        low = number; high = number;\n"}
_EVEN = "        atomic { version++; current = number; if :: reading -> seen = seen | (1 << number) :: else fi };\n"
_LOAD = {64: "atomic { l = low; h = high };", 32: "l = low; h = high;"}

# The readers, with @ for the load of steal.
READERS = {
    "seqlock": (
        "do :: first = version; @ second = version; if :: first % 2 == 0 && first == second -> break :: else fi od;"
    ),
    "no_check": "@",
    "odd_only": "do :: first = version; @ if :: first % 2 == 0 -> break :: else fi od;",
    "change_only": "do :: first = version; @ second = version; if :: first == second -> break :: else fi od;",
    "version_late": (
        "do :: @ first = version; second = version; if :: first % 2 == 0 && first == second -> break :: else fi od;"
    ),
    "gives_up": (
        "do :: first = version; @ second = version; tries--;"
        " if :: (first % 2 == 0 && first == second) || tries == 0 -> break :: else fi od;"
    ),
    "halves": "l = low; h = high;",
    "stale_version": (
        "first = version; first = first - first % 2;"
        " do :: @ second = version; if :: first == second -> break :: else fi od;"
    ),
}


def model(name: str, bits: int, host_model: str) -> str:
    """The Promela text of a reader in code of so many bits, under a host model."""
    # The host stores steal whole; a guest's load is one step or two.
    update = _ODD + _STEAL[64] + _EVEN
    if host_model == "kvm":
        update = "        atomic {\n" + update.rstrip().rstrip(";").replace("atomic ", "") + "\n        };\n"
    return _MODEL.format(updates=UPDATES, update=update, reader="    " + READERS[name].replace("@", _LOAD[bits]))


def verdict(name: str, bits: int, host_model: str, folder: Path) -> str | None:
    """What does not hold in this model: CURRENT, ENDS, or None."""
    (folder / "model.pml").write_text(model(name, bits, host_model))
    _run(folder, "spin", "-a", "model.pml")
    _run(folder, "cc", "-O0", "-w", "-DSAFETY", "-DNOCLAIM", "-o", "safe", "pan.c")
    if "assertion violated" in _run(folder, "./safe", "-E"):
        return CURRENT
    _run(folder, "cc", "-O0", "-w", "-o", "live", "pan.c")
    if "acceptance cycle" in _run(folder, "./live", "-a", "-f"):
        return ENDS
    return None


def _run(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    if words[0] in ("spin", "cc") and done.returncode:
        raise AssertionError(done.stdout + done.stderr)
    return done.stdout
