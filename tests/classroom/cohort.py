"""A class of students: right submissions, wrong ones, and hostile ones, each with the points that it must get.

Each is a little different, so that none is known already when its turn comes.
"""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from emu import data
from emu.classroom import assignment
from emu.classroom.assignment import Assignment

CLOCK, DEVICE = "steal-clock", "steal-device"


class Student(NamedTuple):
    """A submission: what is put into the folder `key`, or as a file of that name; the points that it must get, and
    words that its feedback must have."""

    key: str
    place: Callable[[Path], None]
    points: int
    told: str = ""


def read(name: str) -> Assignment:
    return assignment.read(data.assignment_dirs()[name])


def folder(key: str, files: dict[str, bytes], points: int, told: str = "") -> Student:
    def place(where: Path) -> None:
        (where / key).mkdir()
        for name, content in files.items():
            (where / key / name).write_bytes(content)

    return Student(key, place, points, told)


def archive(key: str, suffix: str, content: bytes, told: str) -> Student:
    return Student(key, lambda where: (where / f"{key}{suffix}").write_bytes(content) and None, 0, told)


def right(name: str, count: int) -> Iterator[Student]:
    one = read(name)
    files = one.handed_in(one.folder / "solution")
    for number in range(count):
        yield folder(
            f"right-{number:03}", {file: signed(file, text, number) for file, text in files.items()}, one.points
        )


def wrong(name: str, count: int, kinds: int = 10) -> Iterator[Student]:
    one = read(name)
    lost = {criterion.name: criterion.points for criterion in one.criteria}
    for number in range(count):
        variant = one.wrong[number % min(kinds, len(one.wrong))]
        files = one.handed_in(one.folder / "wrong" / variant.name)
        points = one.points - sum(lost[name] for name in variant.loses)
        signed_files = {file: signed(file, text, number) for file, text in files.items()}
        yield folder(f"wrong-{number:03}-{variant.name}", signed_files, points, variant.cause)


def signed(file: str, text: bytes, number: int) -> bytes:
    mark = "#" if file.endswith(".py") else "//"
    return text + f"{mark} {number}\n".encode()


_INCLUDES_ITSELF = b'#if __INCLUDE_LEVEL__ < 150\n#include "clock.c"\n#include "clock.c"\n#endif\n'


def hostile_clocks() -> list[Student]:
    """What students send a grader of C programs."""
    one = read(CLOCK)
    good = one.handed_in(one.folder / "solution")["clock.c"]
    start, reading = good.index(b"steal_area *clock_start"), good.index(b"uint64_t clock_read")
    stop = good.index(b"void clock_stop")

    def c(key: str, text: bytes, points: int, told: str = "") -> Student:
        return folder(f"hostile-{key}", {"clock.c": text}, points, told)

    def reads(body: bytes) -> bytes:
        return good[:reading] + b"uint64_t clock_read(steal_area *area)\n{\n" + body + b"\n}\n\n" + good[stop:]

    solution = str(one.folder / "solution" / "clock.c").encode()
    return [
        c("include-passwd", b'#include "/etc/passwd"\n' + good, 0, "/etc/passwd"),
        c("incbin-passwd", good + b'__asm__(".incbin \\"/etc/passwd\\"");\n', 0, "/etc/passwd"),
        c("include-solution", b'#include "' + solution + b'"\n', 0, "No such file"),
        c("include-hidden", b'#include "../../hidden.toml"\n' + good, 0, "No such file"),
        c("include-endless", _INCLUDES_ITSELF, 0, "CPU time or 400 MiB"),
        c("include-zero", b'#include "/dev/zero"\n', 0, "CPU time or 400 MiB"),
        c("rept-bomb", good + b'__asm__(".rept 100000000\\n nop\\n .endr");\n', 0, "CPU time or 400 MiB"),
        c("macro-bomb", _bomb(), 0, "CPU time or 400 MiB"),
        c("huge-array", good + b"int huge[1 << 28] = {1};\n", 0, "more space for files"),
        c("endless", reads(b"    for (volatile uint64_t n = 0;; n = n + 1)\n        ;"), 5),
        c("exit-early", good[:start] + b"steal_area *clock_start(uint32_t cpu)\n{\n"
          b"    outb(PORT_EXIT, 0);\n    return &steal_areas[cpu];\n}\n\n" + good[reading:], 5),
        c("own-marks", reads(b"    STEAL_MARK_END(area, 0);\n    STEAL_MARK_BEGIN(area);\n    return 0;"), 55),
        c("fakes-steal", reads(b"    volatile struct kvm_steal_time *mine = &steal_areas[0];\n    (void)area;\n"
          b"    mine->version = 0;\n    mine->steal = 1000000;\n    return 1000000;"), 40, "the guest stores"),
        c("triple-fault", reads(b"    (void)area;\n    *(volatile int *)0 = 1;\n    return 0;"), 5, "#PF"),
        c("prints-endless", reads(b'    (void)area;\n    for (;;)\n        put_text("passed passed passed\\n");'), 5),
        c("binary", b"\x7fELF\0\0\0", 0, "is binary"),
        c("huge-file", b"/" * (300 << 10), 0, "is larger than"),
        c("latin-1", good + b"// caf\xe9\n", 100),
        archive("hostile-zip-bomb", ".zip", _zip({"clock.c": b"0" * (80 << 20)}), "a bomb"),
        archive("hostile-traversal", ".zip", _zip({"../../clock.c": good}), "leads out of it"),
        archive("hostile-tar-link", ".tar.gz", _tar_link(), "is not followed"),
        Student("hostile-symlink", _linked, 0, "is not followed"),
        Student("hostile-nothing", lambda where: (where / "hostile-nothing").mkdir(), 0, "nothing was handed in"),
    ]  # fmt: skip


