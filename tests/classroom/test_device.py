"""A device and its judge, two processes with two pipes between them: what one of them may do to the other."""

import json
import os
import threading
from collections.abc import Iterator

import pytest

from emu import data
from emu.classroom import assignment, criteria, device, device_judge, device_pipe, foreseen, verdict
from emu.classroom.asks import Device
from emu.classroom.device_pipe import Host
from emu.classroom.operations import Operation
from emu.classroom.verdict import Judgement

DEVICE = assignment.read(data.assignment_dirs()["steal-device"])
GIVEN = DEVICE.given_files()
GOOD = DEVICE.handed_in(DEVICE.folder / "solution")["steal_time.py"]


def judged(text: bytes, deadline_s: float = 5) -> Judgement:
    with device_judge.local_host() as host:
        host._deadline_s = deadline_s
        return device_judge.judge(DEVICE.criteria, {"steal_time.py": text}, GIVEN, host)


def test_solution_is_right_however_much_is_asked_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(GOOD)
    assert all(one.outcome == verdict.PASSED for one in found.verdicts)
    monkeypatch.setattr(device, "_MOST_AHEAD", 1)
    assert judged(GOOD) == found


def test_first_difference_is_the_same_however_much_is_asked_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [(DEVICE.folder / "wrong" / one.name / "steal_time.py").read_bytes() for one in DEVICE.wrong]
    found = [judged(text) for text in variants]
    monkeypatch.setattr(device, "_MOST_AHEAD", 1)
    assert [judged(text) for text in variants] == found


def foreseen_judged(text: bytes) -> Judgement:
    """As a copy of a mother judges it, who has worked out what the reference answers."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(foreseen, "_worked_out", {})
        foreseen.foresee([list(one.ask) for one in DEVICE.criteria])  # type: ignore[arg-type]
        return judged(text)


def test_judgement_is_the_same_whether_answers_are_foreseen() -> None:
    variants = [(DEVICE.folder / "wrong" / one.name / "steal_time.py").read_bytes() for one in DEVICE.wrong[::3]]
    for text in (GOOD, *variants):
        assert foreseen_judged(text) == judged(text)


@pytest.mark.parametrize("judge", ["answers", "protocol"])
@pytest.mark.parametrize("profile", ["kvm", "kvm-bugs", "kvm-2011"])
def test_foreseen_answer_is_right_when_it_is_looked_at(judge: str, profile: str) -> None:
    ask = Device(profile, 7, 300, 30, criteria.DEVICE_OPERATIONS, judge)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(foreseen, "_worked_out", {})
        foreseen.foresee([list(ask)])
        for one in foreseen.course(ask):
            stored = [0]
            assert one.answer is not None
            assert device._judged(ask, one.operations, json.loads(one.answer), stored) is None
            assert stored == [one.stores]
            # And it is looked at indeed: an answer in which one number is another is not right.
            if judge == "answers" and one.stores:
                wrong = json.loads(one.answer)
                touched = next(outcome for outcome in wrong["outcomes"] if outcome["touches"])
                touched["touches"][-1][3] ^= 2  # the last one is not stored over
                assert device._judged(ask, one.operations, wrong, [0]) is not None


def test_right_answers_are_foreseen_word_for_word() -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(foreseen, "_worked_out", {})
        foreseen.foresee([list(one.ask) for one in DEVICE.criteria])  # type: ignore[arg-type]
        patched.setattr(device, "_judged", lambda *_: pytest.fail("an answer was looked at"))
        assert all(one.outcome == verdict.PASSED for one in judged(GOOD).verdicts)


def test_empty_line_is_no_answer(pipes: "tuple[Host, int, int]") -> None:
    host, _, from_device = pipes
    os.write(from_device, b"\n" * 100)
    found, _ = device.judge(DEVICE.criteria[0], "", "steal_time.py", lambda: host, lambda: None)
    assert (found.outcome, found.points) == (verdict.LIMIT, 0)


def test_what_was_found_is_told_though_a_later_sequence_hangs() -> None:
    # Made a few times, it is wrong; made more often, it hangs: the judge has asked for that already.
    hangs = b"        type(self).made += 1\n        while type(self).made > 3:\n            pass\n"
    head = b"    def __init__(self, ram_holds):\n"
    broken = GOOD.replace(head, b"    made = 0\n\n" + head + hangs).replace(b"return self.value\n", b"return 5\n")
    assert broken.count(b"made > 3") == broken.count(b"return 5") == 1
    first, *others = judged(broken, 1).verdicts
    assert first.outcome == verdict.FAILED and "MSR_KVM_STEAL_TIME" in first.why
    assert {one.why for one in others} == {"the device has not answered for 1 seconds"}


@pytest.fixture
def pipes() -> Iterator[tuple[Host, int, int]]:
    to_device, from_judge = os.pipe()
    to_judge, from_device = os.pipe()
    with os.fdopen(to_judge, "r") as source, os.fdopen(from_judge, "w") as sink:
        yield Host(source, sink, 0.5), to_device, from_device
    os.close(to_device)
    os.close(from_device)


@pytest.mark.skipif(os.name == "nt", reason="pipes cannot be waited for there")
def test_device_that_answers_and_never_reads_does_not_stop_its_judge(pipes: tuple[Host, int, int]) -> None:
    host, _, from_device = pipes

    def forge() -> None:
        for _ in range(2000):
            os.write(from_device, b'{"outcomes": []}\n')

    forger = threading.Thread(target=forge)
    forger.start()

    def talk() -> None:
        for _ in range(2000):
            host.ask(foreseen.request([Operation("update")] * 10))
            host.answer()

    with pytest.raises(device_pipe.Silent, match="nor read"):
        talk()
    forger.join()
    with pytest.raises(device_pipe.Silent, match="nor read"):
        host.ask("{}\n")
