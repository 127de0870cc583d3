"""What a database may lose, and whether it is ready for tomorrow: what its administrators set."""

from collections.abc import Iterator
from typing import Final

from relayd.commands.check.model import Finding, error, warning
from relayd.outputs.postgres.survey.model import Survey

#: Values of synchronous_commit with which a commit waits for no standby.
_LOCAL: Final = frozenset({"off", "local"})

_HOLD: Final = 'set output.database.hold to longer than a failover takes, such as "10min"'


def judge_losses(found: Survey, where: str, hold: float) -> Iterator[Finding]:
    """Yield a finding for each way in which the database may lose what it has committed.

    Args:
        found: properties of the database.
        where: its name.
        hold: seconds for which committed run logs are kept.
    """
    local = found.synchronous_commit in _LOCAL
    if found.synchronous and not local and not found.standbys:
        what = "synchronous_standby_names is set, but no standby is connected: commits wait for one"
        fix = "connect the standby, or empty synchronous_standby_names"
        yield warning("database.standbys", where, what, fix)
    if found.standbys and not found.synchronous and not hold:
        what = (
            f"it has {found.standbys} asynchronous standby servers: one that takes over lacks the"
            " last commits"
        )
        yield warning("database.hold", where, what, _HOLD)
    if local and not hold and (found.synchronous_commit == "off" or found.synchronous):
        event = "a crash of the server" if found.synchronous_commit == "off" else "a failover"
        what = f"synchronous_commit is {found.synchronous_commit}: {event} loses the last commits"
        fix = f"ALTER ROLE {found.account} SET synchronous_commit = on, or {_HOLD}"
        yield warning("database.commit", where, what, fix)
    if found.lost_settings:
        by = "a pooler" if found.pooled else "the server"
        what = f"{by} ignores settings of the connection: {', '.join(found.lost_settings)}"
        fix = f"set them for the role instead: ALTER ROLE {found.account} SET … = …"
        yield warning("database.pooler", where, what, fix)


def judge_partitions(found: Survey, where: str) -> Iterator[Finding]:
    """Yield a finding if the run logs of tomorrow have no partition of their own."""
    fix = "make partitions in advance, by pg_partman or conf/postgresql/partitions.sql"
    if found.tomorrow == "missing":
        what = "ruddersysevents has no partition for tomorrow: run logs will wait"
        yield error("database.partition", where, what, fix)
    elif found.tomorrow == "default":
        what = "the run logs of tomorrow will go to the default partition of ruddersysevents"
        yield warning("database.partition", where, what, fix)
