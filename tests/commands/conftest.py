"""Guests for the command line, built once, and a way to run `emu` as a user does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emu import toolchain

PROGRAMS = {
    "endless": "1: jmp 1b",
    "ticking": "1: mov rcx, 3000000\n 2: dec rcx\n jnz 2b\n mov al, 'x'\n out PORT_CONSOLE, al\n mov al, 10\n"
    " out PORT_CONSOLE, al\n jmp 1b",
    "chatter": "1: out PORT_CONSOLE, al\n jmp 1b",
    "lines": "1: mov al, 'y'\n out PORT_CONSOLE, al\n mov al, 10\n out PORT_CONSOLE, al\n jmp 1b",
    "crash": "ud2",
    "halted": "cli\n hlt",
    "status": "mov al, 77\n out PORT_EXIT, al",
    # Orders to a terminal, C1 in both forms, a right-to-left override, a line feed, a tab, UTF-8, no last newline.
    "hostile": '.section .rodata\n text: .ascii "\\033]0;pwned\\007\\033[2Jtab\\there\\r\\b\\n"\n'
    ' .byte 0xc3, 0xa9, 0xc2, 0x9b, 0x9b, 0xe2, 0x80, 0xae, 0xff\n .ascii "end"\n .byte 0\n .text\n'
    " lea rsi, [rip + text]\n 1: lodsb\n test al, al\n jz 2f\n out PORT_CONSOLE, al\n jmp 1b\n 2: out PORT_EXIT, al",
}
HOSTILE = b"\x1b]0;pwned\x07\x1b[2Jtab\there\r\x08\n\xc3\xa9\xc2\x9b\x9b\xe2\x80\xae\xffend"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `name.elf` for each of PROGRAMS."""
    folder = tmp_path_factory.mktemp("programs")
    compiler = toolchain.find_compiler()
    for name, source in PROGRAMS.items():
        path = folder / f"{name}.S"
        head = '.intel_syntax noprefix\n#include "abi.h"\n.globl _start\n.text\n_start:\n'
        path.write_text(f"{head}{source}\n", encoding="utf-8")
        toolchain.build(path, path.with_suffix(".elf"), compiler=compiler)
    return folder


@pytest.fixture
def emu() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """`emu(words...)` in a process of its own; status, stdout and stderr as bytes."""

    def run(*words: object, **options: object) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "emu", *map(str, words)]
        return subprocess.run(command, **{"capture_output": True, "timeout": 60, **options})  # type: ignore[call-overload]

    return run
