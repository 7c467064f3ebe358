"""Options that were given and change nothing: better said than left to be wondered about."""

from collections.abc import Callable

from emu.host.task import parse_task
from emu.scenario import BY_FIELD, Config


def without_effect(config: Config) -> list[str]:
    """A sentence for each option that differs from its default although nothing here depends on it."""
    default = Config()
    return [
        f"--{BY_FIELD[field].name} has no effect {why}"
        for field, applies, why in _RULES
        if getattr(config, field) != getattr(default, field) and not applies(config)
    ] + _weights_of_tasks(config)


def _weights_of_tasks(config: Config) -> list[str]:
    if config.policy == "fair":
        return []
    weighted = [text for text in config.tasks if parse_task(text, f"--task {text}").weight != 1]
    return [f"the weight in --task {text} has no effect without --policy fair" for text in weighted]


def _is_random(config: Config) -> bool:
    return config.policy == "random" or (config.host_model == "other-cpu" and not config.store_gap)


def _has_quanta(config: Config) -> bool:
    """Round robin follows a script that ends; one that loops never comes to it."""
    if config.policy != "script" or config.script is None:
        return True
    words = [line.partition("#")[0].split() for line in config.script[1].split("\n")]
    return ["loop"] not in words or _has_unplanned_pcpus(config, words)


def _has_unplanned_pcpus(config: Config, words: list[list[str]]) -> bool:
    return len({line[0] for line in words if len(line) == 3}) < config.pcpus


_RULES: tuple[tuple[str, Callable[[Config], bool], str], ...] = (
    ("weight", lambda config: config.policy == "fair", "without --policy fair"),
    ("store_gap", lambda config: config.host_model == "other-cpu", "without --host-model other-cpu"),
    ("seed", _is_random, "as nothing here is random: --policy random is, and --host-model other-cpu"),
    ("quantum_ps", _has_quanta, "under a script that loops"),
    ("lax_cpuid", lambda config: bool(config.without), "without --without, as nothing is withheld"),
    ("interleave_ps", lambda config: config.pcpus > 1, "with one pCPU"),
)
