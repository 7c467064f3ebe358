"""What a name on the command line stands for: a guest, or a scenario with one in it."""

import os

from emu.scenario import Config, Scenario, load_scenario


def scenario_of(guest: str | None, path: str | None) -> tuple[str | None, Scenario]:
    """The scenario file, if there is one, and what is to be run. A guest that is named wins over the file's."""
    if path is None and guest is not None:
        if guest.endswith(".toml"):
            path, guest = guest, None
        elif guest == os.path.basename(guest) and not os.path.isfile(guest):
            from emu import data

            shipped = data.scenario_path(guest)
            if shipped is not None:
                path, guest = str(shipped), None
    if path is None:
        return None, Scenario(guest, Config())
    loaded = load_scenario(path)
    return path, Scenario(loaded.guest if guest is None else guest, loaded.config)
