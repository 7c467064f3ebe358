"""What a compiler or linker says, put into one sentence: the first error, where it is, and what to do about it.

The whole text stays with the sentence, as its detail, because a student learns from it. It is the compiler's own but
for paths: a file is called what the user called it.

In Linux: tools/testing/kunit/kunit_kernel.py sorts a build's messages in the same way.
"""

import os
import re
from pathlib import Path

from emu.faults import HostError, escaped

MAX_LINES = 60
MEMORY, CPU_TIME = "memory", "CPU time"  # what a build may need too much of
_MAX_NAMES = 5
_NO_LIBRARY = "there is no C library below a guest: "
_USE_CONSOLE = f"{_NO_LIBRARY}use put_text() of guest.h"
_USE_RUNTIME = f"{_NO_LIBRARY}guest.h declares memset, memcpy, memmove, memcmp and strlen"
_NEED_MAIN = "the start code calls `int main(uint32_t cpu, uint32_t ncpus)`"

_OF_STRING = {"memset", "memcpy", "memmove", "memcmp", "strlen", "string.h", "strings.h", "memory.h"}
_OF_LIBRARY = {
    "abort", "abs", "assert", "atexit", "atoi", "atol", "bsearch", "calloc", "exit", "fclose", "fflush", "fgets",
    "fopen", "fprintf", "fputc", "fputs", "fread", "free", "fwrite", "getc", "getchar", "getenv", "gets", "isalpha",
    "isdigit", "isspace", "malloc", "memchr", "nanosleep", "perror", "printf", "putc", "putchar", "puts", "qsort",
    "rand", "read", "realloc", "scanf", "sleep", "snprintf", "sprintf", "srand", "sscanf", "strcat", "strchr",
    "strcmp", "strcpy", "strdup", "strerror", "strncmp", "strncpy", "strstr", "strtol", "strtoul", "time",
    "tolower", "toupper", "usleep", "vprintf", "vsnprintf", "write", "__errno_location", "__stack_chk_fail",
    "assert.h", "ctype.h", "errno.h", "gnu/stubs-32.h", "inttypes.h", "math.h", "pthread.h", "signal.h", "stdio.h",
    "stdlib.h", "time.h", "unistd.h", "bits/libc-header-start.h", "sys/types.h", "sys/cdefs.h",
}  # fmt: skip

_ERROR = re.compile(r"^(?P<place>.+?:\d+)(?::\d+)?: (?:fatal )?error: (?P<what>.+)$", re.MULTILINE | re.IGNORECASE)
_FLAG = re.compile(r" \[-[\w=-]+\]$")
_GNU_UNDEFINED = re.compile(
    r"^(?:\S*ld\S*: )?(?:(?P<place>.+?:\d+)|.*): undefined reference to [`'](?P<name>[^'\n]+)'", re.MULTILINE
)
_LLD_UNDEFINED = re.compile(
    r"undefined symbol: (?P<name>\S+)(?:\n>>> referenced by (?P<short>[^\n(]+:\d+)(?: \((?P<place>[^\n)]+)\))?)?"
)
# The assembler's input has a random name, which says nothing.
_TEMPORARY = re.compile(r"\S*/cc\w{6}\.[so]\b")
NEEDS_MORE = "the compiler needs more {} than it may have"
# What a compiler says when it may not go on depends on how far it had come.
_LIMITS = (
    (re.compile("out of memory|memory exhausted|std::bad_alloc|cannot allocate memory", re.IGNORECASE), MEMORY),
    (re.compile("CPU time limit exceeded"), CPU_TIME),
    (re.compile("File size limit exceeded|file too large", re.IGNORECASE), "space for files"),
)
_WORD = re.compile(r"[\w./-]+")


def printable(text: str) -> str:
    """`text` with every character that could give orders to a terminal escaped; line feeds and tabs stay."""
    return escaped(text, keep="\n\t")


def bounded(output: str) -> str:
    """At most MAX_LINES lines of a compiler's output, and how many more there are; safe to be shown."""
    lines = printable(output).rstrip().split("\n")
    rest = len(lines) - MAX_LINES
    return "\n".join([*lines[:MAX_LINES], f"... and {rest} more lines"] if rest > 0 else lines)


def named_as_typed(output: str, source: Path, typed: str, names: dict[str, str]) -> str:
    """A compiler's output with `source` called as it was `typed`, and folders called by these `names`."""
    output = output.replace(str(source), typed)
    for folder, name in {**names, str(source.parent): typed.removesuffix(source.name)}.items():
        output = output.replace(f"{folder}{os.sep}", name)
    return _TEMPORARY.sub("the assembler's input", output)


def refusal(output: str, source: str, compiler: str) -> HostError:
    """The error to raise for what `compiler` said about `source`, both as the user knows them; `detail` has it all."""
    for limit, what in _LIMITS:
        if limit.search(output):
            return HostError(NEEDS_MORE.format(what), source)
    detail = bounded(output)
    if error := _ERROR.search(output):
        what = _FLAG.sub("", error["what"])
        return HostError(printable(what), printable(error["place"]), _remedy(set(_WORD.findall(what))), detail)
    if undefined := _undefined(output, source):
        return _not_defined(undefined, source, detail)
    return HostError(printable(_first_complaint(output)) or f"{compiler} failed", source, detail=detail)


def _remedy(words: set[str]) -> str:
    if words & _OF_STRING:
        return _USE_RUNTIME
    return _USE_CONSOLE if words & _OF_LIBRARY else ""


def _undefined(output: str, source: str) -> dict[str, str]:
    """Name -> the first place in the user's source that uses it, or the source's name; in the linker's order."""
    found: dict[str, str] = {}
    for match in (*_GNU_UNDEFINED.finditer(output), *_LLD_UNDEFINED.finditer(output)):
        parts = match.groupdict()
        place = parts["place"] or parts.get("short") or ""
        file, _, line = place.rpartition(":")
        own = file and Path(file).name == Path(source).name
        found.setdefault(match["name"], f"{source}:{line}" if own else source)
    return found


def _not_defined(undefined: dict[str, str], source: str, detail: str) -> HostError:
    if list(undefined) == ["main"]:
        return HostError("there is no main()", source, _NEED_MAIN, detail)
    names = [printable(name) for name in undefined if name != "main"]
    told = ", ".join(f"`{name}`" for name in names[:_MAX_NAMES])
    if len(names) > _MAX_NAMES:
        told += f" and {len(names) - _MAX_NAMES} more"
    verb = "is" if len(names) == 1 else "are"
    return HostError(f"{told} {verb} not defined anywhere", undefined[names[0]], _remedy(set(names)), detail)


def _first_complaint(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = ("error", "multiple definition", "duplicate symbol", "will not fit", "overflowed")
    return next((line for line in lines if any(word in line.lower() for word in telling)), lines[0] if lines else "")
