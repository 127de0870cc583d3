"""What relayd does about each error code of PostgreSQL."""

import asyncpg
import pytest

from relayd.outputs.postgres import sqlstate
from relayd.outputs.postgres.sqlstate import kind_of

#: Every code that asyncpg, generated from the server's own errcodes.txt, has an exception for.
KNOWN = sorted(
    {
        code
        for name in dir(asyncpg.exceptions)
        if isinstance(code := getattr(getattr(asyncpg.exceptions, name), "sqlstate", None), str)
        and len(code) == 5
    }
)


#: Classes that need an operator, reviewed one by one.
OPERATOR = frozenset(
    {"26", "28", "2B", "34", "3B", "3D", "3F", "F0", "72", "01"}
    | {"0B", "0F", "0L", "0P", "0Z", "10", "20", "24", "2D", "00"}
)


@pytest.mark.fault("D25")
def test_every_known_code_is_decided_explicitly() -> None:
    """Each class of the server was reviewed: none is treated as an operator's by accident."""
    listed = (sqlstate.TRANSIENT, sqlstate.PERMANENT, sqlstate.TABLE, OPERATOR)
    assert len(KNOWN) > 200
    for code in KNOWN:
        lists = sum(code[:2] in classes for classes in listed)
        assert code in sqlstate.EXCEPTIONS or lists == 1, code


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        pytest.param("08006", "transient", id="connection lost"),
        pytest.param("40001", "transient", id="serialization"),
        pytest.param("40P01", "transient", id="deadlock"),
        pytest.param("53100", "transient", id="disk full"),
        pytest.param("53200", "transient", id="out of memory"),
        pytest.param("53300", "transient", id="too many connections"),
        pytest.param("55P03", "transient", id="lock not available"),
        pytest.param("57014", "transient", id="statement timeout"),
        pytest.param("57P01", "transient", id="terminated by an administrator"),
        pytest.param("57P03", "transient", id="starting up"),
        pytest.param("58030", "transient", id="I/O error of the server"),
        pytest.param("22021", "permanent", id="character not in repertoire"),
        pytest.param("22008", "permanent", id="date out of range"),
        pytest.param("22001", "table", id="a column was narrowed"),
        pytest.param("22P05", "table", id="an encoding without that character"),
        pytest.param("23505", "table", id="unique violation"),
        pytest.param("23514", "table", id="check violation"),
        pytest.param("54000", "permanent", id="index row too large"),
        pytest.param("25006", "operator", id="read-only server"),
        pytest.param("28P01", "operator", id="wrong password"),
        pytest.param("3D000", "operator", id="no such database"),
        pytest.param("42501", "table", id="no right, or refused by a policy"),
        pytest.param("42P01", "table", id="no such table"),
        pytest.param("42P05", "operator", id="a pooler in between"),
        pytest.param("0A000", "table", id="not possible with this table"),
        pytest.param("ZZ999", "operator", id="a code nobody knows"),
    ],
)
def test_codes_have_their_kind(code: str, kind: str) -> None:
    """A code is tried again soon, waits for someone, or concerns one run log only."""
    assert kind_of(code) == kind


@pytest.mark.fault("F5")
@pytest.mark.parametrize(
    ("code", "constraint", "context", "kind"),
    [
        ("23514", "own_check", "", "table"),
        ("23514", "ruddersysevents_component_check", "", "permanent"),
        ("23514", None, "", "table"),
        ("22008", None, "COPY ruddersysevents, line 1, column executiondate", "permanent"),
        ("22008", None, "PL/pgSQL function audit() line 3 at SQL statement\nCOPY …", "table"),
        ("P0001", None, "PL/pgSQL function audit() line 3 at RAISE\nCOPY …", "table"),
    ],
)
def test_the_place_of_an_error_counts_too(
    code: str, constraint: str | None, context: str, kind: str
) -> None:
    """A constraint without name, or data refused inside a trigger, are not a run log's fault."""
    assert kind_of(code, constraint=constraint, context=context) == kind
