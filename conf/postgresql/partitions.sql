-- Partitions of one day for ruddersysevents, by executiontimestamp. Optional; docs/database.md
-- describes each step. Run as a superuser, one step at a time, in this order:
--
--   psql rudder -v step=prepare -f partitions.sql    while relayd and Rudder are running
--   psql rudder -v step=switch -f partitions.sql     takes a moment; before the boundary that
--                                                    "prepare" has shown
--   psql rudder -v step=maintain -f partitions.sql   each day: makes partitions and drops old ones
--   psql rudder -v step=partman -f partitions.sql    instead of "maintain": pg_partman 4 does it
--   psql rudder -v step=back -f partitions.sql       one table again
--
-- Variables: -v ahead=7 (partitions that exist in advance), -v keep=4 (days after which they are
-- dropped, as rudder.batch.reportscleaner.delete.TTL), -v first=2 (the first partition begins so
-- many days from now).

\set ON_ERROR_STOP on
\if :{?ahead} \else \set ahead 7 \endif
\if :{?keep} \else \set keep 4 \endif
\if :{?first} \else \set first 2 \endif
\if :{?step} \else \set step '' \endif
SELECT :'step' = 'prepare' AS prepare, :'step' = 'switch' AS switch, :'step' = 'back' AS back,
       :'step' = 'maintain' AS maintain, :'step' = 'partman' AS partman \gset

-- Who waits for a lock blocks all who come later, so no step waits long.
SET lock_timeout = '5s';
-- Partitions begin at midnight UTC.
SET timezone = 'UTC';
SET client_min_messages = warning;

\if :prepare
  -- What is in the table already becomes its oldest partition, which ends at the boundary.
  SELECT date_trunc('day', now()) + :first * interval '1 day' AS boundary \gset
  SELECT count(*) AS later FROM ruddersysevents WHERE executiontimestamp >= :'boundary' \gset
  SELECT :later > 0 AS some_later \gset
  \if :some_later
    \echo :later 'rows are dated after' :boundary '- delete them, or set -v first to more days'
    \quit
  \endif
  ALTER TABLE ruddersysevents DROP CONSTRAINT IF EXISTS before_partitions;
  ALTER TABLE ruddersysevents ADD CONSTRAINT before_partitions
    CHECK (executiontimestamp < :'boundary') NOT VALID;
  ALTER TABLE ruddersysevents VALIDATE CONSTRAINT before_partitions;
  -- A unique constraint of a partitioned table must contain the column of the partitions.
  DROP INDEX CONCURRENTLY IF EXISTS ruddersysevents_before_id;
  CREATE UNIQUE INDEX CONCURRENTLY ruddersysevents_before_id
    ON ruddersysevents (id, executiontimestamp);
  \echo 'prepared; switch before' :boundary

