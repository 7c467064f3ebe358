"""Random numbers with a place in them: the sequence is fixed by the seed, so where one stands in it is all the state.

The sequence is that of Python's Mersenne Twister in words of 32 bits, which is the same on every version of Python.
"""

import random
from array import array

from emu.stateful import Stateful

_BITS = 32


class Draws(Stateful):
    """What `random.Random(seed)` would draw, one after another."""

    __slots__ = ("_at", "_generator", "_words")
    fields = ("_at",)

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)
        self._words = array("I")  # the sequence as far as anybody has looked at it: 4 bytes a word
        self._at = 0

    def below(self, limit: int) -> int:
        """A whole number from 0 to `limit` - 1, each as likely as any other; `limit` is positive."""
        bits = limit.bit_length()
        while (drawn := self._draw(bits)) >= limit:
            pass  # at most every second time
        return drawn

    def _draw(self, bits: int) -> int:
        drawn = 0
        for low in range(0, bits, _BITS):
            drawn |= self._word() >> max(0, _BITS - (bits - low)) << low
        return drawn

    def _word(self) -> int:
        at = self._at
        while at >= len(self._words):
            self._words.append(self._generator.getrandbits(_BITS))
        self._at = at + 1
        return self._words[at]
