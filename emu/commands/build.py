"""`emu build`: from a guest's C or assembler source to an ELF file that `emu run` takes."""

from pathlib import Path

from emu import toolchain
from emu.commands.flags import Once, Parser
from emu.faults import HostError

_EPILOG = """The first compiler that works is taken: $CC, gcc or clang, else the zig that `pip install ziglang` brings.
The source is linked with emu's start code, which calls main on every vCPU:

  #include "guest.h"
  int main(uint32_t cpu, uint32_t ncpus)      the vCPU's number, and how many there are

guest.h has the console, CPUID and MSRs, steal.h the steal clock. There is no C library: put_text() prints.

example:
  emu build my_guest.c && emu run my_guest.elf
"""


def main(arguments: list[str]) -> int:
    """Run `emu build` with these words."""
    parser = Parser("build", "Build a guest from C or GNU-syntax assembler.", _EPILOG)
    parser.add_argument("source", metavar="FILE", help="a .c or .S file; a name that ends in 32 makes a 32-bit guest")
    parser.add_argument(
        "-o", "--output", action=Once, metavar="ELF", help="where to put the ELF file (default: beside the source)"
    )
    parsed = parser.parse(arguments)
    source, output = _places(parsed.source, parsed.output)
    toolchain.build(source, output, bits=toolchain.bits_of(source))
    print(output)
    return 0


def _places(source_name: str, output_name: str | None) -> tuple[Path, Path]:
    source = Path(source_name)
    try:
        if source.is_dir():
            raise HostError("this is a folder, not a source file", source_name)
        if not source.is_file():
            raise HostError("there is no such file", source_name)
        output = Path(output_name) if output_name is not None else source.with_suffix(".elf")
        if output.is_dir() or output_name == "":
            raise HostError("this is a folder", output_name or "--output", "name the ELF file to be made")
        if not output.parent.is_dir():
            raise HostError("there is no such folder", str(output.parent), "make it first, or name another with -o")
        if output.exists() and output.samefile(source):
            raise HostError("the ELF file would replace its own source", str(output), "name another with -o")
    except OSError as error:
        raise HostError(f"there can be no such file ({error.strerror})", source_name) from None
    return source, output
