"""A host under test: operations as bytes, devices with a bug each, and real KVM."""

import json
import os
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu import data
from emu.__main__ import main
from emu.conform import generate
from emu.conform.text import format_sequence, parse_sequence
from emu.faults import HostError
from emu.fuzz import operations
from emu.fuzz.findings import HostFindings
from emu.fuzz.host import HostFinding, HostHarness
from emu.fuzz.operations import MOST_BYTES, decode, encode, short_sequences
from emu.fuzz.own_device import device_of
from emu.kvm.operations import PAGES, RAM_SIZE, Load, Store, Wrmsr

DEVICE = data.assignment_dirs()["steal-device"]
WRONG = sorted(path.name for path in (DEVICE / "wrong").iterdir())
REFUSED = "wrmsr ASYNC_PF_EN 0x80000009; rdmsr ASYNC_PF_EN"  # KVM remembers the value
needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm cannot be used here")


@pytest.fixture
def remembering() -> Iterator[HostHarness]:
    """Asks a KVM whose known differences, that one among them, are findings."""
    harness = HostHarness(kvm=True, known=False)
    try:
        if harness.judge(parse_sequence(REFUSED)) is None:
            pytest.skip("this KVM forgets a refused value, as it should")
        yield harness
    finally:
        harness.close()


def device(tmp_path: Path, name: str) -> str:
    """FILE.py:CLASS of the solution, or of a wrong variant, beside the file that it is given."""
    source = DEVICE / "solution" if name == "solution" else DEVICE / "wrong" / name
    shutil.copy(source / "steal_time.py", tmp_path)
    shutil.copy(DEVICE / "student" / "interface.py", tmp_path)
    return f"{tmp_path}/steal_time.py:StealTime"


def first_in_sweep(harness: HostHarness) -> tuple[int, str] | None:
    number = 0
    for _, _, sequences in short_sequences():
        for sequence in sequences:
            number += 1
            if (found := harness.judge(sequence)) is not None:
                return number, str(found)
    return None


@given(st.binary(max_size=MOST_BYTES + 9))
def test_every_byte_string_is_a_sequence_that_can_be_said_again(data: bytes) -> None:
    sequence = decode(data)
    assert 1 <= len(sequence) <= generate.MOST_OPERATIONS
    assert decode(encode(sequence)) == sequence


@given(st.binary(max_size=MOST_BYTES))
def test_sequence_stays_within_what_is_its_own(data: bytes) -> None:
    """Else it would hit the program that executes it on real KVM."""
    for one in decode(data):
        if isinstance(one, Load | Store) and one.gpa < RAM_SIZE:
            assert any(first <= one.gpa <= first + size - one.size for first, size in PAGES)
        if isinstance(one, Wrmsr) and 256 <= one.value < RAM_SIZE + 4096:
            assert any(first <= one.value < first + size for first, size in PAGES)


def test_short_sequences_are_as_many_as_is_said_and_can_be_said() -> None:
    for name, size, sequences in short_sequences():
        some = list(sequences)
        assert len(some) == size, name
        for one in random.Random(0).sample(some, min(size, 200)):
            assert decode(encode(one)) == one


def test_sequence_that_no_input_means_is_refused() -> None:
    for text in ("store 0x300000 1 8", "; ".join(["reenter"] * 9), "rdmsr 0x10"):
        with pytest.raises(HostError, match="no input means this sequence"):
            encode(parse_sequence(text))


def test_nothing_is_found_of_the_emulator_and_of_a_device_that_is_right(tmp_path: Path) -> None:
    assert first_in_sweep(HostHarness(kvm=False)) is None
    assert first_in_sweep(HostHarness(kvm=False, device=device_of(device(tmp_path, "solution")))) is None


@pytest.mark.parametrize("name", WRONG)
def test_planted_bug_of_a_device_is_found_among_the_short_sequences(name: str, tmp_path: Path) -> None:
    found = first_in_sweep(HostHarness(kvm=False, device=device_of(device(tmp_path, name))))
    assert found is not None
    number, told = found
    assert number < 1000, told


