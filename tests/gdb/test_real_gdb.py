"""A session of the real gdb, forward and back, with every answer compared."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emu import data

SCRIPT = """
set pagination off
set confirm off
set style enabled off
target remote :{port}
info threads
break main
continue
p cpu
p $rip == &main
info registers rdi rsi
delete
stepi
stepi
stepi
p $rip != &main
reverse-stepi
reverse-stepi
reverse-stepi
p $rip == &main
watch steal_areas[0].version
continue
p steal_areas[0].version
continue
p steal_areas[0].version
p steal_areas[0].steal
reverse-continue
p steal_areas[0].version
reverse-continue
p steal_areas[0].version
delete
p $kvm_steal_time
thread 2
p $rdi
thread 1
set var $r15 = 0x77
p $r15
set var steal_areas[1].pad[3] = 5
p steal_areas[1].pad[3]
x/2xw &steal_areas[1].pad[3]
monitor schedule
monitor steal
reverse-continue
continue
info mem
detach
quit
"""


def test_session_of_real_gdb(tmp_path: Path) -> None:
    if shutil.which("gdb") is None:
        pytest.skip("there is no gdb here (on Debian: apt install gdb)")
    server = subprocess.Popen(
        [sys.executable, "-m", "emu", "gdb", "clock", "--vcpus", "2", "--task", "busy", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    port = server.stdout.readline().rsplit(":", 1)[1].strip()
    script = tmp_path / "session.gdb"
    script.write_text(SCRIPT.format(port=port))
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-x", str(script), str(data.guest_path("clock"))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    out = done.stdout
    server.wait(timeout=20)
    assert server.returncode == 0, done.stderr
    assert "Error" not in done.stderr and "error" not in done.stderr, done.stderr
    values = re.findall(r"^\$\d+ = (.*)$", out, re.MULTILINE)
    assert values[:4] == ["0", "1", "1", "1"]
    # Forward the new value, and backwards the one before the change.
    assert values[4:9] == ["2", "4", values[6], "2", "0"]
    assert int(values[6]) > 0
    assert out.count("Hardware watchpoint") >= 5 and "Old value = 0\nNew value = 2" in out
    assert "Old value = 4\nNew value = 2" in out and "Old value = 2\nNew value = 0" in out
    # One step before the first update the area was registered already: its address, and the enable bit.
    assert int(values[9]) % 64 == 1 and values[10:] == ["1", "119", "5"]
    assert "vcpu1" in out and "No more reverse-execution history." in out
    assert "steal" in out and "rw nocache" in out and "detached" in out


def test_lines_of_the_script_are_many() -> None:
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) >= 30
    assert SCRIPT.count("reverse-") >= 6
