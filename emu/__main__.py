"""The command table of the command line, and what every command has in common: errors, statuses, help.

Exit statuses: what the command says (see each); 2 for input that cannot be used, always with one line on stderr;
70 for a fault of emu's own; 130 after Ctrl-C; 141 where whoever read our output has left.

In Linux: tools/perf/perf.c dispatches its commands from such a table, commands[].
"""

import importlib
import os
import sys

from emu.faults import HostError, escaped

BAD_INPUT = 2
OWN_FAULT = 70
INTERRUPTED = 130
NO_READER = 141  # 128 + SIGPIPE: what a shell shows for any program that the signal ended

COMMANDS = {
    "run": "run a guest and account for its time",
    "step": "go through a run step by step, forward and back",
    "gdb": "let gdb step a run, forward and back",
    "lesson": "learn it step by step, in lessons that check themselves",
    "check": "judge one's work on an assignment, and say what does not hold yet",
    "assignment": "make, verify and pack assignments",
    "grade": "judge many submissions safely, and write what everybody gets",
    "report": "write a run as one page to look at and to step through",
    "replay": "play a recorded run again, or go to a place in it",
    "explore": "try every placement of the host's steps, and prove or refute",
    "fuzz": "look for what breaks a guest, from the host's side",
    "build": "build a guest from C or assembler",
    "guests": "list the guests that come with emu",
    "conform": "compare the emulator with its specification and with real KVM",
    "doctor": "say which optional parts are here, and how to get the others",
    "abi-header": "print the C header with every number a guest may rely on",
}

_HELP = """usage: emu COMMAND [options]

A small x86 machine with KVM's paravirtual steal-time clock, to learn from, teach with and test on.

commands:
{commands}

`emu COMMAND --help` explains each. A first run:
  emu run clock --vcpus 2 --task busy
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the process's exit status and never raises."""
    status = _run(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process is leaving: Ctrl-C has nothing left to end
    return status


def _run(words: list[str]) -> int:
    _prepare_streams()
    as_json = "--json" in words
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _drop_output()
        return NO_READER
    except HostError as error:
        return _tell(error, as_json, BAD_INPUT)
    except OSError as error:
        _drop_output()
        where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "output"
        return _tell(HostError(f"the system refused: {error.strerror or error}", where), False, BAD_INPUT)
    except KeyboardInterrupt:
        return _tell(HostError("interrupted"), as_json, INTERRUPTED)
    except Exception as error:
        import traceback

        traceback.print_exc()
        return _tell(HostError(f"this is a fault of emu itself, not of your input: {error!r}"), as_json, OWN_FAULT)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(_HELP.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())), end="")
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"emu {version('kvm-steal-emu')}")
        return 0
    if words[0] not in COMMANDS:
        raise HostError(f"there is no command {words[0]!r}", remedy=_remedy(words[0]))
    command = importlib.import_module(f"emu.commands.{words[0].replace('-', '_')}")
    try:
        status: int = command.main(words[1:])
    except SystemExit as leave:  # argparse has printed its help
        status = leave.code if isinstance(leave.code, int) else 0
    return status


def _remedy(word: str) -> str:
    from emu import data
    from emu.scenario import did_you_mean

    if word.endswith((".elf", ".c", ".S", ".toml")) or word in data.guest_names():
        return f"did you mean `emu run {word}`?"
    return did_you_mean(word, COMMANDS)


def _tell(error: HostError, as_json: bool, status: int) -> int:
    """One line on stderr, below the error's detail; with --json one object on stdout, the detail in it.

    Nothing in a name or a detail can give orders to the terminal.
    """
    try:
        if as_json:
            import json

            told = {"error": error.message, "where": error.where, "remedy": error.remedy}
            print(json.dumps(told | ({"detail": error.detail} if error.detail else {})), flush=True)
        lines = [] if as_json else error.detail.expandtabs().splitlines()
        for line in (*lines, "emu: " + error.sentence):
            shown = escaped(line)
            print(shown, file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        _drop_output()
    return status


def _prepare_streams() -> None:
    """A missing stream swallows; a character that an encoding has not is escaped, so that printing cannot fail."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What is still buffered has nowhere to go: let the interpreter's last flush succeed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
