-- metrics becomes a hypertable, with the rows that it holds.  One that is one already is left alone.
-- The indexes are those of sql/postgresql.  Columnstore, compression, retention and rollups follow the
-- configuration, at each start and reload; the daemon sees to them.

DO $$
DECLARE
	extension text := (SELECT quote_ident(n.nspname) FROM pg_extension e
		JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb');
BEGIN
	IF EXISTS (SELECT FROM timescaledb_information.hypertables h
		JOIN pg_namespace n ON n.nspname = h.hypertable_schema
		JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = h.hypertable_name
		WHERE c.oid = 'metrics'::regclass)
	THEN
		RETURN;
	END IF;
	PERFORM metric_collectord.set_partitions_aside();
	-- table.chunk_interval, in microseconds
	EXECUTE format('SELECT %s.create_hypertable(''metrics'', ''time'', chunk_time_interval => %s::bigint,'
		' create_default_indexes => false, migrate_data => true)',
		extension, current_setting('metric_collectord.chunk_interval'));
	PERFORM metric_collectord.take_rows_back();
	INSERT INTO metric_collectord.policies (policy, value) VALUES ('hypertable', 'metrics')
		ON CONFLICT DO NOTHING;
END
$$;
