"""What is printed at the end of a run, to the character."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from emu import abi, machine
from emu.devices.steal_time import Area
from emu.result import Result, TripleFault, VcpuResult, Whereabouts
from emu.scenario import Config
from emu.trace import Event, Store, Switch, Wake
from emu.view import summary
from emu.view.strip import BLOCKS
from emu.view.summary import as_json, ending, flag_duration, flag_size, notes, percent, render_plain, render_rich
from emu.view.timeline import IDLE, Timeline
from tests.view.test_timeline import turns

US = 1000
ENABLED = 0x10_0000 | abi.KVM_MSR_ENABLED


def vcpu(
    number: int, ran: int, stolen: int, idle: int, updates: int, area: Area | None, msr: int = ENABLED
) -> VcpuResult:
    return VcpuResult(number, ran, stolen, idle, ran + stolen + idle, ran, updates, msr, area)


def shared(turns_taken: int = 6) -> tuple[Result, Timeline]:
    """vcpu0 and a task take turns of 100 us; the run ends 40 us into a wait."""
    timeline = Timeline(1, 1, 1)
    for event in turns(turns_taken):
        timeline(event)
    end_ns = (turns_taken * 100 - 60) * US
    timeline.finish(end_ns)
    totals = timeline.courses["vcpu0"].totals
    arrivals = turns_taken // 2
    area = Area((arrivals - 1) * 100 * US, 2 * arrivals, 0, 1)
    one = vcpu(0, totals["runs"], totals["waits"], totals["sleeps"], arrivals, area)
    return Result(3, machine.EXIT, end_ns, one.ran_ns, (one,), b"hi\xff\n"), timeline


def test_plain_summary_of_a_short_run() -> None:
    assert render_plain(*shared(), Config(tasks=("busy",)), 80) == (
        "        ran ns   stolen ns   idle ns   elapsed ns\n"
        "─────────────────────────────────────────────────\n"
        "vcpu0  300,000 +   240,000 +       0 =    540,000\n"
        "\n"
        "         share  updates  version  steal ns\n"
        "──────────────────────────────────────────\n"
        "vcpu0  55.56 %        3        6   200,000\n"
        "\n"
        "The run, 540 us\n"
        "       ╷0        ╷100us    ╷200us    ╷300us    ╷400us    ╷500us\n"
        " vcpu0 ▲█████████░░░░░░░░░░▲█████████░░░░░░░░░░▲█████████░░░░\n"
        " task0 ░░░░░░░░░░██████████░░░░░░░░░░██████████░░░░░░░░░░████\n"
        "       █ runs   ░ waits: stolen   ▲ update   one column: 10 us\n"
        "\n"
        "pcpu0: vcpu0 55.56 %, task0 44.44 %\n"
        "\n"
        "the guest ended the run with status 3 after 540 us of virtual time, 300,000\n"
        "  instructions\n"
        "stolen since the last update, so not yet published: 40,000 ns of vcpu0\n"
    )


def test_one_table_where_there_is_room() -> None:
    assert render_plain(*shared(), Config(tasks=("busy",)), 100).splitlines()[:3] == [
        "        ran ns   stolen ns   idle ns   elapsed ns    share  updates  version  steal ns",
        "──────────────────────────────────────────────────────────────────────────────────────",
        "vcpu0  300,000 +   240,000 +       0 =    540,000  55.56 %        3        6   200,000",
    ]


def test_a_long_run_is_shown_close_up_and_from_afar() -> None:
    text = render_plain(*shared(4000), Config(tasks=("busy",)), 80)
    assert "The first 1.38 ms: who had the pCPU, and where the updates fell\n" in text
    assert "All 399.94 ms, 4,000 switches: how the time was shared\n" in text
    assert " vcpu0 ran ▄▄▄▄" in text


@pytest.mark.parametrize("width", [60, 80, 99, 140])
@pytest.mark.parametrize("switches", [2, 40, 600, 6000])
def test_no_line_is_wider_than_asked(width: int, switches: int) -> None:
    text = render_plain(*shared(switches), Config(tasks=("busy",)), width)
    assert max(map(len, text.splitlines())) <= width


def test_ascii_has_all_that_blocks_have() -> None:
    run = shared(600)
    ascii_text = render_plain(*run, Config(tasks=("busy",)), 80, encoding="ascii")
    assert ascii_text.isascii()
    assert ascii_text.count("\n") == render_plain(*run, Config(tasks=("busy",)), 80).count("\n")


def test_rich_prints_the_plain_text_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    render_rich(Console(file=stream, width=80), *shared(), Config(tasks=("busy",)))
    assert stream.getvalue() == render_plain(*shared(), Config(tasks=("busy",)), 80)


def test_rich_colours_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system="standard", no_color=False, _environ={})
    render_rich(console, *shared(), Config(tasks=("busy",)))
    assert "\x1b[32m█████████" in stream.getvalue()
    assert "\x1b[31m░░░░░░░░░░" in stream.getvalue()


def test_rich_is_not_imported_for_plain_text() -> None:
    code = "import sys, emu.view.summary; sys.exit('rich' in sys.modules or 'dataclasses' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_reason_has_its_sentence() -> None:
    result, _ = shared()
    reasons = {
        value for name, value in vars(machine).items() if name.isupper() and isinstance(value, str) and name[0] != "_"
    }
    assert {machine.EXIT, machine.HALTED, machine.OUTPUT_LIMIT} < reasons
    texts = {ending(result._replace(reason=reason), Config()) for reason in reasons}
    assert len(texts) == len(reasons)
    assert all("after 540 us of virtual time, 300,000 instructions" in text for text in texts)


def test_a_limit_names_its_option_and_value() -> None:
    result, _ = shared()
    config = Config(insn_limit=30_000_000)
    assert ending(result._replace(reason=machine.INSN_LIMIT), config) == (
        "stopped at --insn-limit 30,000,000 after 540 us of virtual time, 300,000 instructions;"
        " if this is no endless loop, give a higher --insn-limit"
    )
    assert "--time-limit 1s " in ending(result._replace(reason=machine.TIME_LIMIT), config)
    assert "--output-limit 256K " in ending(result._replace(reason=machine.OUTPUT_LIMIT), config)


def test_option_values_are_written_as_options_take_them() -> None:
    assert [flag_duration(ps) for ps in (10**12, 25 * 10**8, 5000)] == ["1s", "2500us", "5ns"]
    assert [flag_size(size) for size in (1 << 30, 1 << 20, 3 << 10, 7)] == ["1G", "1M", "3K", "7"]


def test_shares_are_rounded_half_up() -> None:
    assert [percent(*pair) for pair in ((1, 3), (2, 3), (1, 1), (0, 5), (0, 0), (1, 20_000))] == [
        "33.33 %", "66.67 %", "100.00 %", "0.00 %", "-", "0.01 %",
    ]  # fmt: skip


def alone(**changes: object) -> tuple[Result, Timeline]:
    timeline = Timeline(1)
    timeline(Switch(0, 0, IDLE, "vcpu0", "start"))
    timeline.finish(500 * US)
    one = vcpu(0, 500 * US, 0, 0, 1, Area(0, 2, 0, 0))._replace(**changes)
    return Result(0, machine.EXIT, 500 * US, 500 * US, (one,), b""), timeline


def test_one_update_alone_is_explained() -> None:
    assert notes(*alone(), Config()) == [
        "nothing else wanted the pCPU, so there was one update, the one of the registration: vcpu0"
    ]


def test_one_update_beside_a_competitor_is_not_explained_away() -> None:
    result, timeline = shared(2)
    assert not any("nothing else" in note for note in notes(result, timeline, Config()))


def test_one_update_alone_is_explained_in_a_run_shorter_than_a_quantum() -> None:
    assert len(notes(*alone(), Config(quantum_ps=10**12))) == 1


def contended(*events: Event, end_ns: int) -> tuple[Result, Timeline]:
    """vcpu0 has pCPU 0 with one update; vcpu1, which never runs, waits somewhere."""
    timeline = Timeline(2, 1)
    for event in (Switch(0, 0, IDLE, "vcpu0", "start"), *events):
        timeline(event)
    timeline.finish(end_ns)
    vcpus = (vcpu(0, end_ns, 0, 0, 1, Area(0, 2, 0, 0)), vcpu(1, 0, 0, end_ns, 0, None, 0))
    return Result(0, machine.EXIT, end_ns, end_ns, vcpus, b""), timeline


def says_alone(run: tuple[Result, Timeline], **options: object) -> bool:
    return any("nothing else" in note for note in notes(*run, Config(vcpus=2, **options)))  # type: ignore[arg-type]


def test_nothing_is_said_of_one_update_before_a_waiting_competitor_could_run() -> None:
    assert not says_alone(contended(end_ns=90 * US))


def test_nothing_is_said_of_one_update_where_a_script_kept_the_others_waiting() -> None:
    assert not says_alone(contended(end_ns=500 * US))
    assert says_alone(contended(end_ns=500 * US), pcpus=2, pin=("1=1",))  # it waited for another pCPU
    assert not says_alone(contended(end_ns=500 * US), pcpus=2, pin=("1=0",))


def test_nothing_is_said_of_one_update_where_the_vcpu_came_and_went() -> None:
    slept = (Switch(50, 0, "vcpu0", IDLE, "blocked"), Wake(60, "vcpu0"), Switch(60, 0, IDLE, "vcpu0", "wake"))
    assert not says_alone(contended(*slept, end_ns=500 * US))


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"updates": 0, "msr": 0, "area": None}, "no steal-time area was registered by vcpu0"),
        ({"updates": 4, "msr": 0, "area": None}, "updates were switched off again by vcpu0"),
        ({"updates": 0, "area": None}, "outside RAM, where nothing is published, is the area of vcpu0"),
    ],
)
def test_a_missing_area_is_explained(changes: dict[str, object], note: str) -> None:
    assert notes(*alone(**changes), Config()) == [note]
    assert "-  " in render_plain(*alone(**changes), Config())


def test_a_guest_that_writes_into_its_area_is_told_apart() -> None:
    assert notes(*alone(updates=2, area=Area(77, 4, 0, 0)), Config()) == [
        "the steal in the area is not what was published, as the guest writes there too: vcpu0 (published 0 ns)"
    ]


def same_area(area: Area, *steals: int) -> tuple[Result, Timeline]:
    result, _ = alone(area=area)
    timeline = Timeline(len(steals), len(steals))
    for number, steal in enumerate(steals):
        timeline(Switch(steal, number, IDLE, f"vcpu{number}", "start"))
        timeline(Store(steal, number, "steal-time", "odd", 0x10_0008, 4, 1))
        timeline(Store(steal, number, "steal-time", "even", 0x10_0008, 4, 2))
    timeline.finish(500 * US)
    vcpus = tuple(vcpu(number, 500 * US - steal, steal, 0, 2, area, ENABLED) for number, steal in enumerate(steals))
    return result._replace(vcpus=vcpus), timeline


def test_an_area_of_several_vcpus_is_told_as_such_and_not_as_the_guests_doing() -> None:
    assert notes(*same_area(Area(30, 8, 0, 0), 10, 20), Config(vcpus=2)) == [
        "vcpu0 and vcpu1 registered the same area, 0x100000, so both add to it"
    ]
    assert notes(*same_area(Area(60, 8, 0, 0), 10, 20, 30), Config(vcpus=3)) == [
        "vcpu0, vcpu1 and vcpu2 registered the same area, 0x100000, so all add to it"
    ]


def test_a_write_that_enables_nothing_is_told() -> None:
    assert notes(*alone(updates=0, area=None, msr=0x10_1000), Config()) == [
        "vcpu0 wrote 0x101000 to MSR_KVM_STEAL_TIME with bit 0 clear: that enables nothing"
    ]


def test_an_update_left_half_done_is_told_and_not_taken_for_the_guests_doing() -> None:
    result, _ = alone(updates=2, area=Area(0, 5, 0, 0), stolen_ns=40)
    timeline = Timeline(1)
    timeline(Switch(40, 0, IDLE, "vcpu0", "start"))
    timeline(Store(50, 0, "steal-time", "odd", 0x10_0008, 4, 5))
    timeline.finish(500 * US)
    assert notes(result, timeline, Config(host_model="other-cpu")) == [
        "the run ended in the middle of an update, so the version is odd and no reader takes the value: vcpu0"
    ]


FAULT = TripleFault(
    0, 0, None, None, 0x10_0000, "main+0x3 (a/b.c:2)", "triple fault: #DE, divide error, at main (b.c:2)"
)


def test_a_crash_is_told_by_cause_and_place_and_without_a_picture_of_no_time() -> None:
    timeline = Timeline(1)
    timeline(Switch(0, 0, IDLE, "vcpu0", "start"))
    timeline.finish(7)
    one = vcpu(0, 7, 0, 0, 0, None, 0)
    result = Result(None, machine.TRIPLE_FAULT, 7, 7, (one,), b"", FAULT)
    text = render_plain(result, timeline, Config())
    assert "at main (b.c:2), after 7 ns of virtual time" in text and "The run" not in text
    assert "The run" in render_plain(result._replace(reason=machine.EXIT, exit_code=0), timeline, Config())


def test_a_crash_after_a_shared_time_has_its_picture() -> None:
    result, timeline = shared()
    text = render_plain(result._replace(reason=machine.TRIPLE_FAULT, fault=FAULT), timeline, Config(tasks=("busy",)))
    assert "The run, 540 us" in text


def test_a_run_cut_short_says_where_each_vcpu_was_but_not_endlessly() -> None:
    result, timeline = shared()
    where = tuple(Whereabouts(number, 0x10_0023, "main+0x13", "a/loop.c:2") for number in range(20))
    result = result._replace(reason=machine.INSN_LIMIT, where=where)
    text = render_plain(result, timeline, Config(tasks=("busy",)))
    assert "\nvcpu0 was at 0x100023 <main+0x13> (loop.c:2)\n" in text
    assert text.count(" was at ") == summary.MAX_WHERE and "... and 12 vCPUs more" in text
    assert as_json(result)["where"][0] == {"vcpu": 0, "pc": 0x10_0023, "symbol": "main+0x13", "line": "a/loop.c:2"}
    assert str(Whereabouts(1, 16, "", "")) == "vcpu1 was at 0x10"


def test_a_withheld_feature_is_the_only_note() -> None:
    result, timeline = alone(updates=0, msr=0, area=None)
    assert len(notes(result, timeline, Config(without=("steal-time",)))) == 1


def test_a_run_that_took_no_time_has_a_summary() -> None:
    timeline = Timeline(1)
    timeline.finish(0)
    result = Result(None, machine.INTERRUPTED, 0, 0, (vcpu(0, 0, 0, 0, 0, None, 0),), b"")
    assert "interrupted: these are the books so far, after 0 ns" in render_plain(result, timeline, Config())


def test_sixty_four_vcpus_have_a_summary() -> None:
    timeline = Timeline(64, 64)
    for number in range(64):
        timeline(Switch(0, number, IDLE, f"vcpu{number}", "start"))
    timeline.finish(500 * US)
    vcpus = tuple(vcpu(number, 500 * US, 0, 0, 1, Area(0, 2, 0, 0)) for number in range(64))
    text = render_plain(Result(0, machine.EXIT, 500 * US, 1, vcpus, b""), timeline, Config(vcpus=64, pcpus=64))
    assert max(map(len, text.splitlines())) <= 80
    assert "... and 56 pCPUs more" in text


def test_json_has_exactly_the_promised_keys() -> None:
    result, _ = shared()
    made = json.loads(json.dumps(as_json(result)))
    assert list(made) == ["exit_code", "reason", "virtual_ns", "instructions", "vcpus", "console", "fault", "where"]
    assert made["fault"] is None and made["where"] == []
    assert list(made["vcpus"][0]) == [
        "id", "ran_ns", "stolen_ns", "idle_ns", "elapsed_ns", "instructions", "updates", "msr", "area",
    ]  # fmt: skip
    assert made["vcpus"][0]["area"] == {"steal": 200_000, "version": 6, "flags": 0, "preempted": 1}
    assert made["console"] == "hi\ufffd\n"
    assert as_json(alone(area=None)[0])["vcpus"][0]["area"] is None


def test_every_mark_has_a_colour_or_none_on_purpose() -> None:
    rows = summary.layout(*shared(600), Config(tasks=("busy",)), 80, BLOCKS)
    assert {meaning for row in rows for _, meaning in row} <= {*summary.THEME, ""}
