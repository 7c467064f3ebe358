"""Asynchronous page faults: the host says that a page is away, so that the guest can do something else meanwhile.

Today: the guest is told by a #PF whose CR2 is a token, with `flags` in its area saying that this is no common fault.
When the page is back the same token stands in the area and an interrupt comes; the guest takes the token out and
acknowledges, which lets the next one through. In 2011 both were #PFs, told apart by the word called `reason` then.

Where the guest cannot be told, the vCPU is put to sleep as by HLT ("halt"): interrupts still reach it. Where it could
not be woken by an interrupt either, it simply waits for its page ("wait").

In Linux: kvm_pv_enable_async_pf(), kvm_can_do_async_pf(), kvm_arch_async_page_not_present() and
kvm_arch_async_page_present() in arch/x86/kvm/x86.c, kvm_check_async_pf_completion() in virt/kvm/async_pf.c; the guest's
side is kvm_async_pf_task_wait_schedule() and sysvec_kvm_asyncpf_interrupt() in arch/x86/kernel/kvm.c.
"""

from collections.abc import Callable
from typing import NamedTuple

from emu import abi
from emu.devices.steal_time import Load, Step
from emu.faults import HostError, general_protection
from emu.stateful import State, Stateful

PROFILES = ("kvm", "kvm-bugs", "kvm-2011")
FEATURES = (abi.KVM_FEATURE_ASYNC_PF, abi.KVM_FEATURE_ASYNC_PF_VMEXIT, abi.KVM_FEATURE_ASYNC_PF_INT)
# The names under which each can be withheld; the interface of 2011 knows the first alone.
FEATURE_NAMES = dict(zip(("async-pf", "async-pf-vmexit", "async-pf-int"), FEATURES, strict=True))
INJECT, HALT, WAIT = "inject", "halt", "wait"

_TOKEN_ID_SHIFT = 12  # below it stands the vCPU's number
_TOKENS = 1 << 32


class Missing(NamedTuple):
    """What becomes of a vCPU that has touched a page that is away.

    `action`: INJECT (perform `steps`, then raise #PF with error code 0 and CR2 = `token`), HALT or WAIT.
    """

    action: str
    token: int
    steps: tuple[Step, ...] = ()


class Ready(NamedTuple):
    """How a vCPU hears that a page is back: perform `steps`, then ask the APIC for `vector`, or raise #PF if `fault`.

    Neither where it was never told that the page is away: then it only wakes up.
    """

    token: int
    steps: tuple[Step, ...] = ()
    vector: int | None = None
    fault: bool = False


