-- Where metrics is; and what must hold whatever others set: any search_path, any publication.

CREATE TABLE IF NOT EXISTS metric_collectord.home (
	schema   text        NOT NULL, -- of metrics, quoted
	found_at timestamptz NOT NULL DEFAULT now(),
	CONSTRAINT home_pkey PRIMARY KEY (schema)
);
COMMENT ON TABLE metric_collectord.home IS 'the schema of metrics';

-- A publication for all tables lets nobody delete from one that has no key.
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contype = 'p'
		AND conrelid = 'metric_collectord.rejected'::pg_catalog.regclass) THEN
		ALTER TABLE metric_collectord.rejected
			ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
	END IF;
END
$$;

-- Rows of metrics have none: they are told apart by all that they hold.  A partition that is made
-- later gets this from the daemon.
DO $$
DECLARE
	leaf pg_catalog.regclass;
BEGIN
	IF NOT EXISTS (SELECT FROM metric_collectord.policies WHERE policy = 'partitions') THEN
		RETURN;
	END IF;
	FOR leaf IN
		SELECT i.inhrelid FROM pg_catalog.pg_inherits i
		JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = pg_catalog.to_regclass('metrics') AND c.relreplident = 'd'
	LOOP
		EXECUTE pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL', leaf);
	END LOOP;
END
$$;

-- Records the schema of metrics (quoted), which from then on is looked at first whatever search_path
-- says, and makes what readers use of the table there.
CREATE OR REPLACE FUNCTION metric_collectord.follow_metrics(home text)
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET check_function_bodies = off SET client_min_messages = warning
AS $$
BEGIN
	DELETE FROM metric_collectord.home;
	INSERT INTO metric_collectord.home (schema) VALUES (home);
	IF NOT EXISTS (SELECT FROM metric_collectord.policies WHERE policy = 'distributed') THEN
		-- The last value of each metric: from name to name along the index, and the newest row
		-- of each.  A function, because a view would depend on the table, which then could not
		-- be altered.  With the reader's rights, and whatever his search_path is.
		EXECUTE format('CREATE OR REPLACE FUNCTION metric_collectord.latest()'
			' RETURNS TABLE ("time" timestamptz, metric_name text, value double precision)'
			' LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS %L',
			replace('
	WITH RECURSIVE names AS (
		(SELECT m.metric_name FROM HOME.metrics m ORDER BY m.metric_name LIMIT 1)
		UNION ALL
		SELECT (SELECT m.metric_name FROM HOME.metrics m WHERE m.metric_name > n.metric_name
			ORDER BY m.metric_name LIMIT 1)
		FROM names n WHERE n.metric_name IS NOT NULL
	)
	SELECT l.time, l.metric_name::text, l.value::double precision
	FROM names n CROSS JOIN LATERAL (
		SELECT m.time, m.metric_name, m.value FROM HOME.metrics m
		WHERE m.metric_name = n.metric_name ORDER BY m.time DESC LIMIT 1
	) l
', 'HOME', home));
	END IF;
	IF to_regclass(home || '.metrics_latest') IS NULL THEN
		EXECUTE format('CREATE VIEW %s.metrics_latest AS'
			' SELECT "time", metric_name, value FROM metric_collectord.latest()', home);
		EXECUTE format('COMMENT ON VIEW %s.metrics_latest IS %L',
			home, 'the last value of each metric');
	END IF;
END
$$;

SELECT metric_collectord.follow_metrics(pg_catalog.quote_ident(pg_catalog.current_schema()));

-- Everything that the live collectors received before this instant is committed.  One that has
-- not been seen for so long does not hold the others up.  Promises are by the clock of the database
-- and stay true, so that of each collector the greatest counts; one that lies ahead is none.  A
-- session is never told less than before: a collector that comes back with old batches was not
-- among the live ones.  Its owner's rights let a role read it that may not read the tables.
CREATE OR REPLACE FUNCTION metric_collectord.complete_until(stale interval DEFAULT '5 minutes')
RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	WITH promises AS (
		SELECT collector, complete_until FROM metric_collectord.collectors
		WHERE seen_at >= now() - stale
		UNION ALL
		SELECT collector, complete_until FROM metric_collectord.batches
		WHERE stored_at >= now() - stale AND complete_until IS NOT NULL
	), each AS (
		SELECT coalesce(max(complete_until) FILTER (WHERE complete_until <= clock_timestamp()),
			now() - stale) AS complete_until
		FROM promises GROUP BY collector
	), now_known AS (
		SELECT (extract(epoch FROM min(least(complete_until, now()))) * 1000000)::bigint AS us,
			'metric_collectord.complete_until_'
			|| abs((extract(epoch FROM stale) * 1000)::bigint) AS told
		FROM each HAVING count(*) > 0
	)
	SELECT timestamptz 'epoch' + interval '1 microsecond' * set_config(told,
		greatest(us, nullif(current_setting(told, true), '')::bigint)::text, false)::bigint
	FROM now_known
$$;
