"""Guests for tests: assembled once by whatever compiler is there, and kept between runs by the hash of their source."""

import functools
import hashlib
from collections.abc import Callable

from emu import data, toolchain
from emu.boot.elf import elf_image
from emu.boot.image import Image
from emu.machine import Machine
from emu.result import Result
from emu.scenario import Config
from emu.trace import Event

_HEAD = '.intel_syntax noprefix\n#include "abi.h"\n.text\n.globl _start\n_start:\n'


@functools.cache
def _compiler() -> toolchain.Compiler:
    return toolchain.find_compiler()


@functools.cache
def assembled(source: str, bits: int = 64) -> Image:
    """The image of an assembler program, entered at its first line."""
    text = _HEAD + source + "\n"
    name = hashlib.sha256(repr((text, bits, str(_compiler()), _abi())).encode()).hexdigest()[:24]
    folder = data.build_dir() / "tests"
    elf = folder / f"{name}.elf"
    if not elf.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.S"
        path.write_text(text, encoding="utf-8")
        toolchain.build(path, elf, bits=bits, compiler=_compiler())
    return elf_image(elf.read_bytes(), "test program")


@functools.cache
def _abi() -> bytes:
    return (data.guests_dir() / "include" / "abi.h").read_bytes()


class Recorded:
    """A finished run: its result, machine and events."""

    def __init__(self, image: Image, config: Config, each: Callable[[Machine], None] | None = None) -> None:
        self.events: list[Event] = []
        self.machine = Machine(image, config, trace=self.events.append)
        self.result: Result = self.machine.run(each)

    def of(self, kind: type) -> list:
        return [event for event in self.events if type(event) is kind]

    @property
    def console(self) -> str:
        return self.result.console.decode()


def gate(vector: int, handler: str) -> str:
    """Assembler that fills in the 64-bit interrupt gate of `vector` in the guest's table `idt`; uses RAX and RDI."""
    return f"""
    lea rax, [rip + {handler}]
    lea rdi, [rip + idt + 16 * {vector}]
    mov [rdi], ax
    mov word ptr [rdi + 2], SELECTOR_CODE64
    mov word ptr [rdi + 4], 0x8e00
    shr rax, 16
    mov [rdi + 6], ax
    shr rax, 16
    mov [rdi + 8], eax
"""


def run(source: str, bits: int = 64, each: Callable[[Machine], None] | None = None, **options: object) -> Recorded:
    """Run an assembler program with these configuration fields."""
    return Recorded(assembled(source, bits), Config(**options), each)


def run_guest(name: str, each: Callable[[Machine], None] | None = None, **options: object) -> Recorded:
    """Run a shipped guest with these configuration fields."""
    path = data.guest_path(name)
    return Recorded(elf_image(path.read_bytes(), name), Config(**options), each)


EXIT = "out PORT_EXIT, al\n"

# Registers the area at `area` and leaves RBX pointing at it.
REGISTER = """
    lea rbx, [rip + area]
    mov rax, rbx
    or rax, KVM_MSR_ENABLED
    mov rdx, rax
    shr rdx, 32
    mov ecx, MSR_KVM_STEAL_TIME
    wrmsr
"""

AREA = """
.bss
.balign 64
area: .skip 64
.text
"""
