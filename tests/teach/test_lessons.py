"""Every lesson is true: its answers are what the machine shows, its holes fail as promised, its solutions pass."""

import functools
import io
import itertools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu import data
from emu.__main__ import main
from emu.commands import cells
from emu.faults import HostError
from emu.teach import progress
from emu.teach.guide import Guide
from emu.teach.lesson import FIX, PREDICT, STEP, Lesson, Part, find, read
from tests import shown

LESSONS = find(data.lesson_dirs())
TASKS = [(lesson, task) for lesson in LESSONS for task in lesson.tasks]
_NUMBER = re.compile(r"(?<![\w.])(?:0x[0-9a-f]+|\d{1,3}(?:,\d{3})+|\d{2,})(?!\w)")
_PICTURE = re.compile(r"```text\n.*?```", re.DOTALL)
_FACTS = re.compile(r"<!-- facts: ([^>]*) -->")


def named(one: object) -> str:
    return one.name if isinstance(one, Lesson) else str(getattr(one, "kind", ""))


def session(words: str):
    return cells.session(words, lambda: None)


def transcript(lesson: Lesson, part: Part) -> str:
    """All that is shown on the way through this part, with the hole and without it; and what its comment says."""
    return _transcript(lesson.path.parent, part.kind, part.subject, tuple(part.about.items()))


def ran(command: str) -> shown.Outcome:
    """What a command comes to beside the sources that are here: the same each time, so it is run once."""
    return _outcome(command, tuple(sorted((one.name, one.read_bytes()) for one in Path().glob("*.[cS]"))))


@functools.cache
def _outcome(command: str, _sources: tuple[tuple[str, bytes], ...]) -> shown.Outcome:
    return shown.run(command)


@functools.cache
def _transcript(folder: Path, kind: str, subject: str, items: tuple[tuple[str, str], ...]) -> str:
    about = dict(items)
    told = [subject, *about.values()]
    if kind == PREDICT:
        told.append(ran(about["shown by"]).output)
    elif kind == STEP:
        walk = session(subject)
        words = f"{about['by']} | {about.get('then', 'where')}".split(" | ")
        told += [line for word in words for line in (word, *walk.say(word))]
    elif kind == FIX:
        for place in (folder, folder / "solution"):
            shutil.copy(place / subject, subject)
            told += [ran(about["check"]).output, (place / subject).read_text(encoding="utf-8")]
    return "\n".join(told)


def unshown(lesson: Lesson) -> list[str]:
    """The numbers in a lesson that no machine has shown there, and that it does not call facts."""
    of_parts = [numbers(transcript(lesson, part)) for part in lesson.parts]
    facts = set(_FACTS.findall(lesson.path.read_text(encoding="utf-8")))
    known = numbers(" ".join(facts))
    found = []
    for part, own in zip(lesson.parts, of_parts, strict=True):
        shown_here = own if part.kind else set.union(*of_parts)
        text = _PICTURE.sub("", "\n".join((part.text, part.hint, part.answer)))  # tests/test_readme.py compares these
        found += [one for one in _NUMBER.findall(text) if one.replace(",", "") not in shown_here | known]
    return found


def numbers(text: str) -> set[str]:
    return set(re.findall(r"0x[0-9a-f]+|\d+", text.replace(",", "")))


@pytest.fixture(autouse=True, scope="module")
def reference() -> Iterator[None]:
    """The numbers in lessons are those of the reference builds, as those of every document are."""
    try:
        with shown.reference_guests():
            yield
    except HostError as error:
        pytest.skip(f"the reference guests cannot be built here: {error}")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_there_are_twelve_at_least_and_each_asks_predicts_steps_and_mends():
    assert [lesson.number for lesson in LESSONS] == list(range(1, len(LESSONS) + 1)) and len(LESSONS) >= 12
    for lesson in LESSONS:
        assert {task.kind for task in lesson.tasks} == {PREDICT, STEP, FIX}, lesson.name
        assert lesson.parts[0].kind == "" and "?" in lesson.parts[0].text, f"{lesson.name} begins without a question"


@pytest.mark.parametrize(("lesson", "task"), [one for one in TASKS if one[1].kind == PREDICT], ids=named)
def test_prediction_is_shown_by_a_machine(lesson: Lesson, task):
    assert task.about["with"] in ran(task.about["shown by"]).output
    assert len(task.choices) > 1 and task.answer


@pytest.mark.parametrize(("lesson", "task"), [one for one in TASKS if one[1].kind == STEP], ids=named)
def test_step_is_not_done_before_and_done_after(lesson: Lesson, task):
    guide = Guide(lesson, lesson.parts.index(task), session, cells.ran, lambda shown: None)
    guide.begin()
    for word in task.about["by"].split(" | "):
        assert guide.task is task, f"done too early, before {word}"
        told = guide.say(word)
    assert "Done: that is it." in told and guide.solved == 1
    assert task.hint and task.answer


@pytest.mark.parametrize(("lesson", "task"), [one for one in TASKS if one[1].kind == FIX], ids=named)
def test_hole_fails_with_the_message_and_solution_passes(lesson: Lesson, task, tmp_path: Path):
    folder = lesson.path.parent
    shutil.copy(folder / task.subject, tmp_path)
    outcome = ran(task.about["check"])
    assert outcome.status != 0 and task.about["fails"] in outcome.output
    shutil.copy(folder / "solution" / task.subject, tmp_path)
    outcome = ran(task.about["check"])
    assert outcome.status == 0 and task.about["passes"] in outcome.output
    assert task.hint and task.answer


