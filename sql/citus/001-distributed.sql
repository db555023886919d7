-- On a Citus coordinator: metrics is distributed by metric_name, so that one metric's rows are on one
-- node, and a batch, which is sorted by metric_name, goes to all of them at once.  The ledger and the
-- daemon's other books stay on the coordinator.

DO $$
DECLARE
	aside       boolean := false;
	rows_before boolean;
BEGIN
	IF EXISTS (SELECT FROM pg_catalog.pg_dist_partition
		WHERE logicalrelid = 'metrics'::pg_catalog.regclass)
	THEN
		RETURN;
	END IF;
	-- Partitions times shards are many tables: only where retention will drop them.
	IF pg_catalog.current_setting('metric_collectord.retention') = '0' THEN
		aside := metric_collectord.set_partitions_aside();
	END IF;
	SET LOCAL citus.multi_shard_modify_mode = 'sequential';
	rows_before := EXISTS (SELECT FROM metrics);
	PERFORM pg_catalog.create_distributed_table('metrics', 'metric_name', colocate_with => 'none');
	IF rows_before THEN -- the nodes have copies of them
		PERFORM pg_catalog.truncate_local_data_after_distributing_table('metrics');
	END IF;
	IF aside THEN
		PERFORM metric_collectord.take_rows_back();
		DELETE FROM metric_collectord.policies WHERE policy = 'partitions';
	END IF;
	INSERT INTO metric_collectord.policies (policy, value) VALUES ('distributed', 'metric_name')
		ON CONFLICT DO NOTHING;
END
$$;

-- metrics_latest: a recursive query cannot span nodes, so that each walks through its own shards.
CREATE OR REPLACE FUNCTION metric_collectord.latest_here(metrics regclass)
RETURNS TABLE ("time" timestamptz, metric_name text, value double precision)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
	shard text;
BEGIN
	FOR shard IN
		SELECT pg_catalog.shard_name(s.logicalrelid, s.shardid) FROM pg_catalog.pg_dist_shard s
		JOIN pg_catalog.pg_dist_placement p ON p.shardid = s.shardid
		JOIN pg_catalog.pg_dist_local_group g ON g.groupid = p.groupid
		WHERE s.logicalrelid = metrics
	LOOP
		RETURN QUERY EXECUTE pg_catalog.format(
			'WITH RECURSIVE names AS ('
			'  (SELECT m.metric_name FROM %1$s m ORDER BY m.metric_name LIMIT 1)'
			'  UNION ALL'
			'  SELECT (SELECT m.metric_name FROM %1$s m WHERE m.metric_name > n.metric_name'
			'   ORDER BY m.metric_name LIMIT 1)'
			'  FROM names n WHERE n.metric_name IS NOT NULL)'
			' SELECT l.* FROM names n CROSS JOIN LATERAL ('
			'  SELECT m.time, m.metric_name::text, m.value::double precision FROM %1$s m'
			'  WHERE m.metric_name = n.metric_name ORDER BY m.time DESC LIMIT 1) l', shard);
	END LOOP;
END
$$;

DO $do$
BEGIN
	EXECUTE pg_catalog.replace($function$
CREATE OR REPLACE FUNCTION metric_collectord.latest()
RETURNS TABLE ("time" timestamptz, metric_name text, value double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	node record;
BEGIN
	FOR node IN
		SELECT success, result FROM run_command_on_all_nodes(format(
			'SELECT coalesce(pg_catalog.json_agg(l), ''[]'') FROM metric_collectord.latest_here(%L) l',
			HERE))
	LOOP
		IF NOT node.success THEN
			RAISE EXCEPTION 'a node does not answer: %', node.result;
		END IF;
		RETURN QUERY SELECT l."time", l.metric_name, l.value
		FROM json_to_recordset(node.result::json)
			AS l ("time" timestamptz, metric_name text, value double precision);
	END LOOP;
END
$$
$function$, 'HERE', pg_catalog.quote_literal(
		(SELECT relnamespace::pg_catalog.regnamespace || '.metrics' FROM pg_catalog.pg_class
		 WHERE oid = 'metrics'::pg_catalog.regclass)));
END
$do$;
