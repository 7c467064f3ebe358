"""Tables of a TOML file against a declaration of their fields: each slip gets the place and the remedy.

In Linux: scripts/kconfig reads its language from such a declaration.
"""

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from emu.faults import HostError
from emu.scenario import did_you_mean

REQUIRED: Any = object()


class Field(NamedTuple):
    """A key: `take` turns a TOML value into ours or raises ValueError with what it must be; `help` says what it is."""

    name: str
    take: Callable[[Any], Any]
    help: str
    default: Any = REQUIRED


def taken(table: object, fields: Iterable[Field], where: str) -> dict[str, Any]:
    """The values of `fields` in a TOML table, defaults filled in. Raises HostError, naming the key below `where`."""
    declared = {field.name: field for field in fields}
    if not isinstance(table, Mapping):
        raise HostError("this must be a table", where, f"with the keys {', '.join(declared)}")
    for key in table:
        if key not in declared:
            raise HostError(f"there is no key {key!r}", where, did_you_mean(key, declared))
    found: dict[str, Any] = {}
    for name, field in declared.items():
        if name not in table:
            if field.default is REQUIRED:
                raise HostError(f"{name} is missing", where, f"it is {field.help}")
            found[name] = field.default
            continue
        try:
            found[name] = field.take(table[name])
        except ValueError as reason:
            raise HostError(f"{name} must be {reason}", where, f"it is {field.help}") from None
    return found


def number(low: int, high: int) -> Callable[[Any], int]:
    """A whole number from `low` to `high`."""

    def take(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return take


def text(most: int) -> Callable[[Any], str]:
    """Text in quotes that is not empty, of at most `most` characters."""

    def take(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= most:
            raise ValueError(f"text in quotes, of 1 to {most} characters")
        return value

    return take


def flag(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def one_of(*names: str) -> Callable[[Any], str]:
    """One of these names."""

    def take(value: Any) -> str:
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return str(value)

    return take


def list_of(item: Callable[[Any], Any], least: int = 0) -> Callable[[Any], tuple[Any, ...]]:
    """A list, each item of which `item` takes; no item twice."""

    def take(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise ValueError(f"a list{f' of at least {least}' if least else ''}")
        found = []
        for one in value:
            try:
                found.append(item(one))
            except ValueError as reason:
                raise ValueError(f"a list, each item {reason} ({one!r} is not)") from None
        if len(set(found)) < len(found):
            raise ValueError("a list without repetitions")
        return tuple(found)

    return take


def moment(value: Any) -> datetime.datetime:
    """A date and time with its distance from UTC."""
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        raise ValueError("a date and time with its offset, such as 2026-12-01T23:59:00+01:00")
    return value
