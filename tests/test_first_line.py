"""Each guest's first line says how to run it, in words that the command line understands; its second, what it shows."""

import re

import pytest

from emu import data
from emu.scenario import OPTIONS

READERS = {f"--{option.name}": option.read for option in OPTIONS}


@pytest.mark.parametrize("name", data.guest_names())
def test_first_line_runs_this_guest(name: str) -> None:
    first = data.guest_sources()[name].read_text(encoding="utf-8").partition("\n")[0]
    words = re.fullmatch(r"// emu run ([\w/]+)((?: --[a-z-]+ \S+)*)", first)
    assert words, first
    assert words[1] == name
    for option, value in re.findall(r"(--[a-z-]+) (\S+)", words[2]):
        READERS[option](value)


@pytest.mark.parametrize("name", data.guest_names())
def test_second_line_is_one_short_sentence(name: str) -> None:
    _, second, third = data.guest_sources()[name].read_text(encoding="utf-8").splitlines()[:3]
    assert re.fullmatch(r"// \S.*[.?]", second) and not re.search(r"[.?!] ", second), second
    assert len(second) <= 100 and third in ("", "//")
