"""The table of options: every spelling of a value that is refused, and scenario files, good and broken."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import data
from emu.faults import HostError
from emu.scenario import BY_NAME, MAX_TEXT, OPTIONS, Config, check, from_text, load_scenario

SETTINGS = settings(derandomize=True, deadline=None, database=None)

# A value that differs from the default, as text and as what it is read to.
GOOD = {
    "vcpus": ("2", 2),
    "pcpus": ("3", 3),
    "task": ("busy", ("busy",)),
    "policy": ("fair", "fair"),
    "quantum": ("10us", 10_000_000),
    "seed": ("0", 0),
    "pin": ("0=1", ("0=1",)),
    "weight": ("0=2", ("0=2",)),
    "ram": ("8M", 8 << 20),
    "host-model": ("other-cpu", "other-cpu"),
    "store-gap": ("1,2", (1, 2)),
    "steal-store": ("halves", "halves"),
    "swap": ("buffer:at=1ms,in=200us", ("buffer:at=1ms,in=200us",)),
    "abi": ("kvm-2011", "kvm-2011"),
    "without": ("steal-time", ("steal-time",)),
    "lax-cpuid": ("true", True),
    "start": ("bsp", "bsp"),
    "mode": ("real", "real"),
    "ps-per-insn": ("500", 500),
    "tsc-khz": ("1e6", 1_000_000),
    "interleave": ("2us", 2_000_000),
    "time-limit": ("1s", 10**12),
    "insn-limit": ("1_000", 1000),
    "exit-limit": ("1e3", 1000),
    "output-limit": ("64K", 64 << 10),
}
NUMBERS = ["vcpus", "pcpus", "seed", "ps-per-insn", "tsc-khz", "insn-limit", "exit-limit", "store-gap"]
DURATIONS = ["quantum", "interleave", "time-limit"]
SIZES = ["ram", "output-limit"]
NAMES = ["policy", "host-model", "steal-store", "abi", "without", "start", "mode"]


def refusal(name: str, text: str) -> HostError:
    with pytest.raises(HostError) as caught:
        from_text({name: [text]})
    assert caught.value.where == f"--{name}"
    return caught.value


def test_every_option_has_a_good_value_here():
    assert {option.name for option in OPTIONS} == {*GOOD, "script"}


@pytest.mark.parametrize("name", GOOD)
def test_good_value_is_read(name):
    text, value = GOOD[name]
    assert getattr(from_text({name: [text]}), BY_NAME[name].field) == value


@pytest.mark.parametrize("name", [one for one in GOOD if one not in ("task", "swap")])  # their grammar is the host's
@pytest.mark.parametrize("text", ["", " ", "nonsense", "-1", "½", "\0", "0x10", "1.5", "∞"])
def test_nonsense_is_refused_by_every_option(name, text):
    refusal(name, text)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["٣", "²", "1e", "e9", "1e1e1", "1e999999999", "9" * 5000, "1e-3", "+1"])
def test_only_plain_digits_and_small_exponents_are_numbers(name, text):
    refusal(name, text)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "text", ["0ms", "10", "10 ms", "1.5ms", "٣ms", "1h", "ms", "-1ms", "9" * 30 + "s", "9" * 5000 + "ns"]
)
def test_only_whole_positive_bounded_durations_are_taken(name, text):
    refusal(name, text)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("text", ["0M", "16", "16MB", "٣M", "M", "999999999999G", "9" * 5000 + "M", "-1M"])
def test_only_whole_bounded_sizes_are_taken(name, text):
    refusal(name, text)


@pytest.mark.parametrize("text", ["4095K", "4097K", "3073M", "1G1"])
def test_ram_is_whole_pages_within_what_can_be_had(text):
    refusal("ram", text)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_name_is_refused_with_the_names_there_are(name):
    assert GOOD[name][0] in refusal(name, "nonsense").message


@pytest.mark.parametrize("name", [option.name for option in OPTIONS if not option.repeats and option.name != "script"])
def test_option_given_twice_is_refused(name):
    text = GOOD[name][0]
    with pytest.raises(HostError, match="given 2 times"):
        from_text({name: [text, text]})


@pytest.mark.parametrize("name", ["pin", "weight"])
def test_vcpu_named_twice_is_refused(name):
    with pytest.raises(HostError, match="named twice"):
        from_text({name: ["1=1", "01=0"]})


def test_tasks_add_up():
    assert from_text({"task": ["busy", "busy:weight=2"]}).tasks == ("busy", "busy:weight=2")


@SETTINGS
@given(st.sampled_from([option.name for option in OPTIONS if option.name != "script"]), st.text(max_size=12))
def test_any_text_is_read_or_refused_in_one_line(name, text):
    try:
        from_text({name: [text]})
    except HostError as error:
        assert error.where == f"--{name}" and "\n" not in error.message


# --- scenario files ---


def scenario(folder: Path, text: str | bytes) -> Path:
    path = folder / "scenario.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def broken(folder: Path, text: str | bytes) -> HostError:
    path = scenario(folder, text)
    with pytest.raises(HostError) as caught:
        load_scenario(path)
    assert caught.value.where.startswith(str(path))
    return caught.value


def test_scenario_takes_every_option(tmp_path):
    (tmp_path / "who.txt").write_text("0 vcpu0 1ms\n")
    lines = [f'{name} = "{text}"' for name, (text, _) in GOOD.items()]
    found = load_scenario(scenario(tmp_path, "\n".join(['guest = "clock"', 'script = "who.txt"', *lines])))
    assert found.guest == "clock"
    for name, (_, value) in GOOD.items():
        assert getattr(found.config, BY_NAME[name].field) == value
    assert found.config.script == (str(tmp_path / "who.txt"), "0 vcpu0 1ms\n")


def test_scenario_takes_numbers_and_lists_as_toml_has_them(tmp_path):
    text = 'vcpus = 2\nseed = 18446744073709551615\nstore-gap = [0, 3]\ntask = ["busy", "busy:weight=2"]\npin = []\n'
    found = load_scenario(scenario(tmp_path, text)).config
    assert (found.vcpus, found.seed, found.store_gap) == (2, (1 << 64) - 1, (0, 3))
    assert (found.tasks, found.pin) == (("busy", "busy:weight=2"), ())


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("'true'", True)])
def test_flag_in_a_scenario_is_true_or_false(tmp_path, text, value):
    assert load_scenario(scenario(tmp_path, f"lax-cpuid = {text}")).config.lax_cpuid is value


def test_empty_scenario_is_the_default(tmp_path):
    assert load_scenario(scenario(tmp_path, "")) == (None, Config())


def test_flags_win_over_the_scenario(tmp_path):
    base = load_scenario(scenario(tmp_path, 'vcpus = 2\ntask = ["busy", "busy"]\nseed = 7\n')).config
    found = from_text({"vcpus": ["4"], "task": ["busy:weight=3"]}, base)
    assert (found.vcpus, found.tasks, found.seed) == (4, ("busy:weight=3",), 7)


def test_guest_with_a_path_lies_beside_the_scenario(tmp_path):
    assert load_scenario(scenario(tmp_path, 'guest = "sub/x.elf"')).guest == str(tmp_path / "sub" / "x.elf")


def test_guest_with_an_absolute_path_stays(tmp_path):
    assert load_scenario(scenario(tmp_path, 'guest = "/x.elf"')).guest == "/x.elf"


def test_bare_guest_is_a_file_beside_the_scenario_else_a_shipped_one(tmp_path):
    path = scenario(tmp_path, 'guest = "clock"')
    assert load_scenario(path).guest == "clock"
    (tmp_path / "clock").touch()
    assert load_scenario(path).guest == str(tmp_path / "clock")


def test_unknown_key_is_answered_with_the_one_it_resembles(tmp_path):
    assert broken(tmp_path, "vcpu = 2").remedy == "did you mean vcpus?"
    assert broken(tmp_path, "time_limit = '1s'").remedy == "did you mean time-limit?"
    assert "vcpus" in broken(tmp_path, "zzzzzz = 2").remedy


BROKEN = {
    "syntax": ("vcpus = ", "not TOML"),
    "duplicate key": ("vcpus = 1\nvcpus = 2", "not TOML"),
    "boolean": ("vcpus = true", "true or false"),
    "number for a flag": ("lax-cpuid = 1", "must be true or false"),
    "list for a flag": ("lax-cpuid = [true]", "a list"),
    "fraction": ("vcpus = 1.5", "fraction"),
    "date": ("quantum = 1979-05-27", "a date or time"),
    "table": ("[vcpus]\nx = 1", "a table"),
    "inline table": ("task = [{a = 1}]", "a table"),
    "array of tables": ("[[task]]\nkind = 'busy'", "a table"),
    "nested list": ("task = [['busy']]", "a list"),
    "list for one value": ("vcpus = [1]", "a list"),
    "empty gaps": ("store-gap = []", "cannot be used"),
    "huge number": ("seed = 18446744073709551616", "so large a number"),
    "number no int can print": ("seed = 0x" + "f" * 9000, "so large a number"),
    "number no str can read": ("seed = " + "9" * 9000, "cannot be used"),
    "guest that is a number": ("guest = 3", "in quotes"),
    "guest that is empty": ("guest = ''", "in quotes"),
    "bad value": ("policy = 'lottery'", "must be"),
    "not UTF-8": (b"guest = '\xff'", "not text in UTF-8"),
    "script that is not there": ("script = 'nowhere'", "cannot be read"),
    "script that is a list": ("script = ['a', 'b']", "a list"),
    "too long": (b"#" * (MAX_TEXT + 1), "longer than"),
}


@pytest.mark.parametrize(("text", "word"), BROKEN.values(), ids=BROKEN)
def test_broken_scenario_is_refused_with_its_place(tmp_path, text, word):
    assert word in str(broken(tmp_path, text))


def test_nesting_beyond_the_readers_stack_is_refused(tmp_path):
    broken(tmp_path, "task = " + "[" * 100_000)


def test_script_is_read_once_and_keeps_its_place(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "s").write_text("0 vcpu0 1ms\n")
    assert load_scenario(scenario(tmp_path, "script = 'deep/s'")).config.script == (
        str(tmp_path / "deep/s"),
        "0 vcpu0 1ms\n",
    )


@pytest.mark.parametrize("name", ["", "nowhere.toml", "."])
def test_scenario_that_is_no_file_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HostError):
        load_scenario(name)


@pytest.mark.skipif(sys.platform == "win32", reason="no such device")
def test_device_in_place_of_a_scenario_does_not_keep_one_waiting():
    with pytest.raises(HostError, match="not a file"):
        load_scenario("/dev/zero")


def test_byte_order_mark_is_no_error(tmp_path):
    assert load_scenario(scenario(tmp_path, b"\xef\xbb\xbfvcpus = 2")).config.vcpus == 2


def test_shipped_demonstration_is_the_one_the_readme_shows():
    found = load_scenario(data.guests_dir() / "demo.toml")
    assert found.guest == "clock"
    assert (found.config.vcpus, found.config.pcpus, found.config.tasks) == (2, 1, ("busy",))


# --- configurations made in Python ---


def test_default_configuration_is_in_order():
    check(Config())


@pytest.mark.parametrize("name", GOOD)
def test_what_a_flag_gives_python_may_give_too(name):
    check(from_text({name: [GOOD[name][0]]}))


NEVER = [-1, "nonsense", 2.5, True, [], ("nonsense", 1, 2), object()]
REFUSED = [(field, one) for field in Config._fields for one in NEVER if (field, one) != ("lax_cpuid", True)]


@pytest.mark.parametrize(("field", "value"), [*REFUSED, ("lax_cpuid", 1), ("lax_cpuid", "true")])
def test_value_that_no_flag_could_give_is_refused_with_its_field(field, value):
    with pytest.raises(HostError) as caught:
        check(Config()._replace(**{field: value}))
    assert caught.value.where == f"Config.{field}"
