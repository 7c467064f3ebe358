"""Each guest's first line says how to run it, in the words of the command line."""

import re

import pytest

from emu import data

# The options of `emu run` that a guest's first line may use; none of them needs a file that the reader does not have.
OPTIONS = {"--vcpus", "--pcpus", "--task", "--policy", "--quantum", "--seed", "--host-model", "--time-limit"}


@pytest.mark.parametrize("name", data.guest_names())
def test_first_line_runs_this_guest(name: str) -> None:
    first = data.guest_sources()[name].read_text(encoding="utf-8").partition("\n")[0]
    words = re.fullmatch(r"// emu run (\w+)((?: --[a-z-]+ \S+)*)", first)
    assert words, first
    assert words[1] == name
    assert set(re.findall(r"--[a-z-]+", words[2])) <= OPTIONS
