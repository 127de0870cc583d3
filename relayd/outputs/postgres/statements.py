"""The SQL statements of relayd.

Only SELECT and INSERT on two tables, and USAGE on one sequence: tables and indexes belong to
Rudder's web application.
"""

from typing import Final

from relayd.runlog.model import COLUMNS

#: Opens a transaction; %s takes the statements that bound it.
OPEN: Final = "BEGIN;%s"

#: Lets the server say that the wait of a COMMIT for its standbys was interrupted.
WARN: Final = "SET LOCAL client_min_messages = warning;"

#: Bounds a transaction: a setting and its value.
LIMIT: Final = "SET LOCAL %s = %s;"

#: Takes the locks of a transaction; %s takes only relayd's own numbers.
#: Writers of the same run wait here until the first of them has committed. The keys are sorted, so
#: that two writers with several runs in common cannot deadlock.
#: The last lock is the same for all relayd: who has it draws ids and commits before the next one
#: draws any, so ids become visible in their order, and a reader that follows "id > last seen" never
#: misses a row. (Its first number is "rely" in ASCII.) When it was taken is kept for `FACTS`.
LOCK: Final = """
SELECT count(pg_advisory_xact_lock(key)) FROM unnest('{%s}'::bigint[]) AS key;
SELECT pg_advisory_xact_lock(1919249529, 1);
SELECT set_config('relayd.locked', clock_timestamp()::text, true)
"""

COMMIT: Final = "COMMIT;"

ROLLBACK: Final = "ROLLBACK;"

_TEXTS: Final = ", ".join(f"coalesce({name}::text, '')" for name in COLUMNS)

#: A report of another node than $1.
REPORT_OF_ANOTHER: Final = f"""
SELECT {_TEXTS}
FROM ruddersysevents WHERE nodeid <> $1 LIMIT 1
"""  # noqa: S608 - relayd's own column names

#: Checks what a COMMIT would check.
CHECK_CONSTRAINTS: Final = "SET CONSTRAINTS ALL IMMEDIATE;"

#: Rolls back after what a COMMIT would check was checked.
UNDO: Final = f"{CHECK_CONSTRAINTS} {ROLLBACK}"

#: A part of a transaction that is undone, while the transaction goes on.
BEGIN_TRIAL: Final = "SAVEPOINT trial"
UNDO_TRIAL: Final = "ROLLBACK TO SAVEPOINT trial"

_MATCHES: Final = """
    r.nodeid = w.nodeid AND r.executiontimestamp = w.executiontimestamp
    AND (r.executiondate, r.directiveid, r.ruleid, r.reportid, r.component, r.keyvalue,
         r.eventtype, r.msg, r.policy)
        IS NOT DISTINCT FROM
        (w.executiondate, w.directiveid, w.ruleid, w.reportid, w.component, w.keyvalue,
         w.eventtype, w.msg, w.policy)
"""

#: Numbers below 0 are about the transaction: the microseconds for which it waited for locks, and
#: whether its commit will wait for standbys. %s takes `POINT` or nothing.
FACTS: Final = """
SELECT -1 AS number, (1e6 * extract(epoch FROM
           nullif(current_setting('relayd.locked', true), '')::timestamptz
           - transaction_timestamp()))::bigint AS value
UNION ALL
SELECT -2, (current_setting('synchronous_standby_names') <> '')::int
UNION ALL
%s"""

_SERVER: Final = """
hashtextextended(concat_ws(' ', pg_postmaster_start_time(),
    (SELECT system_identifier FROM pg_control_system()),
    left(pg_walfile_name(pg_current_wal_lsn()), 8)), 0)
"""
_POSITION: Final = "(pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint"
_SERVER_BY_START: Final = "hashtextextended(pg_postmaster_start_time()::text, 0)"

#: Where the server is: a number that differs once the server, its start or its timeline does, and
#: the position in its WAL; only its start where the account may not ask for more.
WHERE: Final = f"SELECT {_SERVER} AS server, {_POSITION} AS position"
WHERE_BY_START: Final = f"SELECT {_SERVER_BY_START} AS server, 0::bigint AS position"

#: The same as numbers -3 and -4, the position before the first row.
POINT: Final = f"SELECT -3, {_SERVER} UNION ALL SELECT -4, {_POSITION} UNION ALL"
POINT_BY_START: Final = f"SELECT -3, {_SERVER_BY_START} UNION ALL SELECT -4, 0 UNION ALL"

#: The address of the server, and whether it only replays what another one writes.
ROLE: Final = """
SELECT host(inet_server_addr()) AS host, inet_server_port() AS port, pg_is_in_recovery() AS standby
"""

#: Its timeline; only a primary has it.
TIMELINE: Final = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"

#: Makes the commit of a transaction that has inserted nothing wait for standbys, as one that has
#: does: they may lack the rows that it found.
WAIT_FOR_STANDBYS: Final = "SELECT pg_logical_emit_message(true, 'relayd', '')"

