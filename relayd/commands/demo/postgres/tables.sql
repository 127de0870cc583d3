-- Role, tables and rights that relayd needs, as Rudder's web application creates them. On a Rudder
-- server they exist already. Run as a superuser in an empty database, and set a password afterwards:
-- \password rudder

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rudder_owner') THEN
    CREATE ROLE rudder_owner NOLOGIN;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rudder') THEN
    CREATE ROLE rudder LOGIN;
  END IF;
END $$;

CREATE SEQUENCE serial START 101;

CREATE TABLE ruddersysevents (
  id                 bigint PRIMARY KEY DEFAULT nextval('serial'),
  executiondate      timestamp with time zone NOT NULL,
  nodeid             text NOT NULL CHECK (nodeid <> ''),
  directiveid        text NOT NULL CHECK (directiveid <> ''),
  ruleid             text NOT NULL CHECK (ruleid <> ''),
  reportid           text NOT NULL CHECK (reportid <> ''),
  component          text NOT NULL CHECK (component <> ''),
  keyvalue           text,
  executiontimestamp timestamp with time zone NOT NULL,
  eventtype          text,
  policy             text,
  msg                text
);

CREATE INDEX executiontimestamp_idx ON ruddersysevents (executiontimestamp);
CREATE INDEX composite_node_execution_idx ON ruddersysevents (nodeid, executiontimestamp);
CREATE INDEX ruleid_idx ON ruddersysevents (ruleid);
CREATE INDEX endruns_control_idx ON ruddersysevents (id)
  WHERE eventtype = 'control' AND component = 'end';
CREATE INDEX result_repaired_idx ON ruddersysevents (executiontimestamp)
  WHERE eventtype = 'result_repaired';

CREATE TABLE reportsexecution (
  nodeid                    text NOT NULL,
  date                      timestamp with time zone NOT NULL,
  nodeconfigid              text,
  insertionid               bigint,
  insertiondate             timestamp with time zone DEFAULT now(),
  compliancecomputationdate timestamp with time zone,
  PRIMARY KEY (nodeid, date)
);

CREATE INDEX reportsexecution_date_idx ON reportsexecution (date);
CREATE INDEX reportsexecution_nodeid_nodeconfigid_idx ON reportsexecution (nodeid, nodeconfigid);
CREATE INDEX reportsexecution_uncomputed_idx ON reportsexecution (compliancecomputationdate)
  WHERE compliancecomputationdate IS NULL;

ALTER TABLE ruddersysevents OWNER TO rudder_owner;
ALTER TABLE reportsexecution OWNER TO rudder_owner;
ALTER SEQUENCE serial OWNER TO rudder_owner;

DO $$
BEGIN
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO rudder', current_database());
END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO rudder;
GRANT SELECT, INSERT ON ruddersysevents, reportsexecution TO rudder;
GRANT USAGE ON SEQUENCE serial TO rudder;
