"""`emu step`, line by line."""

import io

import pytest

from emu.__main__ import main
from emu.guest import load_guest
from emu.history.history import History
from emu.scenario import Config
from emu.view.session import WORDS, Session


def session(guest: str = "readers/odd_only", config: Config = Config()) -> Session:
    return Session(History(load_guest(guest), config), {})


def said(one: Session, *lines: str) -> list[str]:
    found: list[str] = []
    for line in lines:
        found = one.say(line)
    return found


def test_step_and_back_are_each_others_inverse() -> None:
    one = session()
    said(one, "to event:wrmsr")
    here = one.here()
    said(one, "step 7", "back 7")
    assert one.here() == here
    assert said(one, "s")[-1] != here and said(one, "b")[-1] == here


def test_user_is_the_host_store_by_store() -> None:
    one = session()
    said(one, "to event:wrmsr", "read", "step")
    assert any("version becomes 3, which is odd" in line for line in said(one, "store"))
    first = said(one, "area")[0]
    assert "version 3 (an update is under way)" in first
    second, third = said(one, "store")[0], said(one, "store")[0]
    assert "steal becomes 1,000,000 ns" in second and "version becomes 4" in third
    assert said(one, "step")[1] == "  reads steal = 1,000,000"
    assert len(said(one, "edits")) == 3
    assert "at rest" in said(one, "area")[0]


def test_pcpu_can_be_taken_away() -> None:
    one = session("hog", Config(tasks=("busy",), insn_limit=10**6))
    said(one, "to 500")
    said(one, "preempt")
    assert "task0" in "".join(said(one, "step 3"))
    assert "waited 100,000" in said(one, "host")[0]
    alone = session("hog", Config(insn_limit=10**6))
    said(alone, "to 500", "wait 2000")
    assert "waited 2,000" in said(alone, "host")[0]


def test_over_goes_over_a_call_and_out_comes_back() -> None:
    one = session("hello")
    said(one, "start", "step 2")
    before = one.machine.packages[0].vcpu.general("rsp")
    call = one.here()
    if "call" in call:
        said(one, "over")
        assert one.machine.packages[0].vcpu.general("rsp") == before or one.history.ended


def test_conditions_of_the_area_are_words() -> None:
    one = session("clock", Config(tasks=("busy",)))
    said(one, "update")
    assert "version 2" in said(one, "area")[0]
    said(one, "update")
    assert "version 4" in said(one, "area")[0]
    said(one, "read")
    assert "reads" in said(one, "step")[1]
    said(one, "exit")
    assert not one.history.ended


def test_what_does_not_come_to_pass_leaves_the_cursor() -> None:
    one = session()
    said(one, "to event:mark")
    at = one.history.position
    assert "does not come to pass" in said(one, "to 0xdead0000")[0]
    assert one.history.position == at


def test_registers_memory_and_msrs_can_be_set() -> None:
    one = session()
    said(one, "step 5", "set r15=0x77", "set mem:0x3000=00ff", "set msr:0x4b564d03=0x141001")
    assert one.machine.packages[0].vcpu.general("r15") == 0x77
    assert one.machine.ram.read(0x3000, 2) == b"\x00\xff"
    assert "0x141000" in said(one, "area")[0]
    assert [line.partition("] ")[2] for line in said(one, "edits")] == [
        "vcpu0: r15 becomes 0x77",
        "memory at 0x3000 becomes 00 ff",
        "vcpu0: MSR 0x4b564d03 becomes 0x141001",
    ]


def test_every_word_is_in_the_help_and_does_something() -> None:
    one = session()
    lines = said(one, "help")
    assert len(lines) == len(WORDS)
    assert len({word.short for word in WORDS if word.short}) == sum(bool(word.short) for word in WORDS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("stpe", "did you mean step"),
        ("step x", "no number"),
        ("to", "say where to go"),
        ("to mian", "did you mean main"),
        ("set rax", "say what becomes what"),
        ("set rxx=1", "no register"),
        ("set mem:0x10=zz", "no bytes"),
        ("set cpu:1=2", "there is no 'cpu'"),
        ("store", "wants no updates"),
        ("store 7", "there is no vCPU 7"),
        ("preempt", "nobody waits"),
        ("wait 0", "cannot wait for 0 ns"),
    ],
)
def test_words_that_cannot_be_done_end_a_script_with_status_2(
    words: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"step\n{words}\nstep\n"))
    assert main(["step", "readers/seqlock"]) == 2
    out, err = capsys.readouterr()
    assert says in err and err.count("\n") == 1
    assert out.count("> step\n") == 1


def test_script_is_a_session_and_the_same_each_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = []
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.StringIO("# a remark\nto event:wrmsr\nread\ns 3\nb\nwhere\nq\nstep\n"))
        assert main(["step", "readers/seqlock"]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] and outs[0].startswith("[0] ") and "> where" in outs[0] and "> step" not in outs[0]


def test_counterexample_of_explore_can_be_stepped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert main(["explore", "readers/odd_only"]) == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("to version:odd\nedits\n"))
    capsys.readouterr()
    assert main(["step", "odd_only.emurec"]) == 0
    out = capsys.readouterr().out
    assert "the host makes its next store of an update for vcpu0" in out
