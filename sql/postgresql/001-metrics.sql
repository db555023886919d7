-- The schema in which the daemon keeps its books, the table of metrics, and what readers use.

CREATE SCHEMA IF NOT EXISTS metric_collectord;
COMMENT ON SCHEMA metric_collectord IS 'the books of metric-collectord';

CREATE TABLE IF NOT EXISTS metric_collectord.migrations (
	flavour    text        NOT NULL,
	version    integer     NOT NULL,
	name       text        NOT NULL,
	checksum   text        NOT NULL, -- SHA-256 of the file
	applied_at timestamptz NOT NULL DEFAULT now(),
	CONSTRAINT migrations_pkey PRIMARY KEY (flavour, version)
);

-- The ledger: a row for each batch, committed together with its metrics.  That a batch
-- which is sent again meets its own key here is what makes it count once.
CREATE TABLE IF NOT EXISTS metric_collectord.batches (
	collector uuid        NOT NULL, -- the identity of the daemon's spool
	batch     bigint      NOT NULL, -- its number under that identity
	rows      bigint      NOT NULL, -- that went to metrics
	bytes     bigint      NOT NULL, -- of the batch in wire form
	rejected  bigint      NOT NULL DEFAULT 0, -- rows that went to rejected
	min_time  timestamptz NOT NULL,
	max_time  timestamptz NOT NULL,
	stored_at timestamptz NOT NULL DEFAULT now(),
	-- With this batch, everything that its collector received before then is committed.
	complete_until timestamptz,
	CONSTRAINT batches_pkey PRIMARY KEY (collector, batch)
);
-- For complete_until(), and for deleting old rows.
CREATE INDEX IF NOT EXISTS batches_stored_at_idx ON metric_collectord.batches (stored_at);
COMMENT ON TABLE metric_collectord.batches IS 'batches that are stored; never delete young rows';

-- Metrics that the database refused: a constraint, a trigger, a type.
CREATE TABLE IF NOT EXISTS metric_collectord.rejected (
	time        timestamptz      NOT NULL,
	name        text             NOT NULL, -- escaped where the database's encoding lacks it
	value       double precision NOT NULL,
	reason      text             NOT NULL, -- the kind: 'value', 'constraint', 'trigger'
	sqlstate    text,
	error       text,
	collector   uuid             NOT NULL,
	batch       bigint           NOT NULL,
	rejected_at timestamptz      NOT NULL DEFAULT now()
);
COMMENT ON TABLE metric_collectord.rejected IS 'metrics that the database refused';

-- Collectors that are alive, also while they have nothing to store.
CREATE TABLE IF NOT EXISTS metric_collectord.collectors (
	collector      uuid        NOT NULL,
	complete_until timestamptz NOT NULL, -- as in batches
	seen_at        timestamptz NOT NULL DEFAULT now(),
	CONSTRAINT collectors_pkey PRIMARY KEY (collector)
);
COMMENT ON TABLE metric_collectord.collectors IS 'collectors, and when they were last seen';

-- What the daemon has set in the database from its configuration, and may change or remove.
CREATE TABLE IF NOT EXISTS metric_collectord.policies (
	policy     text        NOT NULL,
	value      text        NOT NULL,
	applied_at timestamptz NOT NULL DEFAULT now(),
	CONSTRAINT policies_pkey PRIMARY KEY (policy)
);
COMMENT ON TABLE metric_collectord.policies IS 'what the daemon has set from its configuration';

-- ---- metrics ----

-- The daemon puts the schema in which metrics is, or is to be, at the head of search_path: as a rule
-- "public".
-- An existing table of that name and these columns is taken as it is.  A new one is partitioned by
-- time; the daemon makes the partitions, or a hypertable of it where there is TimescaleDB.
DO $$
DECLARE
	home text := pg_catalog.quote_ident(pg_catalog.current_schema());