#: Number 0 has an id drawn from the sequence, below all that rows get from now on. The others are
#: reports that are already stored, and how many rows their runs have. LATERAL with a LIMIT makes
#: the planner use one index probe for each report, even on a table that was never analyzed. %s
#: takes `FACTS`.
STORED: Final = f"""
%s
SELECT 0 AS number, nextval('serial') AS value
UNION ALL
SELECT w.number::int,
       (SELECT count(*) FROM ruddersysevents AS r
         WHERE r.nodeid = w.nodeid AND r.executiontimestamp = w.executiontimestamp)
FROM unnest($1::text[]::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[],
            $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
            $11::text[]::timestamptz[])
     WITH ORDINALITY AS w({", ".join(COLUMNS)}, number)
CROSS JOIN LATERAL (SELECT 1 FROM ruddersysevents AS r WHERE {_MATCHES} LIMIT 1) AS found
"""  # noqa: S608 - relayd's own column names

#: Executions of complete run logs. The id of a run log's first row follows from its place among
#: the $6 rows that were inserted after id $5 was drawn, unless another session drew ids meanwhile;
#: then it is looked up.
_EXECUTION: Final = """
       w.nodeid, w.start, w.config,
       CASE WHEN currval('serial') - $5 = $6 THEN $5 + w.place
       ELSE (SELECT r.id FROM ruddersysevents AS r
              WHERE r.nodeid = w.nodeid AND r.executiontimestamp = w.start AND r.id > $5
              ORDER BY r.id LIMIT 1)
       END
FROM unnest($1::text[], $2::text[]::timestamptz[], $3::text[], $4::bigint[])
     AS w(nodeid, start, config, place)
"""

#: An execution that already exists is left alone.
EXECUTIONS: Final = f"""
INSERT INTO reportsexecution (nodeid, date, nodeconfigid, insertionid)
SELECT {_EXECUTION}
ON CONFLICT (nodeid, date) DO NOTHING
"""

#: The same for a table without its key: writers of the same run wait for each other at the locks
#: of `BEGIN`, so each sees what the other has committed.
EXECUTIONS_WITHOUT_KEY: Final = f"""
INSERT INTO reportsexecution (nodeid, date, nodeconfigid, insertionid)
SELECT DISTINCT ON (w.nodeid, w.start) {_EXECUTION}
WHERE NOT EXISTS (SELECT FROM reportsexecution AS e
                   WHERE e.nodeid = w.nodeid AND e.date = w.start)
ORDER BY w.nodeid, w.start, w.place
"""  # noqa: S608 - relayd's own text

_VALUES: Final = ", ".join(
    f"w.{name}::timestamptz" if name.startswith("execution") else f"w.{name}" for name in COLUMNS
)
_ARRAYS: Final = ", ".join(f"${place + 1}::text[]" for place in range(len(COLUMNS)))

#: Rows where COPY is not possible; they get their ids in the order of the arrays.
ROWS: Final = f"""
INSERT INTO ruddersysevents ({", ".join(COLUMNS)})
SELECT {_VALUES}
FROM unnest({_ARRAYS})
     WITH ORDINALITY AS w({", ".join(COLUMNS)}, number)
ORDER BY w.number
"""  # noqa: S608 - relayd's own column names

#: One row that says which of the required rights are missing, by what each is called. Reads no
#: table.
RIGHTS: Final = """
SELECT has_table_privilege('ruddersysevents', 'SELECT') AS "SELECT on ruddersysevents",
       has_table_privilege('ruddersysevents', 'INSERT') AS "INSERT on ruddersysevents",
       has_table_privilege('reportsexecution', 'SELECT') AS "SELECT on reportsexecution",
       has_table_privilege('reportsexecution', 'INSERT') AS "INSERT on reportsexecution",
       has_sequence_privilege('serial', 'USAGE') AS "USAGE on sequence serial",
       current_setting('transaction_read_only') = 'off' AS writable
"""

