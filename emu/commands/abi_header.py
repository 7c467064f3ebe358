"""`emu abi-header`: the numbers of emu.abi as a C header, for guests."""

from emu.abi_header import c_header
from emu.commands.flags import Parser


def main(arguments: list[str]) -> int:
    """Run `emu abi-header` with these words."""
    Parser("abi-header", "Print abi.h: every number a guest may rely on.").parse(arguments)
    print(c_header(), end="")
    return 0
