"""Who is at the other end of the control socket, and whether that user may use it.

The kernel says who connected (`SO_PEERCRED` and `SO_PEERGROUPS` of unix(7) and socket(7)), so no
password is needed, and none can be lost.
"""

import errno
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from typing import Final

import msgspec

#: Of Linux 4.13, socket(7); the module `socket` has no name for it.
_SO_PEERGROUPS: Final = 59
_UCRED: Final = struct.Struct("3i")
_GID: Final = struct.Struct("I")
#: The group of all groups that a user namespace does not have, see user_namespaces(7).
_UNMAPPED: Final = 65534
#: What Python's `getsockopt` returns at most.
_MOST_BYTES: Final = 1024


class Caller(msgspec.Struct, frozen=True):
    """A process that has connected to the control socket, as it was at that time.

    Attributes:
        pid: its process id; 0 if it is in another namespace.
        uid: its effective user id.
        groups: its effective group id and its supplementary groups.
    """

    pid: int
    uid: int
    groups: frozenset[int]

    def may_control(self, group: int, service_uid: int) -> bool:
        """Return whether this caller may use the control socket.

        Args:
            group: of the socket file; its members may, unless it is one of those that a user
                namespace does not have: there, all of these look the same.
            service_uid: the user that relayd runs as, who may as well, like root.
        """
        return self.uid in {0, service_uid} or group in self.groups - {_UNMAPPED}

    def name(self) -> str:
        """Return the name of the user, for people; asks the system's user database."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


def caller_of(connection: socket.socket) -> Caller:
    """Return who has connected.

    Raises:
        OSError: the kernel cannot say.
    """
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(data)
    return Caller(pid, uid, frozenset({gid, *_groups(connection, uid, gid)}))


def myself() -> Caller:
    """Return this process as a caller: commands use it when relayd does not run."""
    return Caller(os.getpid(), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


def _groups(connection: socket.socket, uid: int, gid: int) -> Iterable[int]:
    """Return the supplementary groups; those of the user database if there are more than fit."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        try:
            return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:  # no entry there, so none of its groups can be found
            return ()
    return [group for (group,) in _GID.iter_unpack(data)]
