"""What is asked before a step, and that the run itself answers it."""

import pytest

from emu.explain.effect import BRANCHES
from emu.explain.question import ask
from emu.explain.step import take
from emu.faults import HostError
from emu.guest import load_guest
from emu.history.history import History
from emu.scenario import Config
from emu.view.session import Session
from tests.effort import EFFORT


@pytest.mark.parametrize("guest", ["readers/odd_only", "bad_msr", "clock"])
def test_every_answer_is_what_the_next_step_shows(guest: str):
    history = History(load_guest(guest), Config(vcpus=2, tasks=("busy",), insn_limit=400 * EFFORT))
    asked: set[str] = set()
    while not history.ended and history.position < 150 * EFFORT:
        at = history.position
        question = ask(history)
        assert history.position == at
        step = take(history)
        if question is None:
            continue
        assert question.judge(question.right) is True
        wrong = [one for one in question.choices if one != question.right]
        assert all(question.judge(one) is False for one in wrong)
        assert question.judge("nonsense") is None
        told = " ".join(step.sentences)
        if question.choices == ("yes", "no"):
            assert step.text.split()[0] in BRANCHES
            assert (question.right == "yes") is (told.endswith("is taken") and "not taken" not in told)
            asked.add("branch")
        elif question.choices == ("it is taken", "#GP"):
            assert (question.right == "#GP") is ("raises #GP" in told)
            asked.add("msr")
        elif question.choices == ("even", "odd"):
            assert f": {question.right}," in told or f"which is {question.right}" in told
            asked.add("version")
        elif question.choices == ("set", "clear"):
            assert ("are equal" in told or "have no bit" in told) is (question.right == "set") or "and" not in told
            asked.add("flag")
        elif not question.choices:
            assert int(question.right) in [change.after for change in step.changed]
            asked.add("register")
        else:
            assert f"to {question.right}" in told
            asked.add("switch")
    assert len(asked) >= 4


def test_session_asks_counts_and_forgets():
    session = Session(History(load_guest("readers/odd_only"), Config()), {})
    with pytest.raises(HostError, match="nothing was asked"):
        session.say("guess 1")
    session.say("update")
    session.say("read")
    assert session.say("guess")[:3] == ["? It reads the version: is that even or odd?", "  1 even", "  2 odd"]
    session.say("host")
    assert session.question is not None
    with pytest.raises(HostError, match="answer even, odd, 1 to 2"):
        session.say("guess maybe")
    assert session.say("guess 2")[0].startswith("no, it is even   (0 of 1")
    session.say("back")
    session.say("guess")
    assert session.say("guess even")[0].startswith("right: even   (1 of 2")
    session.say("guess")
    session.say("step")
    assert session.question is None


def test_memory_and_msrs_are_shown():
    session = Session(History(load_guest("readers/odd_only"), Config()), {})
    session.say("update")
    assert any("MSR_KVM_STEAL_TIME" in one and one.endswith("1") for one in session.say("msrs"))
    area = session.machine.packages[0].steal.area_gpa
    assert session.say("mem")[1] == f"{area + 8:8x}  02 00 00 00 00 00 00 00"
    assert session.say("mem main")[0].split()[0] == f"{session.symbols.address('main'):x}"
    assert session.say("mem 0x7000000000")[-1].endswith("no memory")
    with pytest.raises(HostError, match="is no number"):
        session.say("mem nowhere")
