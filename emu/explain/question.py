"""What one could ask before a step: will the branch be taken, what will the version be, who gets the pCPU?

The answer is that of the run itself: the step is made, looked at, and taken back.
"""

from typing import NamedTuple

from emu.explain.effect import BRANCHES
from emu.explain.step import Step, take
from emu.history.history import History
from emu.trace import MsrWrite, Store, Switch

_ZERO = 1 << 6


class Question(NamedTuple):
    """`right` is one of the `choices`; without choices it is a number, in decimal digits."""

    text: str
    choices: tuple[str, ...]
    right: str

    def judge(self, answer: str) -> bool | None:
        """Whether this answer is right: a choice's number or its text, or a number; None where it is none of them."""
        said = answer.strip().lower()
        if not self.choices:
            try:
                return int(said, 0) == int(self.right)
            except ValueError:
                return None
        lower = [one.lower() for one in self.choices]
        if said.isdecimal() and 1 <= int(said) <= len(lower):
            return lower[int(said) - 1] == self.right.lower()
        return said == self.right.lower() if said in lower else None


def ask(history: History) -> Question | None:
    """A question on the next step, or None where nothing is worth asking. The cursor stays where it is."""
    if history.ended:
        return None
    at = history.position
    step = take(history)
    found = _question(history, step)
    history.go(at)
    return found


def _question(history: History, step: Step) -> Question | None:
    for event in step.events:
        if isinstance(event, MsrWrite):
            value = f"{event.value:#x} to MSR {event.msr:#x}"
            right = "it is taken" if event.accepted else "#GP"
            return Question(f"WRMSR of {value}: is it taken?", ("it is taken", "#GP"), right)
    version = next((one for one in step.sentences if one.startswith("reads version = ")), "")
    if version:
        right = "odd" if ": odd" in version else "even"
        return Question("It reads the version: is that even or odd?", ("even", "odd"), right)
    if step.who is None or not step.text:
        return _of_host(step)
    mnemonic, _, operands = step.text.partition(" ")
    flags = history.machine.packages[step.who].vcpu.state().rflags
    if mnemonic in BRANCHES:
        taken = not any(one.endswith("is not taken") for one in step.sentences)
        return Question(f"{step.text}: is the branch taken?", ("yes", "no"), "yes" if taken else "no")
    if mnemonic in ("cmp", "test"):
        right = "set" if flags & _ZERO else "clear"
        return Question(f"{step.text}: is ZF set or clear afterwards?", ("set", "clear"), right)
    for change in step.changed:
        if change.register not in ("rflags", "rsp") and operands:
            return Question(f"{step.text}: what is {change.register} afterwards?", (), str(change.after))
    return None


def _of_host(step: Step) -> Question | None:
    found: Question | None = None
    for event in step.events:
        if isinstance(event, Store) and event.area == "steal-time" and event.step in ("odd", "even"):
            found = Question("The host stores a version: is it even or odd afterwards?", ("even", "odd"), event.step)
        elif isinstance(event, Switch) and found is None:
            names = tuple(sorted({event.prev, event.next}))
            found = Question(f"The host decides: who has pCPU {event.pcpu} afterwards?", names, event.next)
    return found
