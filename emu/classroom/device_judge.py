"""A device under all criteria of its assignment, in the one process in which it lives.

In Linux: nothing like it.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

from emu.classroom import device, device_host, device_pipe, verdict
from emu.classroom.asks import Criterion, Device
from emu.classroom.device_pipe import Host
from emu.classroom.foreseen import foresee
from emu.classroom.verdict import Judgement, Verdict
from emu.classroom.wire import packed, unpacked
from emu.sandbox.process import Before

Tell = Callable[[str], None]


def judge(
    asked: tuple[Criterion, ...],
    files: Mapping[str, bytes],
    given: Mapping[str, bytes],
    host: Host,
    tell: Tell = lambda _: None,
) -> Judgement:
    """Judge a device in the process `host`, into which it has still to be loaded."""
    name = next(iter(files))
    modules = {one.removesuffix(".py"): text.decode("utf-8", "replace") for one, text in {**given, **files}.items()}
    source = modules[name.removesuffix(".py")]
    opened: list[Host | Exception] = []

    def open_host() -> Host:
        if not opened:
            try:
                opened.append(device_pipe.loaded(host, modules))
            except (device_pipe.Silent, device_pipe.Failed) as error:
                opened.append(error)
        if isinstance(opened[0], Exception):
            raise opened[0]
        return opened[0]

    found: list[Verdict] = []
    evidence: dict[str, bytes] = {}
    for one in asked:
        told, kept = device.judge(one, source, name, open_host, lambda title=one.title: tell(title))  # type: ignore[misc]
        if told.outcome == verdict.LIMIT and not isinstance(opened[0], Exception):
            opened[0] = device_pipe.Silent(told.why)  # it is gone, or busy with the last question
        found.append(told)
        if kept:
            evidence[told.evidence] = kept
    return Judgement(tuple(found), evidence)


@contextlib.contextmanager
def local_host() -> Iterator[Host]:
    """A process of one's own device, with no sandbox around it."""
    command = [sys.executable, "-I", "-B", device_host.__file__]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Host(process.stdout, process.stdin)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()


def request(
    asked: tuple[Criterion, ...], files: Mapping[str, bytes], given: Mapping[str, bytes], source: int, sink: int
) -> bytes:
    """What `judge_device` reads; the device is at the other ends of the descriptors `source` and `sink`."""
    table = {
        "criteria": [[one.name, one.kind, one.title, one.points, one.hidden, list(_device(one))] for one in asked],
        "files": packed(files),
        "given": packed(given),
        "pipes": [source, sink],
    }
    return json.dumps(table).encode("ascii")


def before(asked: tuple[Criterion, ...]) -> Before:
    """What the mother of judges does for these criteria."""
    return Before(foresee.__name__, [list(_device(one)) for one in asked])


def judge_device() -> None:
    """In a sandbox: read a request, talk with the device, and write a judgement."""
    asked = json.loads(sys.stdin.buffer.read())
    found = []
    for name, kind, title, points, hidden, ask in asked["criteria"]:
        found.append(Criterion(name, kind, title, points, hidden, Device.told(ask)))
    source, sink = asked["pipes"]
    with os.fdopen(source, "r", encoding="utf-8") as reader, os.fdopen(sink, "w", encoding="utf-8") as writer:
        judgement = judge(tuple(found), unpacked(asked["files"]), unpacked(asked["given"]), Host(reader, writer))
        sys.stdout.buffer.write(verdict.to_bytes(judgement))
        sys.stdout.buffer.flush()
        os._exit(0)  # a writer that nobody reads could not be closed


def _device(one: Criterion) -> Device:
    assert isinstance(one.ask, Device)
    return one.ask
