"""Finding the service user."""

import os
import pwd

import pytest

from relayd.commands.check.account import SERVICE_USER, find_account


def test_a_user_is_found_with_all_groups() -> None:
    """The id and the groups of a user are those of the system."""
    entry = pwd.getpwnam("daemon")
    account = find_account("daemon")
    assert (account.name, account.uid, account.gid) == ("daemon", entry.pw_uid, entry.pw_gid)
    assert entry.pw_gid in account.groups
    assert account.can_become == (os.geteuid() == 0)


def test_the_service_user_is_the_default_if_it_exists() -> None:
    """Without a name it is the service user, or the current user."""
    try:
        expected = pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        expected = os.geteuid()
    assert find_account(None).uid == expected


def test_an_unknown_user_is_an_error() -> None:
    """An unknown name is a KeyError."""
    with pytest.raises(KeyError):
        find_account("no-such-user")
