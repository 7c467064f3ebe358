"""A part that can say what it is, and become it again: so a run can be saved, walked back and branched.

A state is plain, frozen data: integers, strings, bytes, None, and tuples of these. Equal states have equal futures, as
far as the part alone decides, so states can be compared and hashed. What is fixed when a part is made (its
configuration) and whom it calls or is called by are not state.

In Linux: struct vmstate_description of QEMU, in include/migration/vmstate.h, is the same table of names.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

State = tuple[Any, ...]


class Stateful:
    """`fields` names the attributes that are state and whose values are frozen, `parts` those that are Stateful.

    A part that is not there is None, then and now. What needs more than the two lists overrides both methods.
    """

    __slots__ = ()
    fields: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[tuple[str, ...]] = ()

    def state(self) -> State:
        """What this part is, in the order of `fields` and then of `parts`."""
        kind = type(self)
        state: State = (_ways.get(kind) or _learn(kind)).out(self)
        return state

    def load(self, state: State) -> None:
        """Become what `state` says, of this part or of one that was made alike. Raises ValueError for another shape."""
        kind = type(self)
        if len(state) != len(self.fields) + len(self.parts):
            raise ValueError(f"a state of {len(state)} values is none of {kind.__name__}")
        (_ways.get(kind) or _learn(kind)).back(self, state)


class _Ways(NamedTuple):
    """Out of a part of one class, and back into one."""

    out: Callable[[Stateful], State]
    back: Callable[[Stateful, State], None]


_ways: dict[type[Stateful], _Ways] = {}


def _learn(kind: type[Stateful]) -> _Ways:
    """Put the two lists of a class into two functions: a search asks for states hundreds of thousands of times."""
    fields = [f"self.{name}" for name in kind.fields]
    parts = [f"self.{name}" for name in kind.parts]
    states = [f"state_{number}" for number in range(len(parts))]
    values = [*fields, *(f"None if {part} is None else {part}.state()" for part in parts)]
    out = ["def out(self):", f"    return ({''.join(f'{value}, ' for value in values)})"]
    back = ["def back(self, state):", f"    ({''.join(f'{name}, ' for name in (*fields, *states))}) = state"]
    for part, state in zip(parts, states, strict=True):
        back += [f"    if {part} is not None:", f"        {part}.load({state})"]
    made: dict[str, Any] = {}
    exec("\n".join([*out, *back]), made)
    ways = _ways[kind] = _Ways(made["out"], made["back"])
    return ways
