"""A vCPU's thread, and its books: to Linux, a vCPU is a thread like any other, and that is where steal comes from.

In Linux: vcpu_run() in arch/x86/kvm/x86.c; sched_info_arrive() in kernel/sched/stats.h counts the run delay.
"""

import threading
import time
from collections.abc import Callable

from emu.kvm.vcpu import KICKED, Vcpu

_ANSWER_SECONDS = 1


class VcpuThread(threading.Thread):
    """Enters `vcpu` until `over()`; `complete(vcpu, reason)` does what an exit asks for, `failed(error)` hears why not.

    `entries` counts KVM_RUN. `ran_ns`, `stolen_ns` and `elapsed_ns` are its books, once it has ended.
    """

    def __init__(
        self,
        vcpu: Vcpu,
        over: Callable[[], bool],
        complete: Callable[[Vcpu, int], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name=f"vcpu{vcpu.number}", daemon=True)
        self.vcpu = vcpu
        self._over = over
        self._complete = complete
        self._failed = failed
        self.entries = 0
        self._inside = False
        self.ran_ns = self.stolen_ns = self.elapsed_ns = 0
        self._tid = 0
        self._asked = False
        self._answered = threading.Event()
        self._asleep_for_ever = False

    def run(self) -> None:
        begin = time.monotonic_ns()
        try:
            self.vcpu.adopt()
            self._tid = threading.get_native_id()
            self._loop()
        except BaseException as error:  # a thread has nobody above it to catch this
            self._failed(error)
        finally:
            self._answered.set()
            self.elapsed_ns = time.monotonic_ns() - begin
            self.ran_ns, self.stolen_ns = time.thread_time_ns(), _run_delay_ns()

    def _loop(self) -> None:
        vcpu = self.vcpu
        while not self._over():
            self.entries += 1
            self._inside = True
            reason = vcpu.enter()
            self._inside = False
            if reason != KICKED:
                self._complete(vcpu, reason)
            elif self._asked:
                self._asked = False
                self._asleep_for_ever = vcpu.asleep_for_ever()
                self._answered.set()

    def asleep(self) -> bool:
        """Whether it sleeps inside KVM_RUN, as Linux says: neither running nor waiting for a CPU."""
        if not self._inside or not self._tid:
            return False
        try:
            with open(f"/proc/self/task/{self._tid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] == b"S"
        except OSError:
            return False

    def ask(self) -> None:
        """Have it come back from KVM_RUN and find out whether anything can wake its vCPU."""
        self._answered.clear()
        self._asked = True
        self.vcpu.kick()

    def answer(self) -> bool:
        """What it found; False where it did not answer in time, or has ended."""
        return self._answered.wait(_ANSWER_SECONDS) and self._asleep_for_ever and self.is_alive()


def _run_delay_ns() -> int:
    """The calling thread's run delay: how long it was runnable and waited for a CPU."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1])
    except (OSError, IndexError):
        return 0  # a kernel without sched_info, whose KVM offers no steal time either
