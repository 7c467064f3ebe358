"""A violation made into something to keep: a recording that replays it, with its story and where to look first.

In Linux: nothing like it; a crash dump is the nearest thing.
"""

from collections.abc import Callable

from emu.explore.instance import Instance
from emu.explore.search import Counterexample
from emu.explore.story import story
from emu.history.edits import HostStore
from emu.history.history import History
from emu.history.recording import Outcome, Recording, TraceHash, source_texts


def evidence(instance: Instance, found: Counterexample, name: str, text_of: Callable[[str], str | None]) -> Recording:
    """The run of `instance` in which `found` happens, to its end; `cursor` and `story` are the violation's.

    `name` is what the guest is to be called, `text_of` gives the text of a source file.
    """
    digest = TraceHash()
    schedule = found.way.steps
    history = History(instance.image, instance.config(), edits=schedule, trace=digest)
    history.go(found.position)
    # A host does not stop in the middle of an update: without its end the guest might wait for ever.
    for package in history.machine.packages if schedule and not history.ended else ():
        while package.steal is not None and package.steal.under_way is not None:
            history.edit(HostStore(package.number, package.added_ns, instance.halves))
    history.end()
    machine = history.machine
    assert machine.reason is not None
    outcome = Outcome(machine.position, machine.reason, machine.exit_port.code, digest.hexdigest())
    told = tuple(story(history, found))
    source = instance.image.source
    lines = source_texts(source, text_of)
    return Recording(name, source, instance.config(), outcome, history.edits, lines, found.position, told)
