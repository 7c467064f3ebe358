"""The input of a guest under test: every byte string means something, and lines say it."""

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.faults import HostError
from emu.fuzz import records
from emu.fuzz.harness import Harness
from emu.fuzz.plan import MOST_PLAYS, plan
from emu.fuzz.records import HOSTILE, HOSTS, KINDS, MOST_BYTES, Input, Record, decode, encode, from_text, to_text
from emu.fuzz.target import Target
from emu.guest import load_guest
from emu.vcpu import native
from emu.vcpu.native import EVEN, ODD, Play
from tests.effort import EFFORT

hosts = st.sampled_from(HOSTS)
inputs = st.binary(max_size=MOST_BYTES + 20)


@given(inputs, hosts)
def test_every_byte_string_is_an_input_and_a_short_one_means_the_same(data: bytes, host: str) -> None:
    meant = decode(data, host)
    assert len(meant.records) <= records.MOST_RECORDS
    assert decode(encode(meant), host) == meant
    assert from_text(to_text(meant), "x") == meant


@given(inputs, hosts)
def test_missing_bytes_are_zero(data: bytes, host: str) -> None:
    short = data[:MOST_BYTES].rstrip(b"\0")
    records_of = decode(data[:MOST_BYTES], host).records
    assert decode(short, host).records == records_of[: len(decode(short, host).records)]


@pytest.mark.skipif(native.library() is None, reason="the callbacks in C were not built")
@settings(max_examples=150 * EFFORT)
@given(inputs, hosts)
def test_plan_in_c_is_the_plan_in_python(data: bytes, host: str) -> None:
    library = native.library()
    buffer, told = (Play * (2 * MOST_PLAYS))(), (ctypes.c_uint32 * 2)()
    count = library.emu_plan(data, len(data), len(KINDS[host]), buffer, told)
    meant = plan(decode(data, host))
    assert bytes(buffer)[: count * ctypes.sizeof(Play)] == meant.packed()
    assert (bool(told[0]), bool(told[1])) == (meant.grows, meant.rests)


@given(inputs, st.sampled_from((records.HONEST, records.ODD_HOST)))
def test_host_that_is_not_hostile_keeps_the_protocol(data: bytes, host: str) -> None:
    """Version is odd exactly while an update is under way, goes on by twos, and steal changes only meanwhile."""
    meant = plan(decode(data, host))
    assert meant.grows and meant.rests
    assert [one.at for one in meant.stores] == sorted(one.at for one in meant.stores)
    area = bytearray(64)
    published, open_ = 0, False
    for number, one in enumerate(meant.stores):
        area[one.offset : one.offset + one.size] = one.data
        version = int.from_bytes(area[8:12], "little")
        steal = int.from_bytes(area[:8], "little")
        if one.flags & ODD:
            assert version & 1 and not open_
            open_ = True
        elif one.flags & EVEN:
            assert not version & 1
            assert steal == one.steal >= published
            published, open_ = steal, False
        elif one.offset < 8 and not open_:
            # A whole update at one moment: the guest sees what is published by the next store.
            following = meant.stores[number + 1]
            assert following.at == one.at and following.flags & EVEN
    assert not open_


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("after 1 step 0x0\n", "f", "the class of the host is missing"),
        ("host kind\n", "f:1", "there is no host 'kind'"),
        ("host odd\nafter 1 jump 1\n", "f", "does no 'jump'"),
        ("host honest\nafter 1 zero 1\n", "f", "a host that is honest does no 'zero'"),
        ("host odd\nafter 1 step 0x100000000\n", "f:2", "does not fit into 32 bits"),
        ("host odd\nafter 193 step 1\n", "f", "a gap of 193 cannot be said"),
        ("host odd\nstart version 3 steal 0\n", "f", "no input means this"),
        ("host odd\nnonsense\n", "f:2", "'nonsense' is no line of an input"),
    ],
)
def test_line_that_means_nothing_is_named(text: str, where: str, message: str) -> None:
    with pytest.raises(HostError, match=message) as caught:
        from_text(text, "f")
    assert caught.value.where == where


def test_remarks_and_empty_lines_mean_nothing() -> None:
    assert from_text("# why\nhost odd\n\nafter 2 step 5 # begins\n", "f") == Input("odd", 2, 0, (Record("step", 2, 5),))


def test_host_that_ends_with_an_odd_version_does_not_rest() -> None:
    # Flipped in mid-update: what was to end the update makes version odd, whatever is done to put it right.
    steps = (Record("flip-version", 0, 1), Record("halves", 0, 0), Record("flip-version", 0, 1))
    meant = Input(HOSTILE, 2, 0, steps)
    assert not plan(meant).rests
    one = Harness(Target(load_guest("readers/seqlock"), "seqlock", HOSTILE))
    assert one.fails(encode(meant)) is None
    assert plan(meant._replace(records=steps[:1] * 2)).rests
