"""Who may use the control socket."""

import errno
import os
import pwd
import socket

import pytest

from relayd.control import callers
from relayd.control.callers import Caller

SERVICE = 997


@pytest.mark.parametrize(
    ("uid", "groups", "socket_group", "may"),
    [
        (0, {0}, 4, True),
        (SERVICE, {SERVICE}, 4, True),
        (1000, {1000, 4}, 4, True),
        (1000, {1000}, 4, False),
        # Under a user namespace, all groups that it does not have are this one.
        (65534, {65534}, 65534, False),
        (65534, {65534, 4}, 4, True),
    ],
)
def test_root_the_service_and_members_of_the_group_may(
    uid: int, groups: set[int], socket_group: int, may: bool
) -> None:
    """Nobody is let in for a group that looks like others."""
    caller = Caller(1, uid, frozenset(groups))
    assert caller.may_control(socket_group, SERVICE) is may


def test_a_user_without_an_entry_has_no_more_groups_than_the_kernel_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More groups than fit are those of the user: one that is not found has none."""

    class Connection:
        def getsockopt(self, _level: int, option: int, size: int) -> bytes:
            if option == socket.SO_PEERCRED:
                return callers._UCRED.pack(1, 4711, 4712)[:size]
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))

    def missing(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", missing)
    connection: socket.socket = Connection()  # type: ignore[assignment]
    assert callers.caller_of(connection) == Caller(1, 4711, frozenset({4712}))
