"""The command table of the command line, and what every command has in common: errors, statuses, help.

Exit statuses: what the command says (see each); 2 for input that cannot be used, always with one line on stderr;
70 for a fault of emu's own.
"""

import importlib
import sys

from emu.faults import HostError

BAD_INPUT = 2
OWN_FAULT = 70
INTERRUPTED = 130

COMMANDS = {
    "run": "run a guest and account for its time",
    "build": "build a guest from C or assembler",
    "guests": "list the guests that come with emu",
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
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(_HELP.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())), end="")
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"emu {version('kvm-steal-emu')}")
        return 0
    as_json = "--json" in words
    try:
        if words[0] not in COMMANDS:
            raise HostError(f"there is no command {words[0]!r}", remedy=f"known are {', '.join(COMMANDS)}")
        command = importlib.import_module(f"emu.commands.{words[0].replace('-', '_')}")
        status: int = command.main(words[1:])
        sys.stdout.flush()
        return status
    except HostError as error:
        return _refuse(error, as_json)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left; there is nobody to tell
        return 0
    except KeyboardInterrupt:
        print("emu: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        import traceback

        traceback.print_exc()
        print(f"emu: this is a fault of emu itself, not of your input: {error!r}", file=sys.stderr)
        return OWN_FAULT


def _refuse(error: HostError, as_json: bool) -> int:
    if as_json:
        import json

        print(json.dumps({"error": error.message, "where": error.where, "remedy": error.remedy}))
    line = " ".join(str(error).split())
    print(f"emu: {line}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
