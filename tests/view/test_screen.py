"""The stepper's screen, driven by its keys."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Static

from emu.guest import load_guest
from emu.history.history import History
from emu.scenario import Config
from emu.view.courses import survey
from emu.view.screen import _WORDS, HELP, Stepper
from emu.view.session import WORDS, Session

Check = Callable[[Stepper, Pilot[None]], Awaitable[None]]


def driven(
    check: Check, guest: str = "readers/odd_only", config: Config = Config(), size: tuple[int, int] = (80, 24)
) -> None:
    """Run the screen, and `check` it."""

    async def run() -> None:
        history = History(load_guest(guest), config)
        stepper = Stepper(Session(history, {}), guest, lambda: survey(history))
        async with stepper.run_test(size=size) as pilot:
            await pilot.pause()
            await check(stepper, pilot)

    asyncio.run(run())


def text(stepper: Stepper, panel: str) -> str:
    return str(stepper.query_one(f"#{panel}", Static).render())


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_steps_forward_and_back_by_keys(size: tuple[int, int]) -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        assert "position 0" in text(stepper, "title")
        await pilot.press("right", "s", "right")
        assert "position 3" in text(stepper, "title")
        at = text(stepper, "code"), text(stepper, "registers").replace("*", " ")
        await pilot.press("right", "left")
        assert (text(stepper, "code"), text(stepper, "registers").replace("*", " ")) == at
        assert "▶" in text(stepper, "code")
        await pilot.press("end")
        assert "over: exit" in text(stepper, "title")
        await pilot.press("home")
        assert "position 0" in text(stepper, "title")

    driven(check, size=size)


def test_user_is_the_host_by_keys() -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        await pilot.press("n", "r", "s")
        assert "version 2: even, at rest" in text(stepper, "area")
        await pilot.press("S", "S")
        assert "version 3: ODD, the host is writing" in text(stepper, "area")
        assert "2 edits" in text(stepper, "title")
        await pilot.press("s")
        assert "reads steal = 1,000,000" in text(stepper, "log")
        assert "*rax f4240" in text(stepper, "registers")

    driven(check)


def test_pcpu_is_given_away_and_the_timeline_shows_it() -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        await pilot.press("s", "s", "s")
        assert "task0" not in text(stepper, "timeline")
        await pilot.press("p")
        assert "task0" in text(stepper, "timeline") and "░" in text(stepper, "timeline")
        before = text(stepper, "timeline")
        await pilot.press("plus")
        assert text(stepper, "timeline") != before
        await pilot.press(*["minus"] * 20)
        whole = text(stepper, "timeline")
        await pilot.press("minus")
        assert text(stepper, "timeline") == whole

    driven(check, config=Config(tasks=("busy",)))


def test_words_are_typed_after_a_colon() -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        await pilot.press("colon")
        await pilot.press(*"to main", "enter")
        assert "position 3" in text(stepper, "title")
        await pilot.press("colon")
        await pilot.pause()
        await pilot.press(*"to nowhere", "enter")
        assert "there is no symbol 'nowhere'" in text(stepper, "log")
        await pilot.press("colon")
        await pilot.pause()
        await pilot.press("s", "escape", "s")
        assert "position 4" in text(stepper, "title")
        await pilot.press("question_mark")
        assert HELP[0] in text(stepper, "log")
        await pilot.press("q")

    driven(check)


def test_words_may_come_at_once_as_a_paste_or_a_script_sends_them() -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        for key in ("colon", *"mem", "space", "colon", "enter"):
            stepper.post_message(events.Key(key, {"colon": ":", "space": " ", "enter": "\r"}.get(key, key)))
        await pilot.pause()
        await pilot.pause()
        assert "':' is no number" in text(stepper, "log")

    driven(check)


def test_timeline_is_scrubbed_by_keys_and_mouse() -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        column = stepper._column_ns(0)
        await pilot.press("right_square_bracket", "right_square_bracket")
        assert 2 * column <= stepper.session.machine.now_ns < 3 * column
        await pilot.press("left_square_bracket")
        assert column <= stepper.session.machine.now_ns < 2 * column
        await pilot.press("left_square_bracket", "left_square_bracket")
        assert "position 0" in text(stepper, "title")
        await pilot.click("#timeline", offset=(7 + 20, 0))
        assert 20 * column <= stepper.session.machine.now_ns < 21 * column

    driven(check)


def test_of_many_lanes_those_of_the_vcpu_whose_turn_it_is_are_there() -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        for _ in range(6):
            await pilot.press("n")
            rows = text(stepper, "timeline").splitlines()
            acting = stepper.session.machine.acting
            assert acting is not None and rows[0].startswith(f"vcpu{acting.number} ") and len(rows) == 6
            assert "↑" in rows[-1]

    driven(check, guest="clock", config=Config(vcpus=5, tasks=("busy",)))


def test_guess_is_answered_by_a_digit() -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        await pilot.press("n", "r", "1", "g")
        assert "is that even or odd" in text(stepper, "log")
        position = stepper.session.history.position
        await pilot.press("1")
        assert "right: even   (1 of 1 so far)" in text(stepper, "log")
        assert stepper.session.history.position == position + 1
        while stepper.session.question is None or stepper.session.question.choices:
            await pilot.press("right", "g")
        await pilot.press("7")
        await pilot.pause()
        await pilot.press("enter")
        assert "of 2 so far" in text(stepper, "log")

    driven(check)


def test_memory_and_msrs_take_turns_with_the_area() -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        await pilot.press("n", "m")
        assert "STEAL_TIME" in text(stepper, "area")
        await pilot.press("m")
        assert "02 00 00 00" in text(stepper, "area")
        await pilot.press("S")
        assert "03 00 00 00" in text(stepper, "area")
        stepper.action_word("mem main")
        assert "memory at main" in text(stepper, "area")
        await pilot.press("m")
        assert "nothing was printed yet" in text(stepper, "area")
        await pilot.press("m")
        assert "version 3" in text(stepper, "area")

    driven(check)


def test_every_key_means_a_word() -> None:
    known = {word.name for word in WORDS}
    assert all(words.split()[0] in known for words in _WORDS.values())


def test_nothing_is_wider_than_a_small_terminal() -> None:
    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        for _ in range(30):
            await pilot.press("right")
            for panel in ("title", "timeline", "log", "keys"):
                assert max(map(len, text(stepper, panel).splitlines()), default=0) <= 80

    driven(check, "clock", Config(vcpus=2, tasks=("busy",), insn_limit=300_000))


def test_our_share_of_a_key_is_small() -> None:
    """Not a timed test: only that nothing is done again at each key that takes as long as a run."""

    async def check(stepper: Stepper, pilot: Pilot[None]) -> None:
        await pilot.press("pagedown")
        begun = time.perf_counter()
        for _ in range(20):
            stepper.action_word("step")
        assert time.perf_counter() - begun < 5

    driven(check, "conformance/msr")
