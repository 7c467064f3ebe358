"""Options that change nothing are noted; those that change something never are."""

import pytest

from emu.commands.without_effect import without_effect
from emu.scenario import Config

LOOP = ("who.txt", "0 vcpu0 1us # loop\n0 vcpu1 1us\nloop\n")
ONCE = ("who.txt", "0 vcpu0 1us # loop\n")
IDLE = {
    "--weight": [{"weight": ("0=2",)}, {"weight": ("0=2",), "policy": "random"}],
    "--store-gap": [{"store_gap": (4,)}],
    "--seed": [{"seed": 7}, {"seed": 7, "host_model": "other-cpu", "store_gap": (4,)}],
    "--quantum": [{"quantum_ps": 5000, "policy": "script", "script": LOOP}],
    "--interleave": [{"interleave_ps": 5000}],
    "--lax-cpuid": [{"lax_cpuid": True}],
    "the weight in --task busy:weight=2": [{"tasks": ("busy", "busy:weight=2")}],
}
MEANT = [
    {},
    {"tasks": ("busy",), "vcpus": 3, "quantum_ps": 5000},
    {"weight": ("0=2",), "tasks": ("busy:weight=2",), "policy": "fair"},
    {"store_gap": (4,), "host_model": "other-cpu"},
    {"seed": 7, "policy": "random"},
    {"seed": 7, "host_model": "other-cpu"},
    {"quantum_ps": 5000, "policy": "script", "script": ONCE},
    {"quantum_ps": 5000, "policy": "script", "script": LOOP, "pcpus": 2},
    {"interleave_ps": 5000, "pcpus": 2},
    {"lax_cpuid": True, "without": ("pv-eoi",)},
]


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, several in IDLE.items() for options in several]
)
def test_option_that_changes_nothing_is_named(name, options):
    (sentence,) = without_effect(Config(**options))
    assert sentence.startswith(f"{name} has no effect ")


@pytest.mark.parametrize("options", MEANT)
def test_option_that_matters_is_not(options):
    assert without_effect(Config(**options)) == []
