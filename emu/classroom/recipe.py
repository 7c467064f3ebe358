"""How a program is made of what was handed in and what is given: files, commands, and the files that come of them.

Whoever grades says it to a sandbox; whoever checks his own does it himself.

In Linux: usr/gen_init_cpio.c takes such a list, of files that were made elsewhere.
"""

import json
import marshal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from emu import data, toolchain
from emu.classroom.builder import FOLDER, OBJECTS
from emu.compiler import Compiler
from emu.faults import HostError

_SOURCES = "sources"
_LOOKS_AROUND = (b"__has_include", b"__has_embed")
_KEYS = ("message", "where", "remedy", "detail")
_NOTHING: Mapping[str, bytes] = MappingProxyType({})


class Recipe(NamedTuple):
    """`files` by their names in a folder, which FOLDER stands for in the `commands`; these run in its folder OBJECTS,
    and make the `outputs` there. Messages are about the file `source`."""

    files: dict[str, bytes]
    commands: list[tuple[str, ...]]
    outputs: list[str]
    source: str


def of_program(
    files: Mapping[str, bytes], given: Mapping[str, bytes], compiler: Compiler, made: Mapping[str, bytes] = _NOTHING
) -> Recipe:
    """A program of these files; a given one wins over one that was handed in. `made` are objects that `of_objects` is
    the recipe of."""
    own = [name for name in files if name.endswith(data.SOURCE_SUFFIXES) and name not in given]
    # A header that was handed in may stand before one of the compiler's.
    if len(own) < len(files) - sum(name in given for name in files):
        made = _NOTHING
    sources = [_source(name) for name in own] + ([] if made else _shared(given))
    commands, objects = _compiled(sources, compiler)
    contents = {f"{_SOURCES}/{name}": content for name, content in {**files, **given}.items()}
    for name, content in made.items():
        # Beside the others, whose folder no message names.
        objects.append(name if name not in objects else f"made-{name}")
        contents[f"{OBJECTS}/{objects[-1]}"] = content
    folder = Path(FOLDER, OBJECTS)
    commands.append(compiler.link_command([folder / name for name in objects], folder / "program.elf", 64))
    return Recipe(contents, commands, ["program.elf"], str(sources[0]))


def of_objects(given: Mapping[str, bytes], compiler: Compiler) -> Recipe | None:
    """What of a program is the same whoever hands the rest in; None where that cannot be said of it.

    A given file that looks at what was handed in is not the same for all.
    """
    if any(word in content for content in given.values() for word in _LOOKS_AROUND):
        return None
    sources = _shared(given)
    commands, objects = _compiled(sources, compiler)
    contents = {f"{_SOURCES}/{name}": content for name, content in given.items()}
    return Recipe(contents, commands, objects, str(sources[0]))


def _source(name: str) -> Path:
    return Path(FOLDER, _SOURCES, name)


def _shared(given: Mapping[str, bytes]) -> list[Path]:
    return [*(_source(name) for name in given if name.endswith(data.SOURCE_SUFFIXES)), *toolchain.shared_sources()]


def _compiled(sources: list[Path], compiler: Compiler) -> tuple[list[tuple[str, ...]], list[str]]:
    """The commands, and the names of the objects."""
    objects = compiler.objects(sources, Path(FOLDER, OBJECTS))
    root = Path(FOLDER, _SOURCES)
    commands = [
        compiler.compile_command(source, output, 64, root=root) for source, output in zip(sources, objects, strict=True)
    ]
    return commands, [one.name for one in objects]


# --- in a sandbox ----------------------------------------------------------------------------------------------------


def request(recipe: Recipe, compiler: Compiler) -> bytes:
    """What `builder.build` reads."""
    name, version, command, targets, home = compiler
    table = {
        "files": list(recipe.files.items()),
        "commands": [[*command, *words] for words in recipe.commands],
        "outputs": recipe.outputs,
        "source": recipe.source,
        "compiler": (name, version, command, dict(targets), home),
    }
    return marshal.dumps(table)


def refusal(compiler: tuple[Any, ...], source: str, folder: str, status: int | str, errors: str, output: str) -> bytes:
    """Why there is no program: what a builder answers then."""
    path = Path(source.replace(FOLDER, folder))
    error = Compiler(*compiler).refused(status, errors, output, Path(folder, OBJECTS), path, path.name)
    return b"-" + json.dumps({key: getattr(error, key) for key in _KEYS}).encode("ascii")


def made(recipe: Recipe, answer: bytes) -> dict[str, bytes]:
    """The outputs by their names, from what a builder has written. Raises HostError as that says, ValueError where it
    wrote something else."""
    if answer[:1] == b"-":
        told = json.loads(answer[1:])
        if type(told) is not dict or not all(type(told.get(key)) is str for key in _KEYS):
            raise ValueError("the builder's answer is none")
        raise HostError(*(told[key] for key in _KEYS))
    if answer[:1] != b"+":
        raise ValueError("the builder did not answer")
    found, at = {}, 1
    for name in recipe.outputs:
        size = int.from_bytes(answer[at : at + 8], "little")
        found[name] = answer[at + 8 : at + 8 + size]
        at += 8 + size
    if at != len(answer):
        raise ValueError("the builder's answer is none")
    return found
