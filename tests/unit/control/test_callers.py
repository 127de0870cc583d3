"""Who may use the control socket."""

import pytest

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
