"""What runs inside the first sandbox: files come in, and what commands make of them goes out.

It begins anew for each submission. So it loads what it needs and no more: what explains a refusal, when there is one.

In Linux: usermodehelpers are as short of rights, and as short.
"""

import marshal
import os
import sys

TYPE_CHECKING = False  # typing takes as long to load as all the rest
if TYPE_CHECKING:
    from typing import Any

FOLDER = "\0"  # stands for the folder in which it all happens; no path has it
OBJECTS = "objects"  # a folder in it: here the commands run
_MOST_SAID = 1 << 20
_IGNORED_BY_PYTHON = 13, 25  # SIGPIPE and SIGXFSZ


def build() -> None:
    """Read a request, and write `+` and each file that was to be made, behind its length; or `-` and a JSON object that
    says why there is none."""
    asked = marshal.loads(sys.stdin.buffer.read())
    folder = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"emu-{os.urandom(8).hex()}")
    os.mkdir(folder, 0o700)
    try:
        answer = _built(asked, folder)
    finally:
        _remove(folder)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


def _built(asked: "dict[str, Any]", folder: str) -> bytes:
    os.mkdir(os.path.join(folder, OBJECTS))
    os.chdir(os.path.join(folder, OBJECTS))
    for name, content in asked["files"]:
        place = os.path.join(folder, name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(content)
    for words in asked["commands"]:
        status = _run([word.replace(FOLDER, folder) for word in words], folder)
        if status:
            return _refusal(asked, folder, status)
    answer = b"+"
    for name in asked["outputs"]:
        try:
            with open(name, "rb") as file:
                content = file.read()
        except OSError:
            return _refusal(asked, folder, 0)
        answer += len(content).to_bytes(8, "little") + content
    return answer


def _run(words: list[str], folder: str) -> int | str:
    """The status of a command, whose words go to two files; or why it could not be run."""
    anew = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    places = [(number, os.path.join(folder, f"said-{number}")) for number in (1, 2)]
    actions = [(os.POSIX_SPAWN_OPEN, number, place, anew, 0o600) for number, place in places]
    environment = {**os.environ, "LC_ALL": "C"}  # messages that complaint.py can read
    try:
        pid = os.posix_spawnp(words[0], words, environment, file_actions=actions, setsigdef=_IGNORED_BY_PYTHON)
    except OSError as error:
        return str(error)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _refusal(asked: "dict[str, Any]", folder: str, status: int | str) -> bytes:
    from emu.classroom import recipe

    said = []
    for number in (2, 1):
        try:
            with open(os.path.join(folder, f"said-{number}"), "rb") as file:
                said.append(file.read(_MOST_SAID).decode("utf-8", "replace"))
        except OSError:
            said.append("")
    return recipe.refusal(asked["compiler"], asked["source"], folder, status, *said)


def _remove(folder: str) -> None:
    for place, folders, names in os.walk(folder, topdown=False):
        for name in names:
            os.unlink(os.path.join(place, name))
        for name in folders:
            path = os.path.join(place, name)
            (os.unlink if os.path.islink(path) else os.rmdir)(path)
    os.rmdir(folder)
