-- metrics becomes a hypertable, with the rows that it holds.  One that is one already is left alone.
-- The indexes are those of sql/postgresql.  Columnstore, compression, retention and rollups follow the
-- configuration, at each start and reload; the daemon sees to them.

DO $$
DECLARE
	extension text := (SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e
		JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
		WHERE e.extname = 'timescaledb');
	aside boolean;
BEGIN
	IF EXISTS (SELECT FROM timescaledb_information.hypertables h
		JOIN pg_catalog.pg_namespace n ON n.nspname = h.hypertable_schema
		JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = h.hypertable_name
		WHERE c.oid = 'metrics'::pg_catalog.regclass)
	THEN
		RETURN;
	END IF;
	aside := metric_collectord.set_partitions_aside();
	-- table.chunk_interval, in microseconds
	EXECUTE pg_catalog.format('SELECT %s.create_hypertable(''metrics'', ''time'','
		' chunk_time_interval => %s::bigint, create_default_indexes => false,'
		' migrate_data => true)',
		extension, pg_catalog.current_setting('metric_collectord.chunk_interval'));
	IF aside THEN
		PERFORM metric_collectord.take_rows_back();
	END IF;
	DELETE FROM metric_collectord.policies WHERE policy = 'partitions';
	INSERT INTO metric_collectord.policies (policy, value) VALUES ('hypertable', 'metrics')
		ON CONFLICT DO NOTHING;
END
$$;