class AsyncPf(Stateful):
    """The asynchronous page faults of vCPU number `vcpu`.

    `ram_holds(gpa, size)` says whether a range is guest RAM. `profile` is one of PROFILES: `kvm-bugs` is today's KVM
    with its one defect, by which a WRMSR that is refused for its address is remembered all the same. `features` are
    those offered, by default all that the profile knows. Raises HostError for another profile.
    """

    fields = ("msr_value", "int_value", "_next_id", "_back", "_requested")

    def __init__(
        self,
        ram_holds: Callable[[int, int], bool],
        vcpu: int = 0,
        profile: str = "kvm",
        features: tuple[int, ...] | None = None,
    ) -> None:
        if profile not in PROFILES:
            raise HostError(f"there is no ABI profile {profile!r}", remedy=f"use one of {', '.join(PROFILES)}")
        self._ram_holds = ram_holds
        self._vcpu = vcpu
        self._of_2011 = profile == "kvm-2011"
        self._remembers_refused = profile == "kvm-bugs"
        if features is None:
            features = FEATURES[:1] if self._of_2011 else FEATURES
        self.features = features
        self.msrs: tuple[int, ...] = (abi.MSR_KVM_ASYNC_PF_EN,) if abi.KVM_FEATURE_ASYNC_PF in features else ()
        if abi.KVM_FEATURE_ASYNC_PF_INT in features:
            self.msrs += (abi.MSR_KVM_ASYNC_PF_INT, abi.MSR_KVM_ASYNC_PF_ACK)
        self._next_id = 0
        self._away: dict[int, bool] = {}  # token -> whether the guest was told
        self._back: tuple[int, ...] = ()
        self.reset()

    def state(self) -> State:
        return (*super().state(), tuple(sorted(self._away.items())))

    def load(self, state: State) -> None:
        super().load(state[:-1])
        self._away = dict(state[-1])

    @property
    def reserved_mask(self) -> int:
        """The bits of MSR_KVM_ASYNC_PF_EN that must be clear."""
        mask = abi.KVM_ASYNC_PF_RESERVED_MASK
        if self._of_2011 or abi.KVM_FEATURE_ASYNC_PF_VMEXIT not in self.features:
            mask |= abi.KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT
        if self._of_2011 or abi.KVM_FEATURE_ASYNC_PF_INT not in self.features:
            mask |= abi.KVM_ASYNC_PF_DELIVERY_AS_INT
        return mask

    @property
    def enabled(self) -> bool:
        """Whether the guest can be told: it wants to be and, today, takes the second message by interrupt."""
        return self._enables(self.msr_value)

    @property
    def area_gpa(self) -> int:
        """Where the area is, or was last, or would be: the MSR's address bits."""
        return self.msr_value & abi.KVM_ASYNC_PF_ADDRESS_MASK

    @property
    def due(self) -> bool:
        """Whether `deliver` may have something to tell."""
        return bool(self._back) and (self._of_2011 or self._requested)

    @property
    def wakes(self) -> bool:
        """Whether a page has come back that is not dealt with: reason enough to end a halt."""
        return bool(self._back)

    def rdmsr(self, msr: int) -> int:
        """The last value accepted; the register of acknowledgements reads 0. Raises GuestFault for any other MSR."""
        self._check(msr)
        if msr == abi.MSR_KVM_ASYNC_PF_EN:
            return self.msr_value
        return self.int_value if msr == abi.MSR_KVM_ASYNC_PF_INT else 0

    def wrmsr(self, msr: int, value: int) -> None:
        """Enable or disable, choose the vector, or acknowledge; raises GuestFault to refuse, and then changes nothing.

        Refused are reserved bits, and enabling with an area outside RAM (which `kvm-bugs` remembers nevertheless).
        """
        self._check(msr)
        if msr == abi.MSR_KVM_ASYNC_PF_EN:
            self._write_enable(value)
        elif msr == abi.MSR_KVM_ASYNC_PF_INT:
            if value & ~abi.KVM_ASYNC_PF_VEC_MASK:
                raise general_protection()
            self.int_value = value
        elif value & abi.KVM_ASYNC_PF_ACK_BIT:
            self.request()

    def request(self) -> None:
        """Look again whether a message can be delivered: acknowledged, or the APIC was enabled."""
        self._requested = True

    def reset(self) -> None:
        """The vCPU is reset: nothing is registered, and no page is waited for."""
        self.msr_value = 0
        self.int_value = 0
        self._forget()

    def new_token(self) -> int:
        """A token for the next page: never 0, and no other vCPU's."""
        if self._next_id << _TOKEN_ID_SHIFT & _TOKENS - 1 == 0:
            self._next_id = 1
        token = (self._next_id << _TOKEN_ID_SHIFT) % _TOKENS | self._vcpu
        self._next_id += 1
        return token

    def page_not_present(self, token: int, *, cpl: int, paging: bool, interruptible: bool, pending: bool) -> Missing:
        """This vCPU needs a page that is away; `token` will name it until `page_ready`.

        `interruptible`: IF is set and no shadow holds interrupts off. `pending`: an exception or interrupt is on its
        way already. Where the answer is WAIT, the page is no concern of this device. As in KVM, nobody looks whether
        `flags` of the previous fault has been cleared: the store is the same.
        """
        if pending or not interruptible:
            return Missing(WAIT, token)
        told = self._can_tell(cpl, paging)
        self._away[token] = told
        if not told:
            return Missing(HALT, token)
        reason = Step("apf-flags", self.area_gpa + abi.KVM_APF_FLAGS, 4, abi.KVM_PV_REASON_PAGE_NOT_PRESENT)
        return Missing(INJECT, token, (reason,))

    def page_ready(self, token: int) -> None:
        """The page is back. Ignored where the guest has disabled this since, or was reset: nobody waits for it."""
        if token in self._away:
            self._back += (token,)
            self.request()

    def deliver(self, load: Load, *, apic_enabled: bool, interruptible: bool, pending: bool) -> Ready | None:
        """Before an entry, while `due`: the next page that is back, None where it is not its turn yet.

        Today a message waits until the guest has taken the last token out of the area, and until its APIC is enabled
        by software; that of 2011, until a #PF may interrupt it.
        """
        self._requested = False
        if not self._back:
            return None
        if self.enabled:
            free = interruptible and not pending if self._of_2011 else apic_enabled and self._slot_free(load)
            if not free:
                return None
        token, self._back = self._back[0], self._back[1:]
        told = token == abi.KVM_APF_WAKE_ALL or self._away.pop(token, False)
        self._requested = bool(self._back)
        if not self.enabled or not self._in_ram(self.area_gpa) or not (told or self._of_2011):
            return Ready(token)
        if self._of_2011:
            reason = Step("apf-flags", self.area_gpa + abi.KVM_APF_FLAGS, 4, abi.KVM_PV_REASON_PAGE_READY)
            return Ready(token, (reason,), fault=True)
        return Ready(token, (Step("apf-token", self.area_gpa + abi.KVM_APF_TOKEN, 4, token),), vector=self.int_value)

    def _write_enable(self, value: int) -> None:
        if value & self.reserved_mask:
            raise general_protection()
        if self._enables(value) and not self._in_ram(value & abi.KVM_ASYNC_PF_ADDRESS_MASK):
            if self._remembers_refused:
                self.msr_value = value
            raise general_protection()
        self.msr_value = value
        if not self.enabled:
            self._forget()
        elif not self._back:
            # The guest may have forgotten tokens that it was told under another registration: wake them all.
            self._back = (abi.KVM_APF_WAKE_ALL,)
            self.request()

    def _enables(self, value: int) -> bool:
        wanted = abi.KVM_ASYNC_PF_ENABLED
        if not self._of_2011:
            wanted |= abi.KVM_ASYNC_PF_DELIVERY_AS_INT
        return value & wanted == wanted

    def _can_tell(self, cpl: int, paging: bool) -> bool:
        if not self.enabled or not self._in_ram(self.area_gpa):
            return False
        if cpl == 0 and not self.msr_value & abi.KVM_ASYNC_PF_SEND_ALWAYS:
            return False
        return paging or self._of_2011  # today real mode, whose IDT hardly has a #PF handler, is spared

    def _slot_free(self, load: Load) -> bool:
        return self._in_ram(self.area_gpa) and load(self.area_gpa + abi.KVM_APF_TOKEN, 4) == 0

    def _forget(self) -> None:
        self._away.clear()
        self._back = ()
        self._requested = False

    def _in_ram(self, gpa: int) -> bool:
        return self._ram_holds(gpa, abi.KVM_APF_SIZE)

    def _check(self, msr: int) -> None:
        if msr not in self.msrs:
            raise general_protection()
