"""The report on a triple fault: a sentence on each question a student has, then the evidence.

In Linux: show_regs() in arch/x86/kernel/dumpstack.c and dump_vmcb() in arch/x86/kvm/svm/svm.c.
"""

import textwrap

from emu import abi
from emu.code.disassembly import LONGEST, Line, disassemble, leading_up
from emu.diagnosis import cause, words
from emu.diagnosis.scene import Scene
from emu.exits import Exit
from emu.machine import Machine
from emu.state import SEGMENTS

BEFORE, AFTER = 5, 4
MAX_CALLERS = 6
WIDTH, MIN_WIDTH = 100, 40
_FUNCTION_MAX = 1 << 14  # bytes of a function that are read again to find the instructions before
_STACK_WORDS = 512


def diagnose(machine: Machine, width: int = WIDTH) -> list[str]:
    """Lines about the shutdown that ended `machine`'s run, the verdict last; empty where none did.

    They are no longer than `width` where that can be had; in a narrow listing the bytes of the code are left away.
    """
    fault = machine.result().fault
    if machine.shutdown is None or fault is None:
        return []
    width = max(width, MIN_WIDTH)
    number, shutdown = machine.shutdown
    scene = Scene(machine, number, shutdown)
    at = scene.linear
    callers = _callers(scene)
    # Where nothing could be fetched, the call that led there is what there is to see.
    seen = callers[0] if scene.fetch_failed and callers else at
    before, after = _before(scene, seen), [] if scene.fetch_failed else _after(scene, at)
    rips = [rip for _, one in machine.last_exits if (rip := _rip(one)) is not None]
    scene.find_lines({at, *(one.address for one in before + after), *(one - 1 for one in callers), *rips})
    instruction = after[0].text if after else ""
    sentences = [*cause.reasons(scene, instruction), *cause.no_handler(scene)]
    return [
        f"triple fault on vcpu{number}: {words.exception(shutdown.vector)}{_codes(scene)}",
        *_wrapped(f"at {scene.place(at)}" + (f": {instruction}" if instruction else ""), width, "  "),
        *(line for text in sentences for line in _point(text, width)),
        "",
        *(["no code can be read there; before it, most likely, ran:"] if not after and before else []),
        *(["no code can be read there"] if not after and not before else []),
        *_listing(scene, before + after, width),
        "",
        *_registers(scene, width),
        *(["", "return addresses on the stack, the nearest first:"] if callers else []),
        *(part for address in callers for part in _wrapped(scene.place(address, address - 1), width, "  ")),
        "",
        "the last exits, latest at the bottom:",
        *(part for line in words.history(machine.last_exits, scene.place) for part in _wrapped(line, width, "  ")),
        "",
        *_wrapped(fault.text, width, ""),
    ]


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _point(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="  - ", subsequent_indent="    ", break_long_words=False)


def _codes(scene: Scene) -> str:
    error, address = scene.shutdown.error, scene.shutdown.address
    return ("" if error is None else f", error code {error:#x}") + (
        "" if address is None else f", address {address:#x}"
    )


def _rip(exit_: Exit) -> int | None:
    rip: int | None = getattr(exit_, "rip", None)
    return rip


def _after(scene: Scene, at: int) -> list[Line]:
    """The instruction at `at` and some behind it, as far as its function goes."""
    function = scene.symbols.at(at)
    found = disassemble(scene.vcpu.read_linear(at, LONGEST * AFTER), at, scene.bits, AFTER)
    end = None if function is None else function.address + function.size
    return [one for one in found if end is None or one.address < end]


def _before(scene: Scene, at: int) -> list[Line]:
    """The instructions that stand before `at`, where its function is known: decoding has to begin with one."""
    function = scene.symbols.at(at - 1)
    if function is None or not 0 < at - function.address <= _FUNCTION_MAX:
        return []
    start = function.address
    code = scene.vcpu.read_linear(start, at - start)
    return leading_up(code, start, at, scene.bits, BEFORE) if len(code) == at - start else []


def _listing(scene: Scene, lines: list[Line], width: int) -> list[str]:
    cells, shown = [], ""
    for one in lines:
        line, name = scene.line(one.address), scene.symbols.name(one.address)
        mark = "=>" if one.address == scene.linear else "  "
        place = f"{mark} {one.address:#x}"
        note = line if line != shown else ""
        cells.append((place, f"<{name}>" if name else "", one.code.hex(" "), one.text, note))
        shown = line
    for columns in ((0, 1, 2, 3, 4), (0, 1, 3, 4), (0, 3, 4), (0, 3)):
        sizes = {column: max((len(row[column]) for row in cells), default=0) for column in columns}
        rows = ["  ".join(row[column].ljust(size) for column, size in sizes.items()).rstrip() for row in cells]
        if max(map(len, rows), default=0) <= width:
            break
    return rows


def _registers(scene: Scene, width: int) -> list[str]:
    """General registers in the width that the code uses, with the names of what they point at; then the system's."""
    state, wide = scene.state, scene.bits == 64
    values = dict(scene.registers) | {"rip": scene.shutdown.rip, "rflags": state.rflags}
    if not wide:
        values = {"e" + name[1:]: value & 0xFFFFFFFF for name, value in values.items() if not name[1:2].isdecimal()}
    digits = 16 if wide else 8
    cells = [f"{name:>6} {value:0{digits}x}" for name, value in values.items()]
    across = max(1, min(3 if wide else 5, (width + 2) // (digits + 9)))
    rows = ["  ".join(cells[row : row + across]) for row in range(0, len(cells), across)]
    control = f"cr0 {state.cr0:#x}, cr2 {state.cr2:#x}, cr3 {state.cr3:#x}, cr4 {state.cr4:#x}"
    rows += _wrapped(control, width, "   ")
    rows.append(f"   idt {state.idtr.base:#x}, limit {state.idtr.limit:#x}; cpl {scene.cpl}")
    if not wide:
        selectors = (f"{name} {scene.segment(name).selector:04x}" for name in SEGMENTS[:6])
        rows += _wrapped(", ".join(selectors), width, "   ")
    named = {name: scene.symbols.name(value) for name, value in values.items() if name[-2:] not in ("ip", "gs")}
    pointers = ", ".join(f"{name} {text}" for name, text in named.items() if text)
    return rows + (_point(f"pointing into the program: {pointers}", width) if pointers else [])


def _callers(scene: Scene) -> list[int]:
    """Words on the stack that stand behind a CALL of the program: most likely return addresses."""
    size = scene.bits // 8
    stack = scene.stack_linear
    if scene.guarded_stack(stack) is not None:
        stack += -stack % abi.PAGE_SIZE
    found: list[int] = []
    for number in range(_STACK_WORDS):
        word = scene.load(stack + number * size, size)
        if word is None or len(found) == MAX_CALLERS:
            break
        if scene.bits == 16:
            word += scene.segment("cs").base
        if scene.is_code(word) and word not in found and _is_behind_call(scene, word):
            found.append(word)
    return found


def _is_behind_call(scene: Scene, address: int) -> bool:
    code = scene.vcpu.read_linear(address - 7, 7)
    if len(code) < 7:
        return False
    near = code[-3 if scene.bits == 16 else -5] == 0xE8
    return near or any(code[-size] == 0xFF and code[1 - size] >> 3 & 7 == 2 for size in (2, 3, 4, 6, 7))
