"""Files on their way into a sandbox: bytes as text in JSON.

In Linux: nothing like it.
"""

import base64
from collections.abc import Mapping


def text(content: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(content).decode("ascii")


def content(text: str) -> bytes:
    """And back. Raises ValueError where it is none."""
    return base64.b64decode(text, validate=True)


def packed(files: Mapping[str, bytes]) -> dict[str, str]:
    """Files by name as text."""
    return {name: text(one) for name, one in files.items()}


def unpacked(files: Mapping[str, str]) -> dict[str, bytes]:
    """And back."""
    return {name: content(one) for name, one in files.items()}
