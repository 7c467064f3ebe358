"""Why a run of the engine ended, beside the codes of #VMEXITs (emu.vcpu.vmcb).

In Linux: nothing like it; SVM has no such exits.
"""

NO_EXIT = -1
SYSCALL, SYSENTER = -2, -3  # the engine has no intercept for them, but a hook
UNASSIGNED_FETCH = -4  # an instruction fetch from guest-physical addresses where nothing is


class EngineError(Exception):
    """The engine did what it must not; ours to mend, not the user's."""