def _bomb() -> bytes:
    """Ten macros, each of which is ten of the next."""
    lines = [b'#include "clock.h"', b"#define M0 x,"]
    lines += [b"#define M%d " % n + b" ".join([b"M%d" % (n - 1)] * 10) for n in range(1, 11)]
    return b"\n".join([*lines, b"int many[] = { M10 };", b""])


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _tar_link() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        one = tarfile.TarInfo("clock.c")
        one.type, one.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(one)
    return buffer.getvalue()


def _linked(where: Path) -> None:
    (where / "hostile-symlink").mkdir()
    (where / "hostile-symlink" / "clock.c").symlink_to("/etc/passwd")


_IDLE = b"class StealTime:\n    def __init__(self, ram_holds):\n        pass\n"


def hostile_devices() -> list[Student]:
    """What students send a grader of Python programs."""
    one = read(DEVICE)
    good = one.handed_in(one.folder / "solution")["steal_time.py"]

    def py(key: str, text: str | bytes, points: int, told: str = "") -> Student:
        content = text.encode() if isinstance(text, str) else text
        return folder(f"hostile-{key}", {"steal_time.py": content}, points, told)

    return [
        py("fork-bomb", "import os\nwhile True:\n    os.fork()\n", 0, "Operation not permitted"),
        py("subprocess", "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'id'])\n", 0, "PermissionError"),
        py("exit-0", "import os\nos._exit(0)\n", 0, "the device has ended"),
        py("endless", "while True:\n    pass\n", 0, "the device has ended"),
        py("memory", "x = []\nwhile True:\n    x.append(bytearray(1 << 20))\n", 0, "MemoryError"),
        py("disk", "while True:\n    open('/tmp/x', 'ab').write(bytes(1 << 20))\n", 0, "not permitted"),
        py("network", "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)\n", 0, "not permitted"),
        py("prints-result", _FORGED + _IDLE.decode(), 0),
        py("patches-host", _PATCHED + _IDLE.decode(), 0),
        py("reads-passwd", "print(open('/etc/passwd').read())\n", 0, "Error"),
        py("looks-for-solution", _SEARCHES, 0, "found nothing"),
        py("kills", "import os\nos.kill(os.getppid(), 9)\nos.kill(-1, 9)\n", 0, "PermissionError"),
        py("recursion", "def f():\n    f()\nf()\n" + _IDLE.decode(), 0, "RecursionError"),
        py("stores-endless", good.replace(b"        area = self.served", b"        while True:\n"
           b"            yield 0x1000, 8, 1\n        area = self.served"), 20, "more than 64 stores"),
        py("no-class", "print('hello')\n", 0, "AttributeError"),
        py("syntax", "class StealTime(:\n", 0, "SyntaxError"),
        py("huge-number", good.replace(b"return self.value\n", b"return 10 ** 4000\n"), 65),
    ]  # fmt: skip


_FORGED = """import os
for number in range(3, 32):
    try:
        os.write(number, b'{"verdicts": [], "evidence": {}}\\n{"end": null}\\n')
    except OSError:
        pass
"""
_PATCHED = """import sys
for module in list(sys.modules.values()):
    for name in ("_Host", "Judge", "Verdict"):
        if hasattr(module, name):
            setattr(getattr(module, name), "_do", lambda *words: {"end": 0})
            setattr(getattr(module, name), "points", 100)
"""
_SEARCHES = """import os
found = []
for root, folders, names in os.walk("/"):
    if root.startswith(("/proc", "/sys", "/usr/share", "/usr/include")):
        folders.clear()
    found += [f"{root}/{name}" for name in names if name in ("hidden.toml", "grades.csv", "roster.csv", "marks.csv")]
    found += [root] if root.endswith(("/solution", "/wrong")) else []
raise ValueError(f"found {found or 'nothing'}")
"""


def place(where: Path, students: list[Student]) -> Path:
    """The folder of what they hand in."""
    where.mkdir()
    for one in students:
        one.place(where)
    return where
