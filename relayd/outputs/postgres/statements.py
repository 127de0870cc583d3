"""The SQL statements of relayd.

Only SELECT and INSERT on two tables, and USAGE on one sequence: tables and indexes belong to
Rudder's web application.
"""

from typing import Final

from relayd.runlog.model import COLUMNS

#: Opens a transaction; %s takes the statements that bound it.
OPEN: Final = "BEGIN;%s"

#: Bounds a transaction: a setting and its value.
LIMIT: Final = "SET LOCAL %s = %s;"

#: Takes the locks of a transaction; %s takes only relayd's own numbers.
#: Writers of the same run wait here until the first of them has committed. The keys are sorted, so
#: that two writers with several runs in common cannot deadlock.
LOCK: Final = "SELECT count(pg_advisory_xact_lock(key)) FROM unnest('{%s}'::bigint[]) AS key"

COMMIT: Final = "COMMIT;"

ROLLBACK: Final = "ROLLBACK;"

_MATCHES: Final = """
    r.nodeid = w.nodeid AND r.executiontimestamp = w.executiontimestamp
    AND (r.executiondate, r.directiveid, r.ruleid, r.reportid, r.component, r.keyvalue,
         r.eventtype, r.msg, r.policy)
        IS NOT DISTINCT FROM
        (w.executiondate, w.directiveid, w.ruleid, w.reportid, w.component, w.keyvalue,
         w.eventtype, w.msg, w.policy)
"""

#: Number 0 has an id drawn from the sequence, below all that rows get from now on. The others are
#: reports that are already stored, and how many rows their runs have. LATERAL with a LIMIT makes
#: the planner use one index probe for each report, even on a table that was never analyzed.
STORED: Final = f"""
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

#: An execution that already exists is left alone. The id of a run log's first row follows from its
#: place among the $6 rows that were copied after id $5 was drawn, unless another session drew ids
#: meanwhile; then it is looked up.
EXECUTIONS: Final = """
INSERT INTO reportsexecution (nodeid, date, nodeconfigid, insertionid)
SELECT w.nodeid, w.start, w.config,
       CASE WHEN currval('serial') - $5 = $6 THEN $5 + w.place
       ELSE (SELECT r.id FROM ruddersysevents AS r
              WHERE r.nodeid = w.nodeid AND r.executiontimestamp = w.start AND r.id > $5
              ORDER BY r.id LIMIT 1)
       END
FROM unnest($1::text[], $2::text[]::timestamptz[], $3::text[], $4::bigint[])
     AS w(nodeid, start, config, place)
ON CONFLICT (nodeid, date) DO NOTHING
"""

#: One row that says which of the required rights are missing. Reads no table.
RIGHTS: Final = """
SELECT has_table_privilege('ruddersysevents', 'SELECT') AND
       has_table_privilege('ruddersysevents', 'INSERT') AS reports,
       has_table_privilege('reportsexecution', 'SELECT') AND
       has_table_privilege('reportsexecution', 'INSERT') AS executions,
       has_sequence_privilege('serial', 'USAGE') AS sequence,
       current_setting('transaction_read_only') = 'off' AS writable
"""

#: Fails with the name of the column when the tables are not as expected.
SCHEMA: Final = (
    f"SELECT id, {', '.join(COLUMNS)} FROM ruddersysevents LIMIT 0",  # noqa: S608 - own names
    "SELECT nodeid, date, nodeconfigid, insertionid FROM reportsexecution LIMIT 0",
)
