"""Run logs of the simulated fleet, as an agent writes them."""

from datetime import datetime, timedelta
from typing import Final

#: Typical reports, repeated in turn: technique, event type, rule, directive, component, key,
#: message.
_CHECKS: Final = (
    (
        "Common",
        "log_info",
        "hasPolicyServer-root",
        "common-root",
        "CRON Daemon",
        "cron",
        "The service is enabled at boot",
    ),
    (
        "Common",
        "result_success",
        "hasPolicyServer-root",
        "common-root",
        "Process checking",
        "None",
        "Agent processes are in the expected state",
    ),
    (
        "packageManagement",
        "result_success",
        "32377fd7-02fd-43d0-aab7-28460a91347b",
        "0a3fbec3-2a1b-4a6a-8b1e-9d1d3a3b6e5f",
        "Package",
        "openssh-server",
        "Presence of package openssh-server in the latest version was correct",
    ),
    (
        "fileTemplate",
        "result_repaired",
        "5f4c3a2b-8d0e-4d9d-a1bc-0a0d4dd0d6ff",
        "b2a5f8e1-7f0e-4f37-8e59-46a1a5a2e0c1",
        "File template",
        "/etc/motd",
        "Build of the file from its template was repaired",
    ),
    (
        "userManagement",
        "result_na",
        "5f4c3a2b-8d0e-4d9d-a1bc-0a0d4dd0d6ff",
        "f37e4d1c-52d7-4b0c-9c64-0d8c1e3f1b7a",
        "User",
        "backup",
        "The account is not managed on this system",
    ),
    (
        "sshConfiguration",
        "result_success",
        "32377fd7-02fd-43d0-aab7-28460a91347b",
        "c9d0a9ab-6a0c-4a63-b2f8-7b7b8d0b1e52",
        "SSH server",
        "PermitRootLogin",
        "The parameter has the expected value in /etc/ssh/sshd_config",
    ),
)


def make_runlog(
    node_id: str,
    start: datetime,
    reports: int = 72,
    *,
    config_id: str = "20260301-120000-5e7a91c0",
    partial: bool = False,
) -> bytes:
    """Return the text that the agent of a node would sign.

    Args:
        node_id: the node that the run log is about.
        start: start of the run, with UTC offset; rounded down to seconds.
        reports: number of reports, including those that start and end the run.
        config_id: configuration id in these two.
        partial: omit the reports that start and end the run, as in an interrupted run.

    Returns:
        UTF-8, lines ended by LF.
    """
    begun = start.isoformat(sep=" ", timespec="seconds")
    lines: list[str] = []
    for number in range(reports):
        stamp = (start + timedelta(seconds=number // 8)).isoformat(timespec="seconds")
        fields = _report(number, reports, config_id, partial=partial)
        policy, event, rule, directive, component, key, message = fields
        lines.append(
            f"{stamp} R: @@{policy}@@{event}@@{rule}@@{directive}@@0@@{component}@@{key}"
            f"@@{begun}##{node_id}@#{message}\n"
        )
    return "".join(lines).encode()


def _report(number: int, reports: int, config_id: str, *, partial: bool) -> tuple[str, ...]:
    if number == 0 and not partial:
        return ("Common", "control", "rudder", "run", "start", config_id, "Start execution")
    if number == reports - 1 and number and not partial:
        return ("Common", "control", "rudder", "run", "end", config_id, "End execution")
    *fields, message = _CHECKS[number % len(_CHECKS)]
    return (*fields, f"{message} ({number})")
