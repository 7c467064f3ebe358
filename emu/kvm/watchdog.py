"""Somebody who looks whether an entry ever ends.

In Linux: kernel/watchdog.c looks after the kernel's own CPUs in the same way.
"""

import threading

from emu.kvm.vcpu import Vcpu

STUCK_SECONDS = 5


class Watchdog:
    """Calls a vCPU back that has been inside one entry for too long. Nothing may hang, whatever a sequence does."""

    def __init__(self) -> None:
        self._vcpu: Vcpu | None = None
        self._entries = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="judge-watchdog", daemon=True)
        self._thread.start()

    def over(self, vcpu: Vcpu) -> "Watchdog":
        self._vcpu = vcpu
        self._entries += 1
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._vcpu = None

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        last = -1
        while not self._closed.wait(STUCK_SECONDS):
            entries, vcpu = self._entries, self._vcpu
            if vcpu is not None and entries == last:
                vcpu.kick()
            last = entries
