"""Start-up of the command, and memory per vCPU."""

import os
import subprocess
import sys
import time
from statistics import median

RUNS = 20
_BASELINE = "import unicorn, capstone"
_MEMORY = """
import resource, sys
import emu
from tests.bench.programs import TIGHT, image
machine = emu.Machine(image(TIGHT), emu.Config(vcpus=int(sys.argv[1]), insn_limit=10000, ram=64 << 20))
machine.run()
try:
    # The process's own peak: what getrusage tells includes the moment before exec, when it was a copy of its parent.
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].split()[0])
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def startup() -> tuple[float, float]:
    """Milliseconds of `emu run hello` and of importing unicorn and capstone alone: medians, the two taken in turn."""
    command, baseline = [], []
    for _ in range(RUNS):
        baseline.append(_wall([sys.executable, "-c", _BASELINE]))
        command.append(_wall([sys.executable, "-m", "emu", "run", "hello"]))
    return median(command) * 1e3, median(baseline) * 1e3


def kib_per_vcpu() -> float:
    """Resident memory that each further vCPU costs, from machines of 1 and of 33."""
    few, many = (int(_output([sys.executable, "-c", _MEMORY, str(vcpus)])) for vcpus in (1, 33))
    return (many - few) / 32


def _wall(command: list[str]) -> float:
    # As users have it: Python keeps compiled modules between runs, whatever this shell says.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
