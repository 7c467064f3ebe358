"""emu: an educational x86 machine with KVM's paravirtual steal-time clock.

    import emu
    machine = emu.Machine(emu.load_guest("clock"), emu.Config(vcpus=2, tasks=("busy",)))
    result = machine.run()

The names below are the public library; each is loaded when it is first used, so `import emu` costs next to nothing.
"""

TYPE_CHECKING = False  # typing would take longer to load than all of this
if TYPE_CHECKING:
    from typing import Any

    from emu.boot.image import Image as Image
    from emu.devices.steal_time import Area as Area
    from emu.faults import GuestFault as GuestFault
    from emu.faults import HostError as HostError
    from emu.guest import load_guest as load_guest
    from emu.history.history import History as History
    from emu.history.recording import Recording as Recording
    from emu.history.recording import load_recording as load_recording
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
    "Recording": "emu.history.recording",
    "Result": "emu.result",
    "VcpuResult": "emu.result",
    "load_guest": "emu.guest",
    "load_recording": "emu.history.recording",
    "load_scenario": "emu.scenario",
}
# What shows itself in a notebook, and the function that draws it: the parts of a machine know nothing of pages.
_SHOWN = {"History": "of_history", "Machine": "of_machine", "Recording": "of_recording"}
__all__ = [*_HOMES]


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module 'emu' has no attribute {name!r}")
    import importlib

    home = importlib.import_module(_HOMES[name])
    for shown, drawer in _SHOWN.items():
        if _HOMES[shown] == _HOMES[name]:
            getattr(home, shown)._repr_html_ = _drawn_by(drawer)
    value = getattr(home, name)
    globals()[name] = value
    return value


def _drawn_by(drawer: str) -> "Any":
    def _repr_html_(one: "Any") -> str:
        import importlib

        drawn: str = getattr(importlib.import_module("emu.report.notebook"), drawer)(one)
        return drawn

    return _repr_html_


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