#: How rows go in, and a number that differs once the definition of the tables does: what refused a
#: row may be gone then. Reads the catalogs only. The key must be one that ON CONFLICT can use.
TABLES: Final = """
WITH RECURSIVE tree(id) AS (
    SELECT unnest(ARRAY['ruddersysevents'::regclass::oid, 'reportsexecution'::regclass::oid])
    UNION
    SELECT i.inhrelid FROM pg_inherits AS i JOIN tree ON i.inhparent = tree.id
), parts(part) AS (
    SELECT concat_ws(' ', c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity,
                     pg_get_expr(c.relpartbound, c.oid))
      FROM pg_class AS c JOIN tree ON c.oid = tree.id
    UNION ALL
    SELECT concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                     a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid))
      FROM tree JOIN pg_attribute AS a ON a.attrelid = tree.id
      LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT concat_ws(' ', k.conname, k.convalidated, pg_get_constraintdef(k.oid))
      FROM pg_constraint AS k
     WHERE k.conrelid IN (SELECT id FROM tree)
        OR k.contypid IN (SELECT a.atttypid FROM tree JOIN pg_attribute AS a
                              ON a.attrelid = tree.id AND NOT a.attisdropped)
    UNION ALL
    SELECT pg_get_indexdef(x.indexrelid)
      FROM tree JOIN pg_index AS x ON x.indrelid = tree.id
    UNION ALL
    SELECT concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled, f.prosrc)
      FROM tree JOIN pg_trigger AS t ON t.tgrelid = tree.id JOIN pg_proc AS f ON f.oid = t.tgfoid
     WHERE NOT t.tgisinternal
    UNION ALL
    SELECT concat_ws(' ', p.polname, p.polcmd, p.polpermissive, p.polroles,
                     pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
      FROM tree JOIN pg_policy AS p ON p.polrelid = tree.id
    UNION ALL
    SELECT pg_get_ruledef(r.oid) FROM tree JOIN pg_rewrite AS r ON r.ev_class = tree.id
)
SELECT (SELECT hashtextextended(string_agg(part, ' ' ORDER BY part), 0) FROM parts) AS definition,
       (SELECT relkind IN ('r', 'p') AND NOT row_security_active(oid)
          FROM pg_class WHERE oid = 'ruddersysevents'::regclass) AS copy,
       (SELECT relkind = 'p' FROM pg_class WHERE oid = 'ruddersysevents'::regclass) AS partitioned,
       EXISTS (SELECT FROM pg_index AS x
                WHERE x.indrelid = 'reportsexecution'::regclass AND x.indisunique AND x.indisvalid
                  AND x.indimmediate AND x.indpred IS NULL AND x.indexprs IS NULL
                  AND x.indnkeyatts = 2
                  AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text)
                         FROM pg_attribute AS a
                        WHERE a.attrelid = x.indrelid
                          AND a.attnum = ANY ((x.indkey::int2[])[0:1])) = '{date,nodeid}') AS key,
       coalesce((SELECT bool_and(has_function_privilege(to_regprocedure(name), 'EXECUTE'))
                   FROM unnest('{pg_control_system(),pg_current_wal_lsn(),
                                 pg_walfile_name(pg_lsn)}'::text[]) AS name), false) AS where_,
       coalesce(has_function_privilege(coalesce(
           to_regprocedure('pg_logical_emit_message(boolean,text,text)'),
           to_regprocedure('pg_logical_emit_message(boolean,text,text,boolean)')), 'EXECUTE'),
           false) AS message
"""

#: Until when each day has a partition of its own, for partitions by ranges of executiontimestamp:
#: the end of those that follow one another from the one of now on; now if there is none. No row for
#: other partitions. Reads the catalogs only.
PARTITIONS_END: Final = r"""
WITH RECURSIVE bounds AS (
    SELECT regexp_match(pg_get_expr(c.relpartbound, c.oid),
                        'FROM \((.+)\) TO \((.+)\)$') AS texts
      FROM pg_partitioned_table AS p
      JOIN pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = (p.partattrs::int2[])[0]
      JOIN pg_inherits AS i ON i.inhparent = p.partrelid
      JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE p.partrelid = 'ruddersysevents'::regclass AND p.partstrat = 'r' AND p.partnatts = 1
       AND a.attname = 'executiontimestamp'
), ranges AS (
    SELECT CASE texts[1] WHEN 'MINVALUE' THEN '-infinity' ELSE trim($$'$$ FROM texts[1]) END AS low,
           CASE texts[2] WHEN 'MAXVALUE' THEN 'infinity' ELSE trim($$'$$ FROM texts[2]) END AS high
      FROM bounds WHERE texts IS NOT NULL
), following(high) AS (
    SELECT high FROM ranges WHERE now() >= low::timestamptz AND now() < high::timestamptz
    UNION
    SELECT r.high FROM ranges AS r JOIN following AS f ON r.low = f.high
)
SELECT extract(epoch FROM coalesce(max(high::timestamptz), now()))::float8 FROM following
HAVING EXISTS (SELECT FROM bounds)
"""

#: The start of the last stored run of node $1.
LAST_RUN: Final = """
SELECT extract(epoch FROM date)::float8 FROM reportsexecution
WHERE nodeid = $1 ORDER BY date DESC LIMIT 1
"""

#: Fails with the name of the column when the tables are not as expected.
SCHEMA: Final = (
    f"SELECT id, {', '.join(COLUMNS)} FROM ruddersysevents LIMIT 0",  # noqa: S608 - own names
    "SELECT nodeid, date, nodeconfigid, insertionid FROM reportsexecution LIMIT 0",
)
