"""Detection of a sudo that cannot work."""

import subprocess
import sys
from pathlib import Path

import pytest

from relayd.config.main_conf import RemoteRunSettings
from relayd.remote_run.runs import sudo_is_useless


@pytest.mark.parametrize(
    ("table", "uid", "confined", "expected"),
    [
        (RemoteRunSettings(), 999, True, True),
        (RemoteRunSettings(), 999, False, False),
        (RemoteRunSettings(), 0, True, False),
        (RemoteRunSettings(use_sudo=False), 999, True, False),
        (RemoteRunSettings(helper=Path("/run/helper.sock")), 999, True, False),
    ],
)
def test_sudo_is_useless(
    table: RemoteRunSettings, uid: int, confined: bool, expected: bool
) -> None:
    """A configuration with sudo is useless under a unit that forbids new privileges."""
    assert sudo_is_useless(table, uid, confined=confined) is expected


@pytest.mark.parametrize(("wrapper", "expected"), [((), "False"), (("--no-new-privs",), "True")])
def test_no_new_privileges_is_seen(wrapper: tuple[str, ...], expected: str) -> None:
    """The process detects whether the service manager has set the flag."""
    program = "from relayd.system.libc import no_new_privileges; print(no_new_privileges())"
    command = ["setpriv", *wrapper, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
