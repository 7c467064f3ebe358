"""Spin, on Promela models of the readers, comes to the verdicts of the table; `make prove-explore` asks it of all."""

import shutil
from pathlib import Path

import pytest

from tests.explore.readers import TABLE
from tests.explore.spin import READERS, verdict

ASKED = [
    ("seqlock", 64, "other-cpu"),
    ("seqlock", 32, "other-cpu"),
    ("no_check", 64, "kvm"),
    ("no_check", 64, "other-cpu"),
    ("odd_only", 32, "kvm"),
    ("change_only", 64, "other-cpu"),
    ("version_late", 64, "other-cpu"),
    ("gives_up", 32, "kvm"),
    ("stale_version", 64, "kvm"),
]


@pytest.mark.parametrize(("name", "bits", "host_model"), ASKED)
def test_spin_agrees(name: str, bits: int, host_model: str, tmp_path: Path) -> None:
    missing = [tool for tool in ("spin", "cc") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"there is no {missing[0]} here (on Debian: apt install spin gcc)")
    line = TABLE[name]
    expected = (line[:2] if bits == 64 else line[2:4])[host_model == "other-cpu"]
    assert verdict(name, bits, host_model, tmp_path) == expected


def test_at_least_five_readers_have_models() -> None:
    assert len(READERS) >= 5 and READERS.keys() <= TABLE.keys()
