"""Each fault of the database is reported in one line, with its fix."""

import os
import pwd
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from relayd.outputs.postgres.connecting.surroundings import Surroundings
from tests.support import postgres
from tests.support.checked import check, give, service_user
from tests.support.daemon import Site
from tests.support.misconfigured import Case, case, conf, parameters, server, sql, verify

CREATE: Final = "Fix: restart Rudder's web application, which creates its tables, and check its log"


UNREACHABLE: Final = [
    case(
        "nobody listens",
        server(port=1),
        "error: {database}: Connection refused."
        " Fix: start PostgreSQL there, or correct output.database.url",
    ),
    case(
        "unknown host",
        server(host="nowhere.invalid"),
        "~error: {database}: .*\\. Fix: correct the host name in output.database.url",
    ),
    case(
        "empty password",
        server(password=""),
        "error: {database}: it asks for a password, and output.database.password is empty."
        " Fix: correct output.database.password, or pg_hba.conf of the server",
    ),
    case(
        "wrong password",
        server(password="wrong"),
        'error: {database}: password authentication failed for user "rudder" (SQLSTATE 28P01).'
        " Fix: correct output.database.password, or set it: ALTER ROLE rudder PASSWORD …",
    ),
    case(
        "no such database",
        server(database="nothing"),
        'error: {database}: database "nothing" does not exist (SQLSTATE 3D000).'
        " Fix: correct the database name in output.database.url, or create the database",
    ),
    case(
        "no TLS",
        lambda site, _: conf(output__database=f'url = "{site.database.url}?sslmode=require"')(
            site, _
        ),
        "error: {database}: the server has no TLS, which sslmode=require requires."
        " Fix: correct TLS on the server, or sslmode and sslrootcert in output.database.url",
    ),
    case(
        "role may not connect",
        sql("REVOKE CONNECT ON DATABASE {name} FROM rudder"),
        'error: {database}: permission denied for database "{name}" (SQLSTATE 42501).'
        " Fix: GRANT CONNECT ON DATABASE {name} TO rudder",
    ),
    case(
        "too many connections",
        sql("ALTER DATABASE {name} CONNECTION LIMIT 0"),
        'error: {database}: too many connections for database "{name}" (SQLSTATE 53300).'
        " Fix: raise the limit of connections of the server, role or database, or close others",
        faults=("F37",),
    ),
    case(
        "closed database",
        sql("\\connect postgres\nALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        'error: {database}: database "{name}" is not currently accepting connections'
        " (SQLSTATE 55000). Fix: ALTER DATABASE {name} ALLOW_CONNECTIONS true",
        faults=("F37",),
    ),
]

POLICIES: Final = (
    " Fix: let the role insert rows and read them, by a policy of each kind for both tables:"
    " CREATE POLICY … FOR INSERT WITH CHECK (true); CREATE POLICY … FOR SELECT USING (true);"
    " and RESET row_security if it is set"
)
WITHOUT_COPY: Final = (
    "warning: {database}: ruddersysevents has row-level security or is a view, so rows go in"
    " without COPY. Fix: exempt the role from the policies (BYPASSRLS), or accept that it is slower"
)

UNFIT: Final = [
    case(
        "no table",
        sql("DROP TABLE reportsexecution"),
        "error: {database}: table reportsexecution does not exist. " + CREATE,
    ),
    case(
        "tables outside the search path",
        sql("ALTER ROLE rudder IN DATABASE {name} SET search_path = elsewhere"),
        *(
            f"error: {{database}}: {thing} is in schema public, but the search_path is elsewhere."
            " Fix: ALTER ROLE rudder SET search_path = public; or correct the database's URL"
            for thing in ("table ruddersysevents", "table reportsexecution", "sequence serial")
        ),
        faults=("F37",),
    ),
    case(
        "no column",
        sql("ALTER TABLE ruddersysevents RENAME COLUMN reportid TO serial"),
        "error: {database}: table ruddersysevents has no column reportid. " + CREATE,
    ),
    case(
        "column of another type",
        sql("ALTER TABLE reportsexecution ALTER COLUMN insertionid TYPE integer"),
        "error: {database}: column reportsexecution.insertionid is integer, expected bigint."
        " Fix: ALTER TABLE reportsexecution ALTER COLUMN insertionid TYPE bigint",
    ),
    case(
        "no sequence",
        sql("ALTER SEQUENCE serial RENAME TO other"),
        "error: {database}: sequence serial does not exist. " + CREATE,
    ),
    case(
        "ids from elsewhere",
        sql("ALTER TABLE ruddersysevents ALTER COLUMN id DROP DEFAULT"),
        "error: {database}: the default of ruddersysevents.id is not from sequence serial."
        " Fix: ALTER TABLE ruddersysevents ALTER COLUMN id SET DEFAULT nextval('serial')",
    ),
    *(
        case(
            f"no right to {kind}",
            sql(f"REVOKE {kind} ON {thing} FROM rudder"),
            f"error: {{database}}: role rudder lacks {kind} on {thing.lower()}."
            f" Fix: GRANT {kind} ON {thing} TO rudder",
        )
        for kind, thing in (
            ("SELECT", "ruddersysevents"),
            ("INSERT", "reportsexecution"),
            ("USAGE", "SEQUENCE serial"),
        )
    ),
    case(
        "no right to the schema",
        sql("REVOKE USAGE ON SCHEMA public FROM rudder, PUBLIC"),
        "error: {database}: role rudder lacks USAGE on schema public."
        " Fix: GRANT USAGE ON SCHEMA public TO rudder",
        faults=("F37",),
    ),
    case(
        "policies that the role must not be under",
        sql(
            "ALTER TABLE ruddersysevents ENABLE ROW LEVEL SECURITY;"
            "ALTER ROLE rudder IN DATABASE {name} SET row_security = off"
        ),
        "error: {database}: the tables refuse run logs: query would be affected by row-level"
        ' security policy for table "ruddersysevents" (SQLSTATE 42501).' + POLICIES,
        faults=("F14",),
    ),
    case(
        "read-only",
        sql("ALTER ROLE rudder IN DATABASE {name} SET default_transaction_read_only = on"),
        "error: {database}: transactions are read-only by default."
        " Fix: ALTER ROLE rudder RESET default_transaction_read_only, or for the database",
    ),
    case(
        "superuser",
        lambda site, database: server(user="postgres", password=database.superuser.password)(
            site, database
        ),
        "warning: {database}: role postgres is a superuser, but relayd only needs SELECT and"
        " INSERT. Fix: use a role with fewer privileges in output.database.url, such as rudder",
    ),
    case(
        "no index",
        sql("DROP INDEX composite_node_execution_idx"),
        "warning: {database}: there is no index on ruddersysevents (nodeid, executiontimestamp),"
        " so the search for duplicates is slow."
        " Fix: CREATE INDEX CONCURRENTLY ON ruddersysevents (nodeid, executiontimestamp)",
    ),
    case(
        "no primary key",
        sql("ALTER TABLE reportsexecution DROP CONSTRAINT reportsexecution_pkey"),
        "warning: {database}: reportsexecution has no primary key (nodeid, date),"
        " so nothing but relayd itself keeps a run from being stored twice (a restore may leave it"
        " out). Fix: remove duplicates, then"
        " ALTER TABLE reportsexecution ADD PRIMARY KEY (nodeid, date)",
        faults=("F14",),
    ),
    case(
        "row-level security",
        sql(
            "ALTER TABLE ruddersysevents ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY all_of_it ON ruddersysevents USING (true)"
        ),
        WITHOUT_COPY,
        faults=("F14",),
    ),
    case(
        "row-level security without a policy for SELECT",
        sql(
            "ALTER TABLE ruddersysevents ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY in_only ON ruddersysevents FOR INSERT WITH CHECK (true)"
        ),
        "error: {database}: the tables refuse run logs: row-level security hides the rows that"
        " relayd inserts; add a policy FOR SELECT (SQLSTATE 42501)." + POLICIES,
        WITHOUT_COPY,
        faults=("F14", "F37"),
    ),
    case(
        "row-level security without a policy for INSERT",
        sql(
            "ALTER TABLE reportsexecution ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY out_only ON reportsexecution FOR SELECT USING (true)"
        ),
        "error: {database}: the tables refuse run logs: new row violates row-level security policy"
        ' for table "reportsexecution" (SQLSTATE 42501).' + POLICIES,
        faults=("F14", "F37"),
    ),
    case(
        "sequence behind the table",
        sql(
            "INSERT INTO ruddersysevents SELECT 999, now(), 'x', 'x', 'x', 'x', 'x', 'x', now();"
            "SELECT setval('serial', 900)"
        ),
        "~error: {database}: sequence serial is at \\d+, behind the highest id 999 of"
        " ruddersysevents, so rows are refused as duplicates \\(a restore leaves it so\\)."
        " Fix: SELECT setval\\('serial', max\\(id\\)\\) FROM ruddersysevents",
        faults=("F5",),
    ),
    case(
        "sequence exhausted",
        sql("ALTER SEQUENCE serial MAXVALUE 200; SELECT setval('serial', 200)"),
        "error: {database}: sequence serial has given its last number, 200."
        " Fix: ALTER SEQUENCE serial NO MAXVALUE",
        faults=("F5",),
    ),
    case(
        "column of others",
        sql("ALTER TABLE ruddersysevents ADD COLUMN site text NOT NULL"),
        "error: {database}: column ruddersysevents.site, which is not Rudder's, needs a value in"
        " each row. Fix: ALTER TABLE ruddersysevents ALTER COLUMN site DROP NOT NULL, or give it a"
        " default",
        faults=("F5",),
    ),
    case(
        "trigger that raises",
        sql(
            "CREATE FUNCTION raises() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'not here'; END $$;"
            "CREATE TRIGGER raises BEFORE INSERT ON ruddersysevents FOR EACH ROW"
            " EXECUTE FUNCTION raises()"
        ),
        "error: {database}: the tables refuse run logs: not here (SQLSTATE P0001)."
        " Fix: drop the trigger, or correct it",
        faults=("F5",),
    ),
]


@pytest.mark.parametrize("broken", parameters(UNREACHABLE))
def test_a_failed_connection_is_reported_with_its_reason(
    broken: Case, site: Site, database: postgres.Database
) -> None:
    """A database without a connection is reported with the reason, and nothing else is."""
    broken.apply(site, database)
    verify(check(site), broken.lines, site, lonely=True)


@pytest.mark.parametrize("broken", parameters(UNFIT))
def test_an_unsuitable_database_is_reported(
    broken: Case, site: Site, database: postgres.Database
) -> None:
    """A missing or wrong table, column, index or privilege is reported, and nothing else is."""
    broken.apply(site, database)
    verify(check(site), broken.lines, site)


@pytest.mark.fault("F34")
def test_files_below_a_home_are_those_of_the_service_user(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libpq reads below a home directory is looked for in that of the user of the service."""
    if os.geteuid() != 0:
        pytest.skip("only root checks another user")
    passwords = tmp_path / ".pgpass"
    passwords.touch(mode=0o600)
    passwords.write_text(f"*:*:*:*:{site.database.password.replace(':', chr(92) + ':')}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    site.database = replace(site.database, password="")
    site.write()
    give(site.root)
    found = check(site)
    assert any("output.database.password is empty" in line for line in found.lines)
    assert Surroundings.of_process().home == tmp_path
    nobody = pwd.getpwnam(service_user())
    surroundings = Surroundings.of_user(nobody.pw_uid)
    assert (surroundings.home, surroundings.user) == (Path(nobody.pw_dir), nobody.pw_name)


@pytest.mark.fault("F34")
def test_files_of_the_url_are_read_by_the_service_user(site: Site) -> None:
    """A file that root can read and the service user cannot is a fault, before any connection."""
    if os.geteuid() != 0:
        pytest.skip("only root checks another user")
    private = site.root / "root.crt"
    private.touch(mode=0o600)
    site.extra["output.database"] = f'url = "{site.database.url}?sslrootcert={private}"'
    site.write_conf()
    found = check(site)
    assert f"error: {private}: user {service_user()} may not read it" in "\n".join(found.lines)
    assert not any("sslmode" in line for line in found.lines)
