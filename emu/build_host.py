"""The host that a configuration describes: its pCPUs, policy, vCPUs and tasks, read from the options' text.

In Linux: sched_init() in kernel/sched/core.c, which no option reaches; taskset and nice come later.
"""

from collections.abc import Iterable

from emu.faults import HostError
from emu.host.policy import policy_from
from emu.host.scheduler import Scheduler
from emu.host.script import parse_script
from emu.host.task import parse_task
from emu.host.turn import Observer
from emu.scenario import Config


def build_host(config: Config, observer: Observer) -> Scheduler:
    """The host that `config` describes. Raises HostError, with the option's name, for what it cannot be."""
    tasks = [parse_task(text, f"--task {text}") for text in config.tasks]
    pins, weights = _numbered(config.pin, "--pin", config), _numbered(config.weight, "--weight", config)
    script = None
    if config.script is not None:
        where, text = config.script
        counts = {"pcpus": config.pcpus, "vcpus": config.vcpus, "tasks": len(tasks)}
        script = parse_script(text, where, **counts, ps_per_insn=config.ps_per_insn, quantum_ps=config.quantum_ps)
    policy = policy_from(config.policy, config.quantum_ps, config.seed, script, "--policy")
    host = Scheduler(config.pcpus, policy, config.interleave_ps, observer)
    for number in range(config.vcpus):
        waiting_for_start = config.start == "bsp" and number > 0
        host.add_vcpu(pcpu=pins.get(number), weight=weights.get(number, 1), blocked=waiting_for_start)
    for task in tasks:
        host.add_task(task)
    return host


def _numbered(texts: Iterable[str], where: str, config: Config) -> dict[int, int]:
    found = {}
    for text in texts:
        vcpu, _, value = text.partition("=")
        if int(vcpu) >= config.vcpus:
            there_are = f"the guest has {config.vcpus}, numbered from 0"
            raise HostError(f"there is no vCPU {vcpu}", f"{where} {text}", there_are)
        found[int(vcpu)] = int(value)
    return found