BEGIN
	IF pg_catalog.to_regclass(home || '.metrics') IS NOT NULL THEN
		RETURN;
	END IF;
	CREATE TABLE metrics (
		time        timestamptz      NOT NULL,
		-- Byte order: comparing is a memcmp(), batches are sorted likewise, and LIKE 'cpu.%'
		-- can use the index.
		metric_name text COLLATE "C" NOT NULL,
		value       double precision NOT NULL
	) PARTITION BY RANGE (time);
	CREATE TABLE metrics_default PARTITION OF metrics DEFAULT;
	INSERT INTO metric_collectord.policies (policy, value) VALUES ('partitions', 'metrics')
		ON CONFLICT DO NOTHING;
END
$$;

-- For extensions that cannot work on a table which is partitioned like that: another one takes its
-- place, first empty and then with its rows.  Indexes get their names back that way.  False where
-- there is nothing to do.
CREATE OR REPLACE FUNCTION metric_collectord.set_partitions_aside()
RETURNS boolean LANGUAGE plpgsql SET client_min_messages = warning
AS $$
DECLARE
	old  pg_catalog.regclass := 'metrics'::pg_catalog.regclass;
	home text := (SELECT relnamespace::pg_catalog.regnamespace FROM pg_catalog.pg_class
		WHERE oid = old);
	r    record;
BEGIN
	IF NOT EXISTS (SELECT FROM metric_collectord.policies WHERE policy = 'partitions')
	OR (SELECT relkind FROM pg_catalog.pg_class WHERE oid = old) <> 'p' THEN
		RETURN false;
	END IF;
	IF EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = old AND NOT tgisinternal) THEN
		RAISE EXCEPTION 'metrics is partitioned, and its triggers are in the way'
			USING ERRCODE = '0A000';
	END IF;
	FOR r IN
		SELECT c.relname, x.indexrelid::pg_catalog.regclass AS name
		FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid
		WHERE x.indrelid = old
	LOOP
		EXECUTE pg_catalog.format('ALTER INDEX %s RENAME TO %I', r.name,
			pg_catalog.left(r.relname, 50) || '_before');
	END LOOP;
	EXECUTE pg_catalog.format('ALTER TABLE %s RENAME TO metrics_before', old);
	EXECUTE pg_catalog.format('CREATE TABLE %s.metrics (LIKE %s.metrics_before INCLUDING ALL)',
		home, home);
	FOR r IN
		SELECT a.* FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
		WHERE c.oid = old AND a.grantee <> c.relowner
	LOOP
		EXECUTE pg_catalog.format('GRANT %s ON %s.metrics TO %s', r.privilege_type, home,
			CASE WHEN r.grantee = 0 THEN 'PUBLIC'
			ELSE r.grantee::pg_catalog.regrole::text END);
	END LOOP;
	RETURN true;
END
$$;

-- In the same transaction, and only after the one above has returned true.
CREATE OR REPLACE FUNCTION metric_collectord.take_rows_back()
RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
	home text := (SELECT relnamespace::pg_catalog.regnamespace FROM pg_catalog.pg_class
		WHERE oid = 'metrics'::pg_catalog.regclass);
	-- of others, too; but nobody gives a value to one that is generated
	names text := (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(attname), ', ')
		FROM pg_catalog.pg_attribute WHERE attrelid = 'metrics'::pg_catalog.regclass
		AND attnum > 0 AND NOT attisdropped AND attgenerated = '');
BEGIN
	EXECUTE pg_catalog.format('INSERT INTO %1$s.metrics (%2$s) OVERRIDING SYSTEM VALUE'
		' SELECT %2$s FROM %1$s.metrics_before', home, names);
	EXECUTE pg_catalog.format('DROP TABLE %s.metrics_before', home);
END
$$;

-- One statement each: Citus, where it has distributed the table before us, sends on whole messages.
DO $$
BEGIN
	-- The newest rows, and everything in a stretch of time.
	EXECUTE 'CREATE INDEX IF NOT EXISTS metrics_time_idx ON metrics (time DESC)';
	-- One metric's newest row, and its stretch of time.
	EXECUTE 'CREATE INDEX IF NOT EXISTS metrics_metric_name_time_idx'
		' ON metrics (metric_name, time DESC)';
END
$$;

-- What readers use is made in 002.
