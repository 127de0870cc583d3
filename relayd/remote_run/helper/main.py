"""The root side of a remote run: a small separate program that starts one command.

The service manager accepts a connection on a Unix socket and starts this program for it, as root,
with the connection as standard input (inetd style). The program serves that one command and exits;
see `relayd.remote_run.helper.protocol` for the protocol.

The client is not trusted: it has to be the one account that is named on the command line, hosts
have to be in the nodes list, names have to be well-formed, and sizes are bounded. Only the standard
library is used, and little of it, because all of it runs as root.
"""

import argparse
import contextlib
import json
import os
import pwd
import re
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from relayd.remote_run.helper.command import TALK_TIMEOUT_S, ClientCommand, ClientGoneError
from relayd.remote_run.helper.limits import Limits, limits_for
from relayd.remote_run.helper.protocol import (
    HOST,
    MAX_CONTENT,
    MAX_REQUEST,
    REFUSED,
    SEARCH_PATH,
    SHOWN,
    agents_command,
    frame,
)
from relayd.system.shortage import with_limit

#: Bytes of one argument. Linux takes up to 131,072 (MAX_ARG_STRLEN in execve(2)).
MAX_ARGUMENT: Final = 100_000
MAX_NODES_LIST: Final = 256 * 1024 * 1024

_CONDITION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,1023}", re.ASCII)
_ENVIRONMENT: Final = {
    "PATH": SEARCH_PATH,
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
#: sd-daemon(3): the journal's priorities.
_NOTICE: Final = "<5>"
_WARNING: Final = "<4>"


class RefusedError(Exception):
    """The request is refused; the text is sent to the client and quotes nothing from it."""


def main(arguments: list[str] | None = None) -> int:
    """Serve the client on standard input; return 0 whatever the result."""
    options = _options(arguments)
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        sys.stderr.write("error: standard input is not a socket; systemd starts this program\n")
        return 3
    with socket.socket(fileno=os.dup(0)) as client, contextlib.suppress(ClientGoneError):
        try:
            hosts, order = _admit(client, options)
            _execute(client, order, limits_for(options.deadline, hosts))
        except RefusedError as error:
            _refuse(client, str(error))
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rudder-relayd-helper", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--user", required=True, help="name or number of the only account that may connect"
    )
    parser.add_argument(
        "--command",
        type=_absolute,
        default="/opt/rudder/bin/rudder",
        help="the command to run, an absolute path",
    )
    parser.add_argument(
        "--nodes-list",
        type=Path,
        default=Path("/var/rudder/lib/relay/nodeslist.json"),
        help="nodes list; hosts that are not in it are left out",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=600.0,
        help="seconds without output, for each host, after which the command is terminated",
    )
    return parser.parse_args(arguments)


def _absolute(text: str) -> str:
    """Return a path that means the same in every working directory."""
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError("must be an absolute path: root runs it")
    return text


def _admit(client: socket.socket, options: argparse.Namespace) -> tuple[int, list[str]]:
    """Return the number of hosts and the command line to run for this client.

    Raises:
        RefusedError: the request is refused.
    """
    pid, uid = _check_peer(client, options.user)
    hosts, conditions = read_request(_receive(client))
    known = listed_hosts(options.nodes_list)
    admitted = [host for host in hosts if host in known]
    if unlisted := len(hosts) - len(admitted):
        _audit(
            _WARNING,
            f"remote run: {unlisted} hosts left out because they are not in the nodes list",
        )
    if not admitted:
        raise RefusedError("no host is in the nodes list")
    names, classes = ",".join(admitted), ",".join(conditions)
    shown = f"{names[:SHOWN]}{'…' * (len(names) > SHOWN)}"
    _audit(
        _NOTICE,
        f"remote run for uid {uid}, pid {pid}: {len(admitted)} hosts ({shown}),"
        f" conditions ({classes[:SHOWN]})",
    )
    return len(admitted), agents_command(options.command, admitted, conditions)


