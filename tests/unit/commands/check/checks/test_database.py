"""What is told about a database that no test can have: old ones and standbys."""

import pytest
from msgspec.structs import replace

from relayd.commands.check.checks.database import COLUMNS, judge, judge_failure
from relayd.errors import DatabaseError
from relayd.outputs.postgres.survey import Column, Index, Survey

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


def told(survey: Survey) -> list[str]:
    """Level and text of each finding."""
    return [f"{finding.level}: {finding.what}" for finding in judge(survey, "db")]


def test_a_sound_database_gives_no_finding() -> None:
    """PostgreSQL 13 with Rudder's tables is what relayd needs."""
    assert told(SOUND) == []


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (replace(SOUND, version=12_00_20), "error: PostgreSQL 12 is too old, 13 is the first"),
        (replace(SOUND, standby=True, read_only=True), "error: it is a standby: it can only be"),
        (replace(SOUND, encoding="SQL_ASCII"), "warning: its encoding is SQL_ASCII"),
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
def test_what_is_not_as_needed_is_told_once(found: Survey, line: str) -> None:
    """Each thing that is wrong gives one finding."""
    (text,) = told(found)
    assert text.startswith(line)


def test_an_unknown_sqlstate_is_told_with_the_servers_text() -> None:
    """A refusal that no list names is told as the server said it."""
    failure = DatabaseError("the sky is falling", "operator", "ZZ999")
    finding = judge_failure(failure, "postgres://u@h:5/d")
    assert (finding.where, finding.what) == ("h:5/d", "the sky is falling (SQLSTATE ZZ999)")
    assert finding.mend == "see the server's log"
