"""Assembling snippets for tests: text in Intel syntax to the bytes that stand at a given address.

The compiler is the one guests are built with; relocations are applied here, so that no linker is asked and many
snippets cost one call of the assembler.
"""

import functools
import io
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from emu import toolchain

_R_64, _R_PC32, _R_PLT32, _R_32, _R_32S, _R_16, _R_PC16 = 1, 2, 4, 10, 11, 12, 13
_SIZES = {_R_64: 8, _R_PC32: 4, _R_PLT32: 4, _R_32: 4, _R_32S: 4, _R_16: 2, _R_PC16: 2}
_RELATIVE = (_R_PC32, _R_PLT32, _R_PC16)


@functools.cache
def _compiler() -> toolchain.Compiler:
    return toolchain.find_compiler()


@functools.cache
def assemble(source: str, at: int = 0x100000, bits: int = 64) -> bytes:
    """The code of one snippet, linked to run at `at`."""
    return assemble_all((source,), at, bits)[0]


def assemble_all(sources: tuple[str, ...], at: int, bits: int) -> list[bytes]:
    """The code of each snippet, every one of them linked to run at `at`. Labels are shared: make them unique."""
    text = [".intel_syntax noprefix"]
    for number, source in enumerate(sources):
        text += [f'.section .snippet{number},"ax",@progbits', f".code{bits}", source]
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder, "snippets.S"), Path(folder, "snippets.o")
        path.write_text("\n".join(text) + "\n", encoding="utf-8")
        compiler = _compiler()
        command = (*compiler.command, *compiler.targets[64], "-c", str(path), "-o", str(output))
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder, check=False)
        assert run.returncode == 0, run.stderr
        elf = ELFFile(io.BytesIO(output.read_bytes()))
    symbols = elf.get_section_by_name(".symtab")
    names = [f".snippet{number}" for number in range(len(sources))]
    return [_linked(elf, symbols, name, at) for name in names]


def _linked(elf: ELFFile, symbols: Any, name: str, at: int) -> bytes:
    code = bytearray(elf.get_section_by_name(name).data())
    relocations = elf.get_section_by_name(f".rela{name}")
    for relocation in relocations.iter_relocations() if relocations else ():
        kind, place = relocation["r_info_type"], relocation["r_offset"]
        symbol = symbols.get_symbol(relocation["r_info_sym"])
        value = relocation["r_addend"] + symbol["st_value"] + at
        if kind in _RELATIVE:
            value -= at + place
        size = _SIZES[kind]
        code[place : place + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(code)
