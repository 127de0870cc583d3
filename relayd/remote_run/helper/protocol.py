"""How relayd and its root helper speak; see `relayd.remote_run.helper.main`.

    client   {"hosts": ["a.example", …], "conditions": ["c", …]} and a line feed
    helper   frames, each one byte of kind, four bytes of length (big endian) and the content:
             S  the command runs
             O  what it printed, in pieces
             E  it ended: {"code": …, "detail": …}
             R  refused, or not started: why, in UTF-8; nothing comes after it

The client keeps the connection open as long as it wants the command to run: when it closes it, or
the deadline comes, the command is ended with all its children.
"""

import re
import struct
from collections.abc import Sequence
from typing import Final

#: A host name; it can be no option and split no argument.
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
#: Characters of what a client is shown of standard error.
SHOWN: Final = 200


def agents_command(command: str, hosts: Sequence[str], conditions: Sequence[str]) -> list[str]:
    """Return the command that starts agents, whoever runs it: `COMMAND remote run [-D …] -- HOSTS`.

    Nothing behind `--` is an option, whatever a host is called.
    """
    classes = ["-D", ",".join(conditions)] if conditions else []
    return [command, "remote", "run", *classes, "--", ",".join(hosts)]


def frame(kind: bytes, content: bytes = b"") -> bytes:
    """Return a frame as it is sent."""
    return FRAME.pack(kind, len(content)) + content
