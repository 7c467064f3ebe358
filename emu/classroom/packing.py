"""Archives of an assignment: what a student gets, and an autograder for Gradescope.

The same folder gives the same bytes: no time, owner or order of a file system goes into an archive.

In Linux: scripts/package/mkspec and gen_initramfs, whose archives are as reproducible.
"""

import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from emu.classroom.assignment import FILE, Assignment, content

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip archive can name
_SETUP = """#!/bin/sh
# Gradescope runs this once, as root, when the container is made.
set -e
apt-get update -qq
apt-get install -y -qq python3 python3-venv bubblewrap
python3 -m venv /autograder/emu
/autograder/emu/bin/pip install -q 'kvm-steal-emu[build]=={version}'
"""
_RUN = """#!/bin/sh
# Gradescope runs this for each submission, as root.
chmod 700 /autograder/source
exec /autograder/emu/bin/emu grade --gradescope /autograder
"""


def packed(assignment: Assignment, *, gradescope: bool) -> dict[str, bytes]:
    """The archives by their names. Raises HostError where a file cannot be read."""
    name = assignment.name
    student = dict(_below(assignment.student_folder))
    archives = {
        f"{name}-student.zip": archive(
            {f"{name}/{path}": one for path, one in student.items()} | {f"{name}/{FILE}": assignment.public}
        )
    }
    if gradescope:
        own = {f"assignment/{path}": one for path, one in _below(assignment.folder)}
        setup = _SETUP.replace("{version}", version("kvm-steal-emu")).encode()
        archives[f"{name}-autograder.zip"] = archive({**own, "setup.sh": setup, "run_autograder": _RUN.encode()})
    return archives


def archive(files: dict[str, bytes]) -> bytes:
    """A zip archive of these files by their paths."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, _EPOCH)
            executable = path in ("setup.sh", "run_autograder")
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, files[path])
    return buffer.getvalue()


def _below(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part in ("failures", "__pycache__") for part in parts):
            yield "/".join(parts), content(path)
