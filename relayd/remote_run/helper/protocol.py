"""The protocol between relayd and its root helper; see `relayd.remote_run.helper.main`.

    client   {"hosts": ["a.example", …], "conditions": ["c", …]} and a line feed
    helper   frames, each one byte of kind, four bytes of length (big endian) and the content:
             S  the command runs
             O  a piece of its output; an empty one if it wrote to its standard error
             E  it ended: {"code": …, "detail": …}
             R  refused, or not started: why, in UTF-8; no frame follows

The client keeps the connection open as long as it wants the command to run. When the client closes
it, or the deadline passes, the command is ended with all its children.
"""

import re
import struct
from collections.abc import Sequence
from typing import Final

#: Where programs are searched for, whatever the environment says.
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: A host name; it cannot be an option or split an argument.
HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,254}", re.ASCII)

FRAME: Final = struct.Struct(">cI")
STARTED: Final = b"S"
OUTPUT: Final = b"O"
ENDED: Final = b"E"
REFUSED: Final = b"R"

#: Bytes of a request: hosts and conditions for two full arguments, as JSON.
MAX_REQUEST: Final = 512 * 1024
#: Bytes of a frame's content.
MAX_CONTENT: Final = 64 * 1024
#: Characters of standard error that a client gets.
SHOWN: Final = 200


def agents_command(command: str, hosts: Sequence[str], conditions: Sequence[str]) -> list[str]:
    """Return the command line that starts agents: `COMMAND remote run [-D …] -- HOSTS`.

    After `--` nothing is taken for an option, whatever the name of a host.
    """
    classes = ["-D", ",".join(conditions)] if conditions else []
    return [command, "remote", "run", *classes, "--", ",".join(hosts)]


def frame(kind: bytes, content: bytes = b"") -> bytes:
    """Return a frame as it is sent."""
    return FRAME.pack(kind, len(content)) + content