@pytest.mark.parametrize("lesson", LESSONS, ids=named)
def test_every_number_was_shown_by_a_machine(lesson: Lesson):
    assert unshown(lesson) == []


@pytest.mark.parametrize("lesson", LESSONS, ids=named)
def test_wrong_number_planted_in_a_text_is_noticed(lesson: Lesson):
    everything = numbers("\n".join(transcript(lesson, part) for part in lesson.parts))
    planted = 0
    for at, part in enumerate(lesson.parts):
        for field in ("text", "hint", "answer"):
            pictures = [one.span() for one in _PICTURE.finditer(getattr(part, field))]
            for found in _NUMBER.finditer(getattr(part, field)):
                if any(first <= found.start() < end for first, end in pictures):
                    continue
                wrong = next(one for one in others(found.group()) if one not in everything)
                text = getattr(part, field)
                spoilt = part._replace(**{field: text[: found.start()] + wrong + text[found.end() :]})
                parts = (*lesson.parts[:at], spoilt, *lesson.parts[at + 1 :])
                assert unshown(lesson._replace(parts=parts)) == [wrong]
                planted += 1
    assert planted or lesson.number == 6  # that one has words alone


def others(number: str) -> Iterator[str]:
    """Numbers that look like this one, the nearest first."""
    base = 16 if number.startswith("0x") else 10
    value = int(number.replace(",", ""), base)
    return (hex(value + more) if base == 16 else str(value + more) for more in itertools.count(1))


def walked(number: str, words: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(words))
    return main(["lesson", number, *more])


@pytest.mark.parametrize("lesson", LESSONS, ids=named)
def test_a_student_comes_to_the_end(lesson: Lesson, monkeypatch, capsys):
    words = []
    for part in lesson.parts:
        if part.kind == PREDICT:
            words.append(part.subject)
        elif part.kind == STEP:
            words += part.about["by"].split(" | ")
        elif part.kind == FIX:
            place = Path(lesson.name)
            place.mkdir(exist_ok=True)
            shutil.copy(lesson.path.parent / "solution" / part.subject, place)
            words.append("check")
        else:
            words.append("")
    assert walked(str(lesson.number), "\n".join(words) + "\n", monkeypatch) == 0
    out = capsys.readouterr().out
    assert out.count("Done: that is it.") == len([one for one in lesson.tasks if one.kind in (STEP, FIX)])
    assert f"This was lesson {lesson.number}, {lesson.title}." in out and "\\n" not in out
    assert progress.load()[lesson.name] == -1
    assert main(["lesson"]) == 0
    assert re.search(rf"{lesson.number}  {re.escape(lesson.title)} .*done", capsys.readouterr().out)


def test_place_is_kept_and_a_students_file_stays(monkeypatch, capsys):
    assert walked("7", "\nquit\n", monkeypatch) == 0
    Path("07-torn/reader32.c").write_text("mine\n", encoding="utf-8")
    capsys.readouterr()
    assert walked("7", "hint\nhelp\nnonsense\nquit\n", monkeypatch) == 0
    out = capsys.readouterr().out
    assert "**Do.**" in out and "`step 4` makes four steps" in out and "there is no word 'nonsense'" in out
    assert Path("07-torn/reader32.c").read_text(encoding="utf-8") == "mine\n"
    assert walked("7", "quit\n", monkeypatch, "--again") == 0
    assert "## Two loads" in capsys.readouterr().out


def test_damaged_progress_counts_as_none(monkeypatch, capsys):
    progress.keep("07-torn", 2)
    progress.path().write_text("{not json", encoding="utf-8")
    assert progress.load() == {}
    assert walked("7", "quit\n", monkeypatch) == 0


def test_wrong_answer_is_told_the_right_one():
    lesson = next(one for one in LESSONS if one.number == 7)
    at = next(n for n, part in enumerate(lesson.parts) if part.kind == PREDICT)
    guide = Guide(lesson, at, session, cells.ran, lambda shown: None)
    assert guide.say("9") == ["answer 1 to 3, or `hint`, or `skip`"]
    assert guide.say("1")[0].startswith("No, it is 3: No: an update may begin")
    assert guide.solved == 0


def test_step_may_be_done_on_the_whole_screen():
    lesson = next(one for one in LESSONS if one.number == 7)
    at = next(n for n, part in enumerate(lesson.parts) if part.kind == STEP)

    def student(opened):
        for word in lesson.parts[at].about["by"].split(" | "):
            opened.say(word)

    guide = Guide(lesson, at, session, cells.ran, student)
    guide.begin()
    assert "Done: that is it." in guide.say("screen") and guide.solved == 1


def test_no_screen_where_there_is_none(monkeypatch, capsys):
    assert walked("7", "\nscreen\nquit\n", monkeypatch) == 0
    assert "there is no screen here; say the words" in capsys.readouterr().out


def test_text_is_the_source(capsys):
    assert main(["lesson", "7", "--text"]) == 0
    assert capsys.readouterr().out == read(LESSONS[0].path.parent.parent / "07-torn").path.read_text(encoding="utf-8")


def test_lesson_that_is_not_there(capsys):
    assert main(["lesson", "99"]) == 2
    assert "there is no lesson '99'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Torn\n", "begins with its number"),
        ("# 1. A\n<!-- predict: 3; shown by: emu guests; with: x -->\n1. a\n2. b\n", "none of the 2"),
        ("# 1. A\n<!-- step: hello; until: x shows y -->\n", "a step task has by, until"),
    ],
)
def test_lesson_that_is_wrong_is_refused(text: str, said: str, tmp_path: Path):
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(HostError, match=said):
        read(tmp_path)
