"""Pictures that are kept: what a person would see, compared with a file that a person has looked at.

    EMU_GOLDEN=write python -m pytest tests/view/test_pictures.py tests/report/test_page.py

writes them anew; look at the difference before it is committed.
"""

import difflib
import os
from pathlib import Path


def writing() -> bool:
    return os.environ.get("EMU_GOLDEN") == "write"


def same(path: Path, text: str) -> None:
    """Compare with the picture in this file, or write it there."""
    if writing():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    kept = path.read_text(encoding="utf-8")
    difference = "\n".join(difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "now", lineterm="", n=0))
    assert text == kept, f"{path.name} looks different; if it should, write it anew with EMU_GOLDEN=write\n{difference}"