\elif :switch
  BEGIN;
  LOCK TABLE ruddersysevents IN ACCESS EXCLUSIVE MODE;
  -- Definitions of the indexes, for all partitions under their own names.
  CREATE TEMPORARY TABLE definitions ON COMMIT DROP AS
  SELECT c.relname AS name, pg_get_indexdef(x.indexrelid) AS definition
    FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid
   WHERE x.indrelid = 'ruddersysevents'::regclass AND NOT x.indisunique;
  SELECT format('ALTER INDEX %I RENAME TO %I', name, left(name, 56) || '_before')
    FROM definitions \gexec
  ALTER TABLE ruddersysevents RENAME TO ruddersysevents_before;
  ALTER TABLE ruddersysevents_before
    ADD CONSTRAINT ruddersysevents_before_id UNIQUE USING INDEX ruddersysevents_before_id;
  CREATE TABLE ruddersysevents (
    LIKE ruddersysevents_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    UNIQUE (id, executiontimestamp)
  ) PARTITION BY RANGE (executiontimestamp);
  ALTER TABLE ruddersysevents DROP CONSTRAINT IF EXISTS before_partitions;
  SELECT definition FROM definitions \gexec
  SELECT format('ALTER TABLE ruddersysevents OWNER TO %s', relowner::regrole)
    FROM pg_class WHERE oid = 'ruddersysevents_before'::regclass \gexec
  SELECT format('GRANT %s ON ruddersysevents TO %s', a.privilege_type,
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
    FROM pg_class AS c, aclexplode(c.relacl) AS a
   WHERE c.oid = 'ruddersysevents_before'::regclass \gexec
  SELECT (regexp_match(pg_get_constraintdef(oid), '''([^'']+)'''))[1] AS boundary
    FROM pg_constraint
   WHERE conrelid = 'ruddersysevents_before'::regclass AND conname = 'before_partitions' \gset
  -- No scan: the constraint proves that all rows belong here.
  ALTER TABLE ruddersysevents ATTACH PARTITION ruddersysevents_before
    FOR VALUES FROM ('1970-01-01') TO (:'boundary');
  -- For clocks that are wrong, and for the day on which nobody has made a partition.
  CREATE TABLE ruddersysevents_default PARTITION OF ruddersysevents DEFAULT;
  SELECT format('ALTER TABLE ruddersysevents_default OWNER TO %s', relowner::regrole)
    FROM pg_class WHERE oid = 'ruddersysevents_before'::regclass \gexec
  COMMIT;
  \set maintain true
\endif

\if :maintain
  SELECT set_config('partitions.ahead', :'ahead', false), set_config('partitions.keep', :'keep', false)
  \g /dev/null
  DO $$
  DECLARE
    day timestamptz;
    name text;
    owner text;
    upper_bound timestamptz;
  BEGIN
    SELECT relowner::regrole::text INTO owner
      FROM pg_class WHERE oid = 'ruddersysevents'::regclass;
    FOR name, upper_bound IN
      SELECT c.oid::regclass::text,
             (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
       WHERE i.inhparent = 'ruddersysevents'::regclass
         AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
    LOOP
      IF upper_bound <= date_trunc('day', now())
                        - current_setting('partitions.keep')::int * interval '1 day' THEN
        EXECUTE format('DROP TABLE %s', name);
      END IF;
    END LOOP;
    DELETE FROM ruddersysevents_default
     WHERE executiontimestamp < date_trunc('day', now())
                                - current_setting('partitions.keep')::int * interval '1 day';
    FOR day IN SELECT generate_series(
        date_trunc('day', now()),
        date_trunc('day', now()) + current_setting('partitions.ahead')::int * interval '1 day',
        interval '1 day')
    LOOP
      name := 'ruddersysevents_p' || to_char(day, 'YYYY_MM_DD');
      CONTINUE WHEN to_regclass(name) IS NOT NULL OR EXISTS (
        SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid,
               regexp_match(pg_get_expr(c.relpartbound, c.oid),
                            'FROM \(''([^'']+)''\) TO \(''([^'']+)''\)') AS bounds
         WHERE i.inhparent = 'ruddersysevents'::regclass
           AND day >= bounds[1]::timestamptz AND day < bounds[2]::timestamptz);
      -- Attached, not created in place: that locks the table less. Rows of the day that are in the
      -- default partition already move.
      EXECUTE format('CREATE TABLE %I (LIKE ruddersysevents INCLUDING ALL)', name);
      EXECUTE format('ALTER TABLE %I OWNER TO %s', name, owner);
      EXECUTE format(
        'WITH moved AS (DELETE FROM ruddersysevents_default WHERE executiontimestamp >= %L AND'
        ' executiontimestamp < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
        day, day + interval '1 day', name);
      EXECUTE format(
        'ALTER TABLE ruddersysevents ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        name, day, day + interval '1 day');
    END LOOP;
  END $$;

\elif :partman
  -- pg_partman 4: the partitions that "switch" has made are its first.
  CREATE SCHEMA IF NOT EXISTS partman;
  CREATE EXTENSION IF NOT EXISTS pg_partman SCHEMA partman;
  SELECT n.nspname || '.ruddersysevents' AS parent,
         to_char((SELECT min((regexp_match(pg_get_expr(p.relpartbound, p.oid),
                                           'FROM \(''([^'']+)''\)'))[1]::timestamptz)
                    FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhrelid
                   WHERE i.inhparent = c.oid AND p.relname LIKE 'ruddersysevents\_p%'),
                 'YYYY-MM-DD HH24:MI:SSOF') AS begin
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
   WHERE c.oid = 'ruddersysevents'::regclass \gset
  SELECT partman.create_parent(:'parent', 'executiontimestamp', 'native', 'daily',
                               p_premake := :ahead, p_start_partition := :'begin')
   WHERE NOT EXISTS (SELECT FROM partman.part_config WHERE parent_table = :'parent') \g /dev/null
  -- It would take ruddersysevents_before, which begins in 1970, for older than it is.
  UPDATE partman.part_config
     SET premake = :ahead, infinite_time_partitions = true, inherit_privileges = true,
         retention_keep_table = false,
         retention = CASE WHEN to_regclass('ruddersysevents_before') IS NULL
                          THEN :'keep' || ' days' END
   WHERE parent_table = :'parent';
  SELECT CASE WHEN to_regclass('ruddersysevents_before') IS NULL THEN 'old partitions are dropped'
         ELSE 'drop ruddersysevents_before once it is old, and run this step again: no partition is'
              ' dropped before' END AS next \gset
  \echo 'call partman.run_maintenance_proc() each hour, or set pg_partman_bgw;' :next

\elif :back
  SELECT to_regclass('partman.part_config') IS NOT NULL AS managed \gset
  BEGIN;
  \if :managed
    SELECT format('DROP TABLE %s', template_table) FROM partman.part_config
     WHERE parent_table LIKE '%.ruddersysevents' AND template_table IS NOT NULL \gexec
    DELETE FROM partman.part_config WHERE parent_table LIKE '%.ruddersysevents';
  \endif
  LOCK TABLE ruddersysevents IN ACCESS EXCLUSIVE MODE;
  ALTER TABLE ruddersysevents DETACH PARTITION ruddersysevents_before;
  ALTER TABLE ruddersysevents_before DROP CONSTRAINT IF EXISTS before_partitions;
  INSERT INTO ruddersysevents_before SELECT * FROM ruddersysevents ORDER BY id;
  DROP TABLE ruddersysevents;
  ALTER TABLE ruddersysevents_before RENAME TO ruddersysevents;
  ALTER TABLE ruddersysevents DROP CONSTRAINT ruddersysevents_before_id;
  SELECT format('ALTER INDEX %s RENAME TO %I', indexrelid::regclass,
                regexp_replace(c.relname, '_before$', ''))
    FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid
   WHERE x.indrelid = 'ruddersysevents'::regclass AND c.relname LIKE '%\_before' \gexec
  COMMIT;
\endif
