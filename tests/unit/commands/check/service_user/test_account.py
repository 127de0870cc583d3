"""Which user is meant."""

import os
import pwd

import pytest

from relayd.commands.check.service_user.account import SERVICE_USER, find_account


def test_a_user_is_found_with_all_groups() -> None:
    """A user's number, first group and other groups are those of the system."""
    entry = pwd.getpwnam("daemon")
    account = find_account("daemon")
    assert (account.name, account.uid, account.gid) == ("daemon", entry.pw_uid, entry.pw_gid)
    assert entry.pw_gid in account.groups
    assert account.can_become == (os.geteuid() == 0)


def test_the_service_user_is_the_default_where_there_is_one() -> None:
    """Without a name it is the service user, or whoever asks."""
    try:
        expected = pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        expected = os.geteuid()
    assert find_account(None).uid == expected


def test_an_unknown_user_is_an_error() -> None:
    """A name that the system does not know is refused."""
    with pytest.raises(KeyError):
        find_account("no-such-user")
