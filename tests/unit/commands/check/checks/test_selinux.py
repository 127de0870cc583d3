"""Findings from the output of matchpathcon."""

from relayd.commands.check.checks.selinux import judge

OUTPUT = """\
/var/rudder/reports verified.
/var/rudder/reports/in coming has context unconfined_u:object_r:tmp_t:s0, should be \
system_u:object_r:rudder_relayd_spool_t:s0
/var/rudder/shared-files error: No data available
"""


def test_a_wrong_label_has_the_command_that_corrects_it() -> None:
    """Only a label that differs from the policy is a finding; its path is quoted for the shell."""
    (finding,) = judge(OUTPUT)
    assert finding.where == "/var/rudder/reports/in coming"
    assert finding.what == (
        "its label is unconfined_u:object_r:tmp_t:s0, expected"
        " system_u:object_r:rudder_relayd_spool_t:s0"
    )
    assert finding.fix == "restorecon -Rv '/var/rudder/reports/in coming'"
