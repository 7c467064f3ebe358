"""How a vCPU is started by another one: INIT puts it back to its beginning, a start-up IPI tells it where to begin.

Both are kept until the vCPU stands still and the machine takes them. An INIT sweeps away what came before it; a
start-up IPI is lost on a vCPU that does not wait for one. The bootstrap processor does not wait: after INIT it begins
at the reset vector.

Sources: Intel SDM volume 3, chapter "Multiple-processor management" (initialization protocol).

In Linux: kvm_apic_accept_events() in arch/x86/kvm/lapic.c; the guest's side is wakeup_secondary_cpu_via_init() in
arch/x86/kernel/smpboot.c.
"""

from typing import NamedTuple

from emu.stateful import Stateful


class Init(NamedTuple):
    """Reset the vCPU. `waits`: it then waits for a start-up IPI, else it begins at the reset vector."""

    waits: bool


class Sipi(NamedTuple):
    """Begin in real mode at the page with this number: CS base `base`, selector `selector`, IP 0."""

    vector: int

    @property
    def selector(self) -> int:
        return self.vector << 8

    @property
    def base(self) -> int:
        return self.vector << 12


class Startup(Stateful):
    """One vCPU's part in it. `waiting` is the wait-for-SIPI state; `boot` marks the bootstrap processor."""

    fields = ("waiting", "_init", "_vector")

    def __init__(self, boot: bool, waiting: bool = False) -> None:
        self._boot = boot
        self.waiting = waiting
        self._init = False
        self._vector: int | None = None

    @property
    def pending(self) -> bool:
        """Whether `take` has something to say."""
        return self._init or (self._vector is not None and self.waiting)

    def init(self) -> None:
        """An INIT arrives; a start-up IPI that came before it is void."""
        self._init = True
        self._vector = None

    def sipi(self, vector: int) -> None:
        """A start-up IPI arrives; the last one before the vCPU begins counts."""
        self._vector = vector

    def take(self) -> Init | Sipi | None:
        """What happens to the vCPU next; each event once."""
        if self._init:
            self._init = False
            self.waiting = not self._boot
            return Init(self.waiting)
        vector, self._vector = self._vector, None
        if vector is None or not self.waiting:
            return None
        self.waiting = False
        return Sipi(vector)