def _check_peer(client: socket.socket, user: str) -> tuple[int, int]:
    """Return process and user id of the client (SO_PEERCRED in unix(7)) if it is the right user."""
    layout = struct.Struct("3i")
    pid, uid, _ = layout.unpack(
        client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    )
    try:
        allowed = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise RefusedError("the account that may connect does not exist") from None
    if uid != allowed:
        _audit(_WARNING, f"remote run requested by uid {uid}, pid {pid}")
        raise RefusedError("not for this user")
    return pid, uid


def _receive(client: socket.socket) -> bytes:
    """Return the request, without its line feed."""
    deadline = time.monotonic() + TALK_TIMEOUT_S
    data = bytearray()
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise RefusedError("the request did not arrive in time")
        client.settimeout(left)
        try:
            piece = client.recv(MAX_CONTENT)
        except TimeoutError:
            continue
        except OSError as error:
            raise ClientGoneError from error
        if not piece:
            raise ClientGoneError
        data += piece
        if len(data) > MAX_REQUEST:
            raise RefusedError("the request is too large")
        if b"\n" in data[:-1]:
            raise RefusedError("more than one line")
    return bytes(data[:-1])


def read_request(line: bytes) -> tuple[list[str], list[str]]:
    """Return hosts and conditions of a request, each once.

    Raises:
        RefusedError: the line is not a valid request.
    """
    try:
        request = json.loads(line.decode("utf-8"), object_pairs_hook=_members)
    except (ValueError, RecursionError):
        raise RefusedError("the request is not JSON") from None
    if not isinstance(request, dict) or request.keys() != {"hosts", "conditions"}:
        raise RefusedError("the request must have hosts and conditions, and nothing else")
    hosts = _names(request["hosts"], HOST, "host")
    if not hosts:
        raise RefusedError("no hosts")
    return hosts, _names(request["conditions"], _CONDITION, "condition")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key is repeated")
    return members


def _names(value: object, form: re.Pattern[str], what: str) -> list[str]:
    if not isinstance(value, list):
        raise RefusedError(f"{what}s must be a list")
    for name in value:
        if not isinstance(name, str) or form.fullmatch(name) is None:
            raise RefusedError(f"invalid {what}")
    names = list(dict.fromkeys(value))
    if len(",".join(names)) > MAX_ARGUMENT:
        raise RefusedError(f"too many {what}s")
    return names


def listed_hosts(path: Path) -> set[str]:
    """Return the host names of the nodes list; a node without one concerns no other.

    Raises:
        RefusedError: the nodes list cannot be read, or no node in it has a host name.
    """
    try:
        with path.open("rb") as file:
            nodes = json.loads(file.read(MAX_NODES_LIST))
        entries = list(nodes.values())
    except (OSError, ValueError, RecursionError, AttributeError):
        raise RefusedError("the nodes list cannot be read") from None
    named = (entry.get("hostname") for entry in entries if isinstance(entry, dict))
    hosts = {name for name in named if isinstance(name, str)}
    if entries and not hosts:
        raise RefusedError("the nodes list cannot be read")
    return hosts


def _execute(client: socket.socket, command: list[str], limits: Limits) -> None:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env=_ENVIRONMENT,
            bufsize=0,
        )
    except OSError as error:
        _audit(_WARNING, f"{command[0]}: {with_limit(error)}")
        raise RefusedError("the command could not be started") from None
    begun = time.monotonic()
    run = ClientCommand(client, process, limits)
    why = "client gone"
    try:
        why = run.follow()
    finally:
        code = run.end()
        _audit(_NOTICE, f"remote run over: {why}, code {code}, {time.monotonic() - begun:.1f} s")
    run.send_exit(code)


def _refuse(client: socket.socket, why: str) -> None:
    _audit(_WARNING, f"remote run refused: {why}")
    client.settimeout(TALK_TIMEOUT_S)
    with contextlib.suppress(OSError):
        client.sendall(frame(REFUSED, why.encode()))


def _audit(priority: str, text: str) -> None:
    """Write one line to the journal; it contains only data from outside that was validated."""
    with contextlib.suppress(OSError):
        # In UTF-8, whatever locale this process has.
        os.write(2, f"{priority}{text}\n".encode("utf-8", "backslashreplace"))


if __name__ == "__main__":
    sys.exit(main())
