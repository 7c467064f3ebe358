"""A user's own Python, named on a command line as FILE.py:NAME. It is code, and runs as the user does.

In Linux: nothing like it; perf script takes a user's Python in the same way.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from emu.faults import HostError


def own(word: str, what: str) -> Any:
    """What FILE.py:NAME names, which is to be a `what`. The file is executed, and may import what lies beside it.

    Raises HostError where there is no such thing, or the file fails.
    """
    file, colon, name = word.rpartition(":")
    path = Path(file)
    if not colon or not path.is_file():
        raise HostError("there is no such file", file or word, "write it as FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise HostError("this is no Python file", file, "write it as FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise HostError(f"this file cannot be executed ({type(error).__name__}: {error})", file) from None
    finally:
        sys.path.pop(0)
    if not hasattr(module, name):
        raise HostError(f"there is no {what} {name!r} in it", file)
    return getattr(module, name)
