"""Executions: alike with callbacks in C and in Python, with the machine and without it, and in whatever order."""

import random

import pytest

from emu.fuzz import corpus, operations
from emu.fuzz.exact import Exact
from emu.fuzz.harness import Harness
from emu.fuzz.outcome import failure
from emu.fuzz.plan import plan
from emu.fuzz.records import HOSTILE, HOSTS, KINDS, MOST_BYTES, ODD_HOST, decode
from emu.fuzz.target import Target
from emu.guest import load_guest
from emu.vcpu import bare, native
from emu.vcpu.native.plain import Plain

NAMES = ("readers/seqlock", "readers/seqlock32", "readers/version_once", "readers/change_only32")
needs_c = pytest.mark.skipif(native.library() is None, reason="the callbacks in C were not built")


def harness(name: str, host: str = ODD_HOST, **rest: object) -> Harness:
    return Harness(Target(load_guest(name), name, host, **rest))  # type: ignore[arg-type]


def some_inputs(count: int, seed: int = 0) -> list[bytes]:
    """Most of them short, with gaps that a short guest comes to."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        steps = [bytes((rng.randrange(256), rng.randrange(10))) + rng.randbytes(4) for _ in range(rng.randrange(9))]
        found.append(rng.randbytes(4) + b"".join(steps))
    return [*found, b"", bytes(MOST_BYTES), b"\xff" * MOST_BYTES]


@needs_c
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", NAMES)
def test_callbacks_in_c_and_in_python_are_the_same(name: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = harness(name, host)
    monkeypatch.setattr(bare.native, "library", lambda: None)
    slow = harness(name, host)
    assert fast.is_native and not slow.is_native
    for data in some_inputs(25):
        assert fast.run(data) == slow.run(data)
        assert fast.fails(data) == slow.fails(data)
        assert bytes(fast.map) == bytes(slow.map)
    assert (fast.edges, fast.blocks()) == (slow.edges, slow.blocks())


@pytest.mark.parametrize("host", [ODD_HOST, HOSTILE])
@pytest.mark.parametrize("name", NAMES)
def test_machine_around_the_guest_changes_nothing(name: str, host: str) -> None:
    one = harness(name, host)
    load = one.exact.ram.load
    for data in some_inputs(25, seed=1):
        _, planned, alone = one.run(data)
        whole = one.exact.run(planned).execution
        assert (alone.ended, alone.exit_code, alone.accesses, alone.wrote) == (
            *(whole.ended, whole.exit_code, whole.accesses, whole.wrote),
        )
        assert [read.value for read in alone.reads] == [read.value for read in whole.reads]
        assert failure(one.target, planned, alone, load) == failure(one.target, planned, whole, load)


def test_stores_at_other_accesses_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above could not fail."""
    monkeypatch.setattr(Exact, "_play", lambda self, position: None)
    with pytest.raises(AssertionError):
        test_machine_around_the_guest_changes_nothing("readers/seqlock", ODD_HOST)


@needs_c
@pytest.mark.parametrize("name", NAMES[:3])
def test_same_input_gives_the_same_in_any_order(name: str) -> None:
    one = harness(name)
    inputs = some_inputs(300, seed=2)

    def all_of(order: list[int]) -> dict[int, object]:
        found: dict[int, object] = {}
        for number in order:
            for place in range(len(one.map)):
                one.map[place] = 0
            found[number] = (one.run(inputs[number]), bytes(one.map))
        return found

    order = list(range(len(inputs)))
    first = all_of(order)
    random.Random(3).shuffle(order)
    assert all_of(order) == first
    assert one._bare is not None
    assert one._bare.whole()


@needs_c
def test_page_that_is_not_taken_back_would_be_seen() -> None:
    one = harness("readers/seqlock")
    assert one._bare is not None
    one.run(b"")
    assert one._bare.whole()
    one._machine.ram.bytes[0x150000] ^= 1
    assert not one._bare.whole()


