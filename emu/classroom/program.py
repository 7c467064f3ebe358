"""From files to a program: those that were handed in and those that are given, side by side in a folder of their own.

In Linux: nothing like it.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from emu import toolchain
from emu.classroom import recipe
from emu.classroom.builder import FOLDER, OBJECTS
from emu.classroom.recipe import Recipe
from emu.compiler import Compiler, digest, find_compiler
from emu.faults import HostError

_prepared: dict[tuple[object, ...], Mapping[str, bytes]] = {}
MAX_PROGRAM = 8 << 20  # bytes of an ELF file


def build(
    files: Mapping[str, bytes],
    given: Mapping[str, bytes],
    compiler: Compiler | None = None,
    made: Mapping[str, bytes] | None = None,
) -> bytes:
    """The program of these files, made here, in this process; the arguments are those of `recipe.of_program`.

    What is `made` is made here too where it is None, once for all programs of this process. Raises HostError with the
    compiler's first error, which calls each file by its bare name.
    """
    compiler = compiler or find_compiler()
    if made is None:
        made = _prepared_before(given, compiler)
    asked = recipe.of_program(files, given, compiler, made)
    return sized(asked, carried_out(asked, compiler))


def prepared(given: Mapping[str, bytes], compiler: Compiler) -> dict[str, bytes]:
    """What of a program is the same whoever hands the rest in, made here: objects by name, if there are any."""
    objects = recipe.of_objects(given, compiler)
    try:
        return {} if objects is None else carried_out(objects, compiler)
    except HostError:
        return {}


def _prepared_before(given: Mapping[str, bytes], compiler: Compiler) -> Mapping[str, bytes]:
    shared = tuple(map(digest, toolchain.shared_sources()))
    key = tuple(given.items()), compiler.command, shared
    if key not in _prepared:
        _prepared.clear()  # who works on one assignment builds it over and over
        _prepared[key] = prepared(given, compiler)
    return _prepared[key]


def sized(asked: Recipe, made: Mapping[str, bytes]) -> bytes:
    """The program among what was made of its recipe. Raises HostError where it is too large."""
    (program,) = made.values()
    if len(program) > MAX_PROGRAM:
        raise HostError(f"the program is larger than {MAX_PROGRAM >> 20} MiB", Path(asked.source).name)
    return program


def carried_out(asked: Recipe, compiler: Compiler) -> dict[str, bytes]:
    """The outputs of a recipe by their names. Raises HostError with the compiler's first error."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        objects = folder / OBJECTS
        objects.mkdir()
        for name, content in asked.files.items():
            place = folder / name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(content)
        source = Path(asked.source.replace(FOLDER, str(folder)))
        for words in asked.commands:
            compiler.run([word.replace(FOLDER, str(folder)) for word in words], objects, source, source.name)
        if not all((objects / name).is_file() for name in asked.outputs):
            raise compiler.refused(0, "", "", objects, source, source.name)
        return {name: (objects / name).read_bytes() for name in asked.outputs}
