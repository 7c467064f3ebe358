"""Instructions counted one by one: exact wherever a run stops, and slow.

For runs that are short, that somebody listens to, or in which something rare has happened. Long ones are counted by
blocks (emu.vcpu.blocks).

In Linux: what a monitor trap flag or TF is for in KVM_SET_GUEST_DEBUG with KVM_GUESTDBG_SINGLESTEP.
"""

import ctypes
from typing import TYPE_CHECKING

from unicorn.unicorn_const import UC_ERR_FETCH_PROT, UC_ERR_FETCH_UNMAPPED, UC_ERR_OK

from emu.vcpu import vmcb
from emu.vcpu.exit_codes import NO_EXIT, UNASSIGNED_FETCH, EngineError

if TYPE_CHECKING:
    from emu.vcpu.engine import Engine

_BLOCK_COUNT = 8  # in uc_tb, where a block's count of instructions is


class OneByOne:
    """Counts for `engine`. `before` are those counted that are not the guest's, or, below 0, those that the guest had
    retired when the engine was started again."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.before = 0
        self._short_block: int | None = None
        self._watching = False

    def emulate(self, rip: int, insns: int, count: int, before: int) -> int:
        """Run for `count` instructions that are counted; `before` of them are not the guest's, or, below 0, so many
        have been retired already. The guest's that were retired, or `insns` where nothing ended the run."""
        engine = self._engine
        self.before = before
        self._watching = True
        error = self.start(rip, count)
        while self._short_block is not None and error == UC_ERR_OK and not self._ended():
            done = self._finish_store(self._short_block)
            before, count = before - done, count - done
            self.before = before
            if not count:
                self._watching = False
                return insns
            error = self.start(engine.read_rip(), count)
        self._watching = False
        if error != UC_ERR_OK:
            if error not in (UC_ERR_FETCH_PROT, UC_ERR_FETCH_UNMAPPED):
                raise EngineError(f"the engine stopped with error {error} after entering at {rip:#x}")
            engine.exit_code = UNASSIGNED_FETCH
            return engine.counted - before
        if not self._ended():
            counted = engine.counted - 1
            if counted != count:
                raise EngineError(f"the engine retired {counted} of {count} instructions and gave no reason")
            return insns
        counter = engine.counter
        if engine.exit_code >= 0 and engine.exit_code != vmcb.EXIT_VINTR:
            counter -= 1  # the intercepted instruction was counted, but has not been executed
        return counter - before

    def start(self, rip: int, count: int) -> int:
        """Run for so many counted instructions, whatever they are; the engine's error."""
        self._short_block = None
        blocks = self._engine.blocks
        return self._engine.start(rip, count) if blocks is None else blocks.start(rip, count)

    def stops_before(self, made: int) -> bool:
        """Whether a run is to stop before the block that the engine has just made; `made` is where it tells of it."""
        if not self._watching or ctypes.c_uint16.from_address(made + _BLOCK_COUNT).value != 1:
            return False
        self._short_block = ctypes.c_uint64.from_address(made).value
        return True

    def _ended(self) -> bool:
        return self._engine.exit_code != NO_EXIT or self._engine.port is not None

    def _finish_store(self, linear: int) -> int:
        """The instructions really retired where the engine has stopped before a block of one at `linear`.

        Such a block is made in two cases. An instruction that ends a block may stand alone. Or a store has fallen into
        the block it stands in: then the engine gives that block up, goes back before the store and does it again by
        itself, counting it twice; which it must not, since where blocks begin depends on where entries are cut.
        """
        engine, counted = self._engine, self._engine.counter
        alone = engine.uc.ctl_request_cache(linear)[1] == 1
        if alone:
            return counted
        # A store into its own block is attempted, given up and done again, which counts two, only if the block that
        # begins here has the stored-to bytes as well.
        self._watching = False
        engine.hidden()
        engine.settle_flags()
        rip = engine.read_rip()
        self.start(rip, 1)
        if engine.read_rip() == rip:
            self.start(rip, 2)
        # So that the next time will be noticed too: the block of one must be made anew.
        engine.uc.ctl_remove_cache(linear, linear + 1)
        self._watching = True
        return counted
