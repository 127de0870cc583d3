"""Findings about databases that no test server can be: old releases and standbys."""

import socket
import ssl

import pytest
from msgspec.structs import replace

from relayd.commands.check.checks.database import COLUMNS, judge, judge_failure
from relayd.commands.check.settings.database import judge_losses, judge_partitions
from relayd.errors import DatabaseError
from relayd.outputs.postgres.faults import ConnectError, Step, explain, explain_connecting
from relayd.outputs.postgres.survey.model import Column, Index, Survey, Tomorrow

SOUND = Survey(
    version=13_00_04,
    encoding="UTF8",
    standby=False,
    read_only=False,
    superuser=False,
    account="rudder",
    now=0.0,
    columns={
        table: {
            name: Column(kind, "nextval('serial'::regclass)" if name == "id" else "")
            for name, kind in columns.items()
        }
        for table, columns in COLUMNS.items()
    },
    indexes=(
        Index("ruddersysevents", ("nodeid", "executiontimestamp")),
        Index("reportsexecution", ("nodeid", "date"), unique=True),
    ),
    rights={"serial USAGE": True},
)


def found_in(survey: Survey) -> list[str]:
    """Level and text of each finding."""
    return [f"{finding.level}: {finding.what}" for finding in judge(survey, "db")]


def test_a_sound_database_gives_no_finding() -> None:
    """PostgreSQL 13 with Rudder's tables is what relayd needs."""
    assert found_in(SOUND) == []


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (replace(SOUND, version=12_00_20), "error: PostgreSQL 12 is too old; 13 or later"),
        (
            replace(SOUND, standby=True, read_only=True),
            "error: it is a standby, which is read-only",
        ),
        (replace(SOUND, encoding="SQL_ASCII"), "warning: its encoding SQL_ASCII cannot"),
        (
            replace(SOUND, rights={"serial USAGE": True, "schema public USAGE": False}),
            "error: role rudder lacks USAGE on schema public",
        ),
        (
            replace(SOUND, indexes=(SOUND.indexes[1],)),
            "warning: there is no index on ruddersysevents",
        ),
        (
            replace(
                SOUND,
                indexes=(
                    SOUND.indexes[1],
                    Index("ruddersysevents", ("nodeid", "executiontimestamp"), whole=False),
                ),
            ),
            "warning: there is no index on ruddersysevents",
        ),
    ],
)
def test_each_fault_gives_one_finding(found: Survey, line: str) -> None:
    """A database with one fault gives one finding."""
    (text,) = found_in(found)
    assert text.startswith(line)


def test_an_unknown_sqlstate_is_reported_with_the_text_of_the_server() -> None:
    """A refusal with an unlisted SQLSTATE is reported in the words of the server."""
    failure = DatabaseError("the sky is falling", "operator", "ZZ999")
    finding = judge_failure(failure, "postgres://u@h:5/d")
    assert (finding.where, finding.what) == ("h:5/d", "the sky is falling (SQLSTATE ZZ999)")
    assert finding.fix == "check the server's log"


@pytest.mark.parametrize(
    ("cause", "what", "fix"),
    [
        (ConnectionRefusedError(111, "refused"), "Connection refused", "start PostgreSQL"),
        (socket.gaierror(-2, "unknown name"), "unknown name", "correct the host name"),
        (ssl.SSLError(1, "wrong version number"), "TLS: ", "correct TLS"),
        (TimeoutError(110, "timed out"), "no answer in time", "check the firewall"),
        (ConnectError("/x: gone", Step.FILE), "/x: gone", "correct the file"),
        (ConnectError("expected a", Step.OPTION), "expected a", "correct output.database.url"),
    ],
)
def test_a_failed_connection_has_the_fix_for_its_cause(
    cause: Exception, what: str, fix: str
) -> None:
    """The step that failed decides the fix, and its reason is shown without a number."""
    failure = explain_connecting(cause, "h:5")
    error = explain(failure)
    error.__cause__ = failure
    finding = judge_failure(error, "postgres://u@h:5/d")
    assert finding.code == "database.unreachable"
    assert finding.what.startswith(what)
    assert finding.fix.startswith(fix)


STANDBYS = replace(SOUND, standbys=2)
NAMED = replace(SOUND, standbys=2, synchronous=True)


@pytest.mark.parametrize(
    ("found", "hold", "codes"),
    [
        (SOUND, 0.0, []),
        (STANDBYS, 0.0, ["hold"]),
        (STANDBYS, 60.0, []),
        (NAMED, 0.0, []),
        (replace(NAMED, standbys=0), 60.0, ["standbys"]),
        (replace(NAMED, standbys=0, synchronous_commit="local"), 0.0, ["commit"]),
        (replace(NAMED, synchronous_commit="local"), 60.0, []),
        (replace(SOUND, synchronous_commit="local"), 0.0, []),
        (replace(SOUND, synchronous_commit="off"), 0.0, ["commit"]),
        (replace(SOUND, synchronous_commit="off"), 60.0, []),
        (replace(SOUND, lost_settings=("work_mem",), pooled=True), 0.0, ["pooler"]),
        (replace(SOUND, pooled=True), 0.0, []),
    ],
)
def test_what_may_lose_commits_is_reported(found: Survey, hold: float, codes: list[str]) -> None:
    """Where a failover or a crash would lose commits, and where settings are lost, is reported."""
    findings = list(judge_losses(found, "db", hold))
    assert [finding.code for finding in findings] == [f"database.{code}" for code in codes]


@pytest.mark.parametrize(
    ("tomorrow", "level"), [("ready", None), ("default", "warning"), ("missing", "error")]
)
def test_a_missing_partition_is_reported(tomorrow: Tomorrow, level: str | None) -> None:
    """Tomorrow's run logs need a partition: the default one is a warning, none an error."""
    findings = list(judge_partitions(replace(SOUND, partitioned=True, tomorrow=tomorrow), "db"))
    assert [str(finding.level) for finding in findings] == ([level] if level else [])


def test_an_index_of_a_partitioned_table_is_made_without_concurrently() -> None:
    """PostgreSQL refuses CREATE INDEX CONCURRENTLY on a table with partitions."""
    found = replace(SOUND, indexes=SOUND.indexes[1:])
    for partitioned in (False, True):
        (finding,) = judge(replace(found, partitioned=partitioned), "db")
        assert ("CONCURRENTLY" in finding.fix) is not partitioned
