"""Three endless loops as machine code, for speed: tight (registers), memory (loads and stores), branchy."""

from emu import abi
from emu.boot.image import Image, flat_image

DATA = 0x200000

# add rax, rcx; xor rdx, rax; lea rbx, [rax + rdx * 2]; ror rbx, 7; dec rcx; jmp
TIGHT = bytes.fromhex("4801c84831c2488d1c5048c1cb0748ffc9ebed")

# mov rsi, DATA; loop: mov rax, [rsi]; add rax, rcx; mov [rsi+8], rax; add rsi, 16; and esi, 0xfff0; or esi, DATA;
# dec rcx; jmp loop
MEMORY = (
    b"\x48\xc7\xc6"
    + DATA.to_bytes(4, "little")
    + bytes.fromhex("488b064801c8488946084883c61081e6f0ff000081ce")
    + DATA.to_bytes(4, "little")
    + bytes.fromhex("48ffc9ebe1")
)

# imul rax, rax, 1103515245; add rax, 12345; test eax, 0x10000; jz +5; inc rbx; jmp +3; dec rdx;
# test eax, 0x20000; jz +5; call +5 (below); dec rcx; jmp loop; f: add rsi, rax; ret
BRANCHY = bytes.fromhex(
    "4869c06d4ec641480539300000a900000100740548ffc3eb0348ffcaa9000002007405e80500000048ffc9ebd34801c6c3"
)

PROGRAMS = {"tight": TIGHT, "memory": MEMORY, "branchy": BRANCHY}


def image(code: bytes) -> Image:
    """A long-mode guest of `code`, with its data in NX pages."""
    return flat_image(code, "bench", "long")


ENTRY = abi.GUEST_GPA
