"""Pages of the guest's that the host has taken away: who is told so, who waits, and how they come back.

A vCPU that touches one exits with a nested page fault. If its guest has agreed to asynchronous page faults, it is told
by a #PF with a token, and goes on with other work; else it sleeps until the page is there. Either way the host begins
to read. When the page is back, whoever was told is told again, and whoever slept wakes up.

The bytes of a page that is away stay in RAM: what the host needs of them it has at once, and brings the page back.

In Linux: kvm_faultin_pfn() in arch/x86/kvm/mmu/mmu.c, virt/kvm/async_pf.c.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from emu import abi, exits
from emu.boot.image import Image
from emu.code.symbols import Symbols
from emu.devices.async_pf import HALT, WAIT, AsyncPf, Missing, Ready
from emu.faults import HostError
from emu.host.scheduler import Scheduler
from emu.host.swap import Swap, parse_swap
from emu.package import Package
from emu.recorder import Recorder
from emu.scenario import Config
from emu.stateful import State
from emu.vcpu.engine import Engine


class Waiter(NamedTuple):
    """A vCPU that needs a page: it sleeps for it, or has a token for it (0: it sleeps)."""

    vcpu: int
    token: int


class AbsentPages:
    """What `config.swap` takes from the guest of `image`. `now` tells virtual time in picoseconds.

    Raises HostError for a page that there is not.
    """

    def __init__(
        self,
        config: Config,
        image: Image,
        engine: Engine,
        packages: Sequence[Package],
        host: Scheduler,
        recorder: Recorder,
        now: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._packages = packages
        self._host = host
        self._recorder = recorder
        self._now = now
        self._swaps = [_resolve(text, image, config.ram) for text in config.swap]
        self._next = [swap.next_ps(-1) for swap, _ in self._swaps]
        self._back_ps: dict[int, int | None] = {}  # page -> when it is back; None while nobody has asked
        self._reading: dict[int, int] = {page: swap.in_ps for swap, page in self._swaps}
        self._waiters: dict[int, list[Waiter]] = {}

    @property
    def any(self) -> bool:
        """Whether a page is away."""
        return bool(self._back_ps)

    @property
    def back_due_ps(self) -> int | None:
        """When the next page comes back: the one thing here that can wake a vCPU."""
        return min((due for due in self._back_ps.values() if due is not None), default=None)

    @property
    def away_due_ps(self) -> int | None:
        """When the next page is taken away."""
        return min((due for due in self._next if due is not None), default=None)

    def state(self) -> State:
        waiters = tuple([(page, tuple(waiting)) for page, waiting in sorted(self._waiters.items())])
        return tuple(self._next), tuple(sorted(self._back_ps.items())), waiters

    def load(self, state: State) -> None:
        following, back, waiters = state
        self._next = list(following)
        for page in self._back_ps:
            self._engine.nested.bring_back(page)
        self._back_ps = dict(back)
        for page in self._back_ps:
            self._engine.nested.take_away(page)
        self._waiters = {page: list(waiting) for page, waiting in waiters}

    def away(self, gpa: int) -> bool:
        """Whether the page of `gpa` is away now."""
        return gpa & -abi.PAGE_SIZE in self._back_ps

    def fire(self, now_ps: int) -> int:
        """Take away and bring back what is due by `now_ps`; how much that was."""
        done = 0
        for page, due in sorted(self._back_ps.items()):
            if due is not None and due <= now_ps:
                self._bring_back(page, due)
                done += 1
        for index, (swap, page) in enumerate(self._swaps):
            due = self._next[index]
            if due is not None and due <= now_ps:
                self._next[index] = swap.next_ps(now_ps)
                done += 1
                if page not in self._back_ps:
                    self._take_away(page)
        return done

    def touched(self, package: Package, exit_: exits.NestedFault) -> Missing:
        """A vCPU needs the page at `exit_.gpa`: the host begins to read it. What becomes of the vCPU.

        Where the answer is to tell the guest, the caller does so.
        """
        page = exit_.gpa & -abi.PAGE_SIZE
        if self._back_ps[page] is None:
            self._back_ps[page] = self._now() + self._reading[page]
        waiters = self._waiters.setdefault(page, [])
        missing = self._ask(package, exit_, waiters)
        self._recorder.missed(package, page, exit_.access, missing.action, missing.token)
        if missing.action == WAIT:
            package.waiting = True
            waiters.append(Waiter(package.number, 0))
        elif missing.token:
            waiters.append(Waiter(package.number, missing.token))
        return missing

    def _ask(self, package: Package, exit_: exits.NestedFault, waiters: list[Waiter]) -> Missing:
        device, vcpu = package.async_pf, package.vcpu
        if device is None:
            return Missing(WAIT, 0)
        if any(waiter.vcpu == package.number for waiter in waiters):
            return Missing(HALT if vcpu.interruptible() else WAIT, 0)  # told already, and here again
        missing = device.page_not_present(
            device.new_token(),
            cpl=vcpu.cpl(),
            paging=bool(vcpu.paging().cr0 & abi.CR0_PG),
            interruptible=vcpu.interruptible(),
            pending=exit_.delivering,
        )
        return Missing(WAIT, 0) if missing.action == WAIT else missing

    def host_needs(self, gpa: int, size: int) -> None:
        """The host itself reads or writes there: it has the page at once."""
        for page in range(gpa & -abi.PAGE_SIZE, gpa + size, abi.PAGE_SIZE):
            if page in self._back_ps:
                self._bring_back(page, self._now())

    def told(self, device: AsyncPf, package: Package) -> Ready | None:
        """The next page that this vCPU can be told is back, before it is entered."""
        vcpu, lapic = package.vcpu, package.lapic
        return device.deliver(
            self._engine.ram.load,
            apic_enabled=lapic.software_enabled,
            interruptible=vcpu.interruptible(),
            pending=False,
        )

    def _take_away(self, page: int) -> None:
        self._back_ps[page] = None
        self._engine.nested.take_away(page)
        self._engine.flush_tlb()
        self._recorder.swapped(page, "out")

    def _bring_back(self, page: int, at_ps: int) -> None:
        del self._back_ps[page]
        self._engine.nested.bring_back(page)
        self._engine.flush_tlb()
        self._recorder.swapped(page, "in")
        for waiter in self._waiters.pop(page, ()):
            package = self._packages[waiter.vcpu]
            if not waiter.token:
                package.waiting = False
            elif package.async_pf is not None:
                package.async_pf.page_ready(waiter.token)
                if not package.async_pf.wakes or package.waiting or package.lapic.startup.waiting:
                    continue
                package.parked = False
            self._host.wake(package.number, at_ps)


def _resolve(text: str, image: Image, ram: int) -> tuple[Swap, int]:
    where = f"--swap {text}"
    swap = parse_swap(text, where)
    try:
        gpa = int(swap.page, 0)
    except ValueError:
        found = Symbols.of(image.source).address(swap.page)
        if found is None:
            remedy = "name one, or an address such as 0x203000"
            raise HostError(f"the guest has no symbol {swap.page!r}", where, remedy) from None
        gpa = found
    if not 0 <= gpa < ram:
        raise HostError(f"{gpa:#x} is outside the guest's {ram:#x} bytes of RAM", where, "name an address in it")
    return swap, gpa & -abi.PAGE_SIZE