def test_guest_that_needs_a_device_is_executed_with_the_machine() -> None:
    one = harness("readers/stale_pointer")  # registers another area on the way
    found = one.fails(b"")
    assert one.exactly
    assert found is not None and found.oracle == "own-area"


def test_bound_of_instructions_is_held() -> None:
    one = harness("readers/seqlock", HOSTILE, insns=500)
    stuck = bytes((0, 0, 0, 0)) + bytes((10, 0, 0, 0, 0, 0))
    given, _, done = one.run(stuck)
    assert given.records[0].kind == "stuck"
    assert (done.ended, done.insns) == ("budget", 500)


def test_hang_counts_only_if_the_host_rests() -> None:
    one = harness("readers/seqlock", HOSTILE, insns=500)
    assert one.fails(bytes(4) + bytes((10, 0, 0, 0, 0, 0))) is None
    assert one.fails(bytes(4) + bytes((1, 0, 0, 0, 0, 0)) + bytes((7, 255, 0, 0, 0, 0))) is None  # more is to come


def test_plain_callbacks_have_every_function_of_the_c() -> None:
    source = (native.LIBRARY.parent / "callbacks.c").read_text(encoding="ascii")
    for name in ("block", "access", "store", "out", "in", "execute"):
        assert f"emu_{name}(" in source
        assert hasattr(Plain, "in_" if name == "in" else name)


def test_empty_input_publishes_what_a_host_publishes_first() -> None:
    meant = plan(decode(b"", ODD_HOST))
    assert [(one.at, one.offset, one.value) for one in meant.stores] == [(0, 0, 0), (0, 8, 2)]


@pytest.mark.parametrize(("name", "read"), [("torn", "torn_read"), ("torn32", "torn_read:edx+eax")])
def test_read_that_is_declared_from_outside_is_judged(name: str, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = harness(name, read=read)
    inputs = some_inputs(40, seed=5)
    found = [fast.fails(data) for data in inputs]
    assert any(fast.run(data)[2].reads for data in inputs)
    monkeypatch.setattr(bare.native, "library", lambda: None)
    slow = harness(name, read=read)
    assert [slow.fails(data) for data in inputs] == found
    for data in inputs[:8]:
        _, planned, alone = fast.run(data)
        whole = fast.exact.run(planned).execution
        assert [one.value for one in alone.reads] == [one.value for one in whole.reads]
        assert failure(fast.target, planned, alone, fast.exact.ram.load) == failure(
            fast.target, planned, whole, fast.exact.ram.load
        )


def test_merged_corpus_takes_the_same_edges_as_often_with_fewer_inputs() -> None:
    one = harness("readers/version_once")
    inputs = some_inputs(150, seed=9)
    kept, edges = corpus.minimized(one, inputs)
    again, same = corpus.minimized(harness("readers/version_once"), [*inputs[::-1], *kept])
    assert (again, same) == (kept, edges) and 1 < len(kept) < len(inputs)
    assert corpus.minimized(one, kept) == (kept, edges)
    without, fewer = corpus.minimized(one, kept[:-1])
    assert fewer < edges and without == kept[:-1]


def test_words_of_the_dictionary_are_records() -> None:
    lines = corpus.dictionary(HOSTILE, frozenset(("refuse",))).splitlines()[1:]
    words = [bytes.fromhex(line.strip('"').replace("\\x", "")) for line in lines]
    assert max(map(len, words)) <= 64  # libFuzzer takes no longer ones
    found = {decode(bytes(4) + word, HOSTILE).records[0].kind for word in words}
    assert found == {*KINDS[HOSTILE], "refuse"}
    lines = corpus.dictionary_of_operations().splitlines()[1:]
    words = [bytes.fromhex(line.strip('"').replace("\\x", "")) for line in lines]
    assert [operations.decode(word)[0] for word in words] == operations.alphabet()