def test_finding_is_the_shortest_sequence_and_how_to_do_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fuzz", "host", "--device", device(tmp_path, "told-twice"), "--engine", "random", "--no-sweep", "-q"]
    assert main([*words, "--runs", "20000", "--exit-on-first"]) == 1
    out = capsys.readouterr().out
    assert "wrmsr STEAL_TIME" in out and "is right" in out
    (place,) = (tmp_path / "fuzz-host" / "findings").iterdir()
    lines = (place / "input.txt").read_text().splitlines()
    assert 1 <= len(lines) <= 4
    assert main(["fuzz", "decode", "--operations", str(place / "input")]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    (tmp_path / "lines").write_text("\n".join(lines))
    assert main(["fuzz", "encode", "--operations", "lines", "-o", "again"]) == 0
    assert (tmp_path / "again").read_bytes() == (place / "input").read_bytes()
    again = re.search(r"again: emu (.*)", (place / "story.txt").read_text())
    assert again is not None
    assert main(shlex.split(again[1])) == 1
    assert "is right" in capsys.readouterr().out
    # The same command goes on with what is there, and does not find it anew.
    capsys.readouterr()
    assert main([*words, "--runs", "2000"]) == 1
    assert "found after" not in capsys.readouterr().out
    # And with a device that was put right, it is put aside.
    device(tmp_path, "solution")
    assert main(["fuzz", "replay", str(place)]) == 0
    assert "fixed" in capsys.readouterr().out
    assert main([*words, "--runs", "2000"]) == 0
    assert f"fixed since it was found: {place.name}" in capsys.readouterr().out


BAD = {
    "ends": ("import os; os._exit(0)", "the end of the process, with status 0"),
    "crashes": ("import os; os.kill(os.getpid(), 9)", "the end of the process, by signal 9"),
    "gives up": ("raise SystemExit('enough')", "SystemExit('enough')"),
    "hangs": ("while True: pass", "no end within 2 s"),
    "grows": ("self.all = [bytearray(1 << 26) for _ in range(1000)]", "MemoryError() at steal_time.py:"),
    "raises": ("raise KeyError(msr)", "KeyError(1263947011) at steal_time.py:"),
    "talks": ("print('{}', 'x' * 10**6); raise KeyError(0)", "KeyError(0)"),
}


@pytest.mark.parametrize("way", BAD)
def test_device_that_ends_hangs_or_grows_is_a_finding_and_no_end_of_the_campaign(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emu.fuzz.campaign._SILENCE_S", 3)
    word, (bad, why) = device(tmp_path, "solution"), BAD[way]
    source = tmp_path / "steal_time.py"
    head, body = source.read_text().split("    def wrmsr(self, msr, value):\n")
    source.write_text(f"{head}    def wrmsr(self, msr, value):\n        if value == 2:\n            {bad}\n{body}")
    # Each sequence that hangs takes two seconds.
    bound = ["--exit-on-first"] if way == "hangs" else ["--runs", "120"]
    assert main(["fuzz", "host", "--device", word, "--engine", "sweep", *bound, "--json", "-q"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [why in one["why"] for one in told["findings"]] == [True]
    assert way == "hangs" or told["executions"] >= 120
    (place,) = (tmp_path / "fuzz-host" / "findings").iterdir()
    assert (place / "input.txt").read_text() == "wrmsr STEAL_TIME 0x2\n"
    if way != "hangs":
        assert main(["fuzz", "replay", str(place)]) == 1
        assert why in capsys.readouterr().out


def test_finding_of_kvm_is_known_when_it_goes_on(tmp_path: Path) -> None:
    """Its name begins with a capital."""
    sequence = tuple(parse_sequence("wrmsr STEAL_TIME 1"))
    one = HostFinding("KVM-01234567", "KVM", "why", sequence, ("a story",))
    under = {"kvm": True, "known": False, "device": None}
    assert HostFindings(tmp_path, under).add(one)
    assert HostFindings(tmp_path, under).known == {"KVM-01234567": 16}
    assert not HostFindings(tmp_path, under).add(one)


def test_campaign_without_a_finding_ends_with_status_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fuzz", "host", "--engine", "sweep", "--json", "-q"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["findings"] == [] and sum(size for _, size in told["swept"]) == told["executions"]


@needs_kvm
def test_known_differences_of_real_kvm_are_findings_only_where_that_is_asked_for() -> None:
    sequence = parse_sequence("wrmsr ASYNC_PF_EN 0x800000000000009; rdmsr ASYNC_PF_EN")
    with_known, without = HostHarness(kvm=True), HostHarness(kvm=True, known=False)
    try:
        assert with_known.judge(sequence) is None and with_known.known
        found = without.judge(sequence)
    finally:
        with_known.close()
        without.close()
    assert found is None or "ASYNC_PF_EN" in found.difference.what  # a KVM may have mended it


@needs_kvm
def test_known_difference_that_was_found_hides_no_other(remembering: HostHarness) -> None:
    for common in ("cpuid 0x1 0x0", "wrmsr STEAL_TIME 0x1"):  # found in nearly every sequence, on many machines
        remembering.finding(encode(parse_sequence(common)))
        assert remembering.judge(parse_sequence(common)) is None
    found = remembering.finding(encode(parse_sequence(f"cpuid 0x1 0x0; wrmsr STEAL_TIME 0x1; {REFUSED}")))
    assert found is not None and format_sequence(found.sequence) == REFUSED
    assert remembering.judge(parse_sequence(REFUSED)) is None


@needs_kvm
def test_refused_value_that_kvm_remembers_is_met_in_the_sweep(remembering: HostHarness) -> None:
    whys = []
    for name, _, sequences in short_sequences():
        if name in ("one operation", "a value written and read back"):
            failing = (encode(one) for one in sequences if remembering.judge(one) is not None)
            whys += [found.why for data in failing if (found := remembering.finding(data)) is not None]
    assert any("rdmsr ASYNC_PF_EN" in why for why in whys)


@pytest.mark.parametrize(
    ("content", "word", "message"),
    [
        ("", "x.py", "there is no such file"),
        ("", "x.py:StealTime", "there is no class 'StealTime' in it"),
        ("1/0", "x.py:StealTime", "this file cannot be executed"),
        ("class StealTime:\n    pass\n", "x.py:StealTime", "this is no steal-time device"),
    ],
)
def test_device_that_will_not_do_is_named(content: str, word: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(content)
    with pytest.raises(HostError, match=message):
        device_of(f"{tmp_path}/{word}")


def test_places_of_fields_are_in_the_pages() -> None:
    for gpa, size in operations._FIELDS:
        assert operations._own_place(gpa, size) == gpa or gpa < RAM_SIZE
