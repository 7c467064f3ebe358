"""A part that can say what it is, and become it again: so a run can be saved, walked back and branched.

A state is plain, frozen data: integers, strings, bytes, None, and tuples of these. Equal states have equal futures, as
far as the part alone decides, so states can be compared and hashed. What is fixed when a part is made (its
configuration) and whom it calls or is called by are not state.

In Linux: struct vmstate_description of QEMU, in include/migration/vmstate.h, is the same table of names.
"""

from typing import Any, ClassVar

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
        state = tuple([getattr(self, name) for name in self.fields])
        if self.parts:
            found = [getattr(self, name) for name in self.parts]
            state += tuple([None if part is None else part.state() for part in found])
        return state

    def load(self, state: State) -> None:
        """Become what `state` says, of this part or of one that was made alike. Raises ValueError for another shape."""
        if len(state) != len(self.fields) + len(self.parts):
            raise ValueError(f"a state of {len(state)} values is none of {type(self).__name__}")
        for name, value in zip(self.fields, state, strict=False):
            setattr(self, name, value)
        for name, value in zip(self.parts, state[len(self.fields) :], strict=True):
            part = getattr(self, name)
            if part is not None:
                part.load(value)
