"""The system calls that a confined program is refused, as a program for the kernel's own filter.

The list names what is refused, not what is allowed: interpreters, compilers and C libraries change what they need, and
what they must not have is known. Files are refused here too: without O_CREAT no path can be made, on any file system.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h. In Linux: kernel/seccomp.c, and
Documentation/userspace-api/seccomp_filter.rst.
"""

import errno
import platform
import struct
from typing import NamedTuple

_LD_WORD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x10000
_O_CREAT = 0o100
_X32 = 0x40000000


class Calls(NamedTuple):
    """One architecture: its AUDIT_ARCH, and numbers of system calls by what they do."""

    audit: int
    never: tuple[int, ...]  # of other processes, of the network, of the kernel itself
    absent: tuple[int, ...]  # as if the kernel had none: the C library has another way
    fork: tuple[int, ...]
    clone: int
    make: tuple[int, ...]  # paths
    open: tuple[tuple[int, int], ...]  # (number, which argument has the flags)


_X86 = Calls(
    audit=0xC000003E,
    # memory that outlives a process or is not seen in it; sockets; signals and ptrace; mounts, namespaces, modules,
    # keys, bpf, perf, io_uring and the like
    never=(
        29, 64, 68, 240, 319, *range(41, 56), 62, 101, 103, 134, 136, 153, 154, 155, 156, 159, 161, 163, 164,
        165, 166, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 180, 200, 227, 234, 237, 238, 246, 248, 249,
        250, 256, 272, 279, 288, 298, 299, 300, 301, 303, 304, 305, 307, 308, 310, 311, 312, 313, 320, 321, 323,
        424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 443,
    ),
    absent=(435, 437),  # clone3, openat2: their arguments are in memory, where a filter cannot look
    fork=(57, 58),
    clone=56,
    make=(82, 83, 85, 86, 88, 133, 258, 259, 264, 265, 266, 316),
    open=((2, 1), (257, 2)),
)  # fmt: skip
_ARM = Calls(
    audit=0xC00000B7,
    never=(
        194, 190, 186, 180, 279, *range(198, 213), 242, 243, 269, 39, 40, 41, 51, 60, 97, 104, 105, 106, 112,
        117, 129, 130, 131, 142, 161, 162, 170, 171, 217, 218, 219, 224, 225, 235, 238, 239, 240, 241, 262, 264,
        265, 266, 268, 270, 271, 272, 273, 280, 282, 294, 424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434,
        438, 440, 442, 443,
    ),
    absent=(435, 437),
    fork=(),
    clone=220,
    make=(33, 34, 36, 37, 38, 276),
    open=((56, 2),),
)  # fmt: skip
_MACHINES = {"x86_64": _X86, "aarch64": _ARM}


def available() -> bool:
    """Whether the numbers of this machine's system calls are known."""
    return platform.machine() in _MACHINES


def program(*, processes: bool, files: bool) -> bytes:
    """The filter, as an array of struct sock_filter: without `processes` nothing can be forked, without `files` no
    path can be made. Threads can."""
    calls = _MACHINES[platform.machine()]
    code: list[tuple[int, int, int, int]] = [
        (_LD_WORD, 0, 0, _ARCH),
        (_JEQ, 1, 0, calls.audit),
        (_RETURN, 0, 0, _KILL),
        (_LD_WORD, 0, 0, _NUMBER),
    ]
    if calls is _X86:
        code += [(_JGE, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]  # x32 numbers would go by the list
    refused = set(calls.never)
    if not processes:
        refused |= set(calls.fork)
    if not files:
        refused |= set(calls.make)
    for number in sorted(refused):
        code += _returning(number, _ERRNO | errno.EPERM)
    for number in calls.absent:
        if number != 437 or not files:
            code += _returning(number, _ERRNO | errno.ENOSYS)
    if not processes:
        # A thread is a clone too.
        code += _unless_flags(calls.clone, 0, _CLONE_THREAD, wanted=True)
    if not files:
        for number, argument in calls.open:
            code += _unless_flags(number, argument, _O_CREAT, wanted=False)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *one) for one in code)


def _returning(number: int, verdict: int) -> list[tuple[int, int, int, int]]:
    return [(_JEQ, 0, 1, number), (_RETURN, 0, 0, verdict)]


def _unless_flags(number: int, argument: int, flags: int, *, wanted: bool) -> list[tuple[int, int, int, int]]:
    """Refuse this call unless its argument has these flags (`wanted`), or has them not. The lower half tells."""
    low = _ARGUMENTS + 8 * argument
    return [
        (_JEQ, 0, 4, number),
        (_LD_WORD, 0, 0, low),
        (_JSET, *((1, 0) if wanted else (0, 1)), flags),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LD_WORD, 0, 0, _NUMBER),
    ]
