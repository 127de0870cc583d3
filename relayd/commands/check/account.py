"""The user that the daemon runs as."""

import grp
import os
import pwd
from typing import Final

import msgspec

#: The user of the packaged units.
SERVICE_USER: Final = "rudder-relayd"


class Account(msgspec.Struct, frozen=True):
    """A user of this system.

    Attributes:
        name: the user name.
        uid: the user id.
        gid: the id of the primary group.
        groups: the ids of all groups.
        group: the name of the primary group.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    group: str

    @property
    def is_current(self) -> bool:
        """Whether this process runs as that user."""
        return self.uid == os.geteuid()

    @property
    def can_become(self) -> bool:
        """Whether this process can run a child as that user."""
        return self.is_current or os.geteuid() == 0


def find_account(name: str | None) -> Account:
    """Look up a user.

    Args:
        name: None for `SERVICE_USER` if that user exists, else for the current user.

    Raises:
        KeyError: the user does not exist.
    """
    if name is not None:
        return _account(pwd.getpwnam(name))
    try:
        return _account(pwd.getpwnam(SERVICE_USER))
    except KeyError:
        return _current()


def _current() -> Account:
    uid, gid = os.geteuid(), os.getegid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run as a number
        name = str(uid)
    return Account(name, uid, gid, tuple(os.getgroups()), group_name(gid))


def _account(entry: pwd.struct_passwd) -> Account:
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Account(
        entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(groups), group_name(entry.pw_gid)
    )


def listed_groups(name: str) -> frozenset[str]:
    """Return the names of the groups that a user has according to the system's files."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return frozenset()
    return frozenset(map(group_name, os.getgrouplist(name, entry.pw_gid)))


def group_name(gid: int) -> str:
    """Return the name of a group, its number if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
