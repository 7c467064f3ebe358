"""The build hook of the wheel and the source archive: which guests are packed, and where they lie in it.

Sources always; compiled guests only as reference builds, the same bytes on every machine, and only where they have
been built before (`make reference`). What this machine's own compiler made never leaves it.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GuestsHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable install finds the guests in the checkout itself.
        if version == "editable":
            return
        guests = Path(self.root, "guests")
        references = guests.glob("build/reference/*.elf")
        if self.target_name == "sdist":
            packed, prefix = references, "guests"
        else:
            sources = (path for pattern in ("*.*", "include/*") for path in guests.glob(pattern) if path.is_file())
            packed, prefix = (path for group in (sources, references) for path in group), "emu/_data/guests"
        for path in packed:
            build_data["force_include"][str(path)] = f"{prefix}/{path.relative_to(guests).as_posix()}"
