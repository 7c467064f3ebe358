"""The lanes of the stepper: what a column says is what the events of its time said."""

from emu.guest import load_guest
from emu.history.history import History
from emu.scenario import Config
from emu.trace import Event, ExitEvent, Store, Switch, Wake
from emu.view.courses import EXIT, ODD, RUNS, SLEEPS, UPDATE, WAITS, States, survey


def test_each_column_tells_the_exits_updates_and_odd_versions_of_its_time() -> None:
    config = Config(host_model="other-cpu", store_gap=(40,), tasks=("busy",))
    events: list[Event] = []
    history = History(load_guest("clock"), config, trace=events.append)
    history.end()
    courses = survey(history)
    column, width = 10, 120
    lanes = {lane.name: lane.marks for lane in courses.lanes(0, column, width)}
    odd = False
    for number, mark in enumerate(lanes["area"]):
        first = number * column
        inside = [event for event in events if first <= event.t < first + column]
        stores = [event.step for event in inside if isinstance(event, Store)]
        at_first = [event.step for event in events if isinstance(event, Store) and event.t <= first]
        odd = bool(at_first) and [step for step in at_first if step in ("odd", "even")][-1:] == ["odd"]
        exits = any(isinstance(event, ExitEvent) for event in inside)
        assert mark == (UPDATE if "even" in stores else ODD if odd else EXIT if exits else " ")
    assert {UPDATE, ODD, EXIT} <= set(lanes["area"]) and set(lanes["vcpu0"]) <= {RUNS, WAITS}


def test_who_is_woken_while_it_runs_goes_on_running() -> None:
    states = States()
    assert states(Switch(0, 0, "idle", "vcpu0", "start")) == [("vcpu0", RUNS)]
    assert states(Wake(5, "vcpu0")) == []
    assert states(Switch(9, 0, "vcpu0", "idle", "blocked")) == [("vcpu0", SLEEPS)]
    assert states(Wake(12, "vcpu0")) == [("vcpu0", WAITS)]
    assert states(Wake(13, "task0")) == [("task0", WAITS)]
