"""The machines that packages are tested on, where the real machine has a Rudder of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.machine import OVERLAY
from tools.lock import REPOSITORY

#: Becomes a machine ($1: scratch directory) with the accounts and files of a Rudder server, and
#: runs a program on it.
REAL: Final = f"""
{OVERLAY}
echo 'rudder:x:64000:' >> etc/group
echo 'rudder-relayd:x:64000:64000::/var/rudder:/bin/false' >> etc/passwd
mkdir -p old opt/rudder/etc var/rudder/reports scratch
pivot_root . old
shift
exec "$@"
"""
#: Shows what another machine on that one has of it, and what it takes for a change.
SHOW: Final = """
from pathlib import Path
from tests.support.machine import open_machine
with open_machine(Path("/scratch")) as machine:
    print(machine.shell("getent passwd rudder-relayd || getent group rudder || ls /opt /var"))
    print(sorted(machine.changes()))
"""


@pytest.mark.fault("F67")
def test_rudder_of_the_real_machine_is_not_there(tmp_path: Path) -> None:
    """Accounts and directories of the machine that runs the tests play no part in them."""
    if os.geteuid() != 0:
        pytest.skip("a mount namespace needs root")
    enter = ["unshare", "--mount", "sh", "-euc", REAL, "sh", str(tmp_path)]
    program = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-c", SHOW]
    done = subprocess.run([*enter, *program], capture_output=True, text=True, check=True)
    assert "rudder" not in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
