"""`emu gdb`: wait for gdb, and let it step a run in both directions.

Exit status: 0 when gdb has left, 2 for input that cannot be used, 130 for Ctrl-C while it waits.
"""

import os
import socket

from emu.commands.flags import Once, Parser, add_options
from emu.commands.opened import session_of
from emu.faults import HostError
from emu.gdb.packets import Packets
from emu.gdb.stub import Stub

_HOST = "127.0.0.1"  # whoever reaches the port can read and change the guest: nobody from outside
_PORT = 1234
_EPILOG = """In another terminal:
  gdb -ex 'target remote :1234' guests/build/clock.elf
  (gdb) break main          (gdb) continue
  (gdb) watch steal_areas[0].version      stops at the host's stores as well
  (gdb) reverse-stepi       (gdb) reverse-continue
  (gdb) monitor steal       (gdb) monitor schedule     (gdb) monitor help
  (gdb) info threads        each vCPU is a thread

examples:
  emu gdb clock --vcpus 2 --task busy
  emu gdb odd_only.emurec --port 4321
"""


def main(arguments: list[str]) -> int:
    """Run `emu gdb` with these words."""
    parsed = _parser().parse(arguments)
    port = _PORT if parsed.port is None else _number(parsed.port)
    stubs: list[Stub] = []

    def check() -> None:
        for stub in stubs:
            stub.interrupted()

    session = session_of(parsed, check)
    with _listening(port) as listener:
        at = listener.getsockname()[1]
        print(f"waiting for gdb on {_HOST}:{at}: target remote :{at}", flush=True)
        connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stub = Stub(session, Packets(connection))
        stubs.append(stub)
        stub.serve()
    print("gdb has left", flush=True)
    return 0


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise HostError(f"the port cannot be used ({error.strerror})", f"--port {port}", "choose another") from None
    return listener


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 65536):
        raise HostError(f"{text!r} is no port", "--port", "give a number from 0 (any that is free) to 65535")
    return int(text)


def _parser() -> Parser:
    parser = Parser("gdb", "Let gdb step a run, forward and back.", _EPILOG, "emu gdb GUEST [options]")
    parser.add_argument("guest", metavar="GUEST", help="as for `emu run`, or a recording (.emurec)")
    parser.add_argument(
        "--port", action=Once, metavar="N", help=f"where to listen, for this computer only (default: {_PORT})"
    )
    add_options(parser)
    return parser
