"""emu: an educational x86 machine with KVM's paravirtual steal-time clock.

    import emu
    machine = emu.Machine(emu.load_guest("clock"), emu.Config(vcpus=2, tasks=("busy",)))
    result = machine.run()

The names below are the public library; each is loaded when it is first used, so `import emu` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu.boot.image import Image as Image
    from emu.devices.steal_time import Area as Area
    from emu.faults import GuestFault as GuestFault
    from emu.faults import HostError as HostError
    from emu.guest import load_guest as load_guest
    from emu.history.history import History as History
    from emu.machine import Machine as Machine
    from emu.result import Result as Result
    from emu.result import VcpuResult as VcpuResult
    from emu.scenario import Config as Config
    from emu.scenario import load_scenario as load_scenario

_HOMES = {
    "Area": "emu.devices.steal_time",
    "Config": "emu.scenario",
    "GuestFault": "emu.faults",
    "History": "emu.history.history",
    "HostError": "emu.faults",
    "Image": "emu.boot.image",
    "Machine": "emu.machine",
    "Result": "emu.result",
    "VcpuResult": "emu.result",
    "load_guest": "emu.guest",
    "load_scenario": "emu.scenario",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'emu' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
