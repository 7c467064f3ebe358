"""Recordings: what goes in comes out, and whatever else a file may hold is one sentence."""

import functools
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.faults import HostError
from emu.guest import load_guest
from emu.history.edits import Edit, Preempt, SetMemory, SetMsr, SetRegister, from_json, to_json
from emu.history.history import History
from emu.history.recording import FORMAT, Outcome, Recording, TraceHash, from_bytes, to_bytes
from emu.scenario import Config
from tests.effort import EFFORT

CONFIG = Config(vcpus=2, tasks=("busy",), policy="script", script=("a.txt", "0 vcpu0 10us\nloop\n"), store_gap=(1, 2))
EDITS = (
    Edit(3, SetRegister(0, "rax", 5)),
    Edit(3, SetMemory(0x2000, b"\x00\xff")),
    Edit(9, SetMsr(1, 0x4B564D03, 0x140001)),
    Edit(10, Preempt(0, "task0")),
)


@functools.cache
def recording() -> Recording:
    lines = {"a.c": {3: "int x = 'ä';", 12: ""}}
    outcome = Outcome(77, "exit", 3, "ab" * 32)
    return Recording("clock", load_guest("clock").source, CONFIG, outcome, EDITS, lines, 5, ("one", "two"))


def test_what_goes_in_comes_out() -> None:
    content = to_bytes(recording())
    assert from_bytes(content, "x") == recording()
    assert to_bytes(recording()) == content


def test_it_is_small() -> None:
    assert len(to_bytes(recording())) < len(load_guest("clock").source)


@functools.cache
def _sound() -> bytes:
    return to_bytes(recording())


@settings(max_examples=100 * EFFORT, deadline=None)
@given(st.data())
def test_a_damaged_file_is_one_sentence(data: st.DataObject) -> None:
    content = bytearray(_sound())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(("flip", "cut", "insert")))
        if kind == "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at:]
        else:
            content[at:at] = data.draw(st.binary(max_size=8))
        if not content:
            break
    if bytes(content) == _sound():
        return
    with pytest.raises(HostError) as told:
        from_bytes(bytes(content), "damaged.emurec")
    assert "damaged.emurec" in str(told.value) and "\n" not in str(told.value)


def sealed(body: bytes) -> bytes:
    """A recording whose checksum is right, whatever its content."""
    return b"emurec 2 %08x\n" % zlib.crc32(body) + body


def packed(data: object) -> bytes:
    return sealed(zlib.compress(json.dumps(data).encode()))


def unpacked() -> dict[str, object]:
    return dict(json.loads(zlib.decompress(to_bytes(recording()).partition(b"\n")[2])))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("guest", 5),
        ("image", "?"),
        ("config", {}),
        ("config", {**Config()._asdict(), "vcpus": 10**9}),
        ("config", {**Config()._asdict(), "vcpus": "2"}),
        ("edits", [{"at": 1, "kind": "register", "vcpu": 0, "register": "rax"}]),
        ("edits", [{"at": 1, "kind": "shell", "command": "rm"}]),
        ("edits", [{"at": -1, "kind": "memory", "gpa": 0, "data": "00"}]),
        ("edits", [{"at": 1, "kind": "memory", "gpa": 0, "data": "0"}]),
        ("edits", 7),
        ("lines", {"a.c": {"x": "text"}}),
        ("lines", 3),
        ("outcome", {"position": 1}),
        ("outcome", {"position": "1", "reason": "exit", "exit_code": 0, "trace": ""}),
        ("cursor", -1),
        ("story", "text"),
        ("more", 1),
    ],
)
def test_a_part_that_is_none_is_one_sentence(part: str, value: object) -> None:
    with pytest.raises(HostError, match="damaged"):
        from_bytes(packed({**unpacked(), part: value}), "x")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a recording"),
        (b"\x7fELF", "not a recording"),
        (b"emurec 1\nx", "format 1, and this emu reads 2"),
        (b"emurec 3 00000000\nx", "format 3"),
        (b"emurec 2\n", "checksum"),
        (sealed(b""), "cut off"),
        (sealed(b"not deflated"), "cannot be unpacked"),
        (sealed(zlib.compress(b"[" * 100_000)), "damaged"),
        (packed([]), "damaged"),
        (packed({}) + b"more", "checksum"),
        (sealed(zlib.compress(b"{}") + b"more"), "cut off"),
    ],
)
def test_foreign_files_are_one_sentence(content: bytes, says: str) -> None:
    with pytest.raises(HostError, match=says):
        from_bytes(content, "x")


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.history.recording.FORMAT", FORMAT._replace(most=1 << 20))
    with pytest.raises(HostError, match="too large"):
        from_bytes(sealed(zlib.compress(bytes(1 << 24))), "x")


def test_another_way_to_pack_the_same_content_is_told() -> None:
    _, _, body = to_bytes(recording()).partition(b"\n")
    other = zlib.compress(zlib.decompress(body), 1)
    with pytest.raises(HostError, match="checksum"):
        from_bytes(to_bytes(recording()).replace(body, other), "x")
    assert from_bytes(sealed(other), "x") == recording()


@pytest.mark.parametrize("edit", EDITS)
def test_edits_are_plain_data_and_back(edit: Edit) -> None:
    assert from_json(json.loads(json.dumps(to_json(edit)))) == edit


def test_a_branch_replays_from_its_edits() -> None:
    config = Config(tasks=("busy",))
    image, branch = load_guest("clock"), History(load_guest("clock"), config)
    branch.go(700)
    branch.edit(SetRegister(0, "r14", 7))
    branch.edit(Preempt(0, "task0"))
    branch.end()
    digest = TraceHash()
    kept = Recording("clock", image.source, config, Outcome(branch.position, "exit", 0, ""), branch.edits)
    again = from_bytes(to_bytes(kept), "x")
    replayed = History(again.image(), again.config, edits=again.edits, trace=digest)
    replayed.end()
    assert replayed.state() == branch.state()
