-- The embedded store: the same names and columns as in PostgreSQL, in SQLite's types.
--
-- SQLite has no schemas, so what PostgreSQL keeps in the schema metric_collectord
-- bears that prefix here.  Every time is ISO-8601 text in UTC with microseconds,
-- 2026-01-31T09:30:00.123456Z: always 27 characters, so that text order is time order, and
-- date(), strftime() and Grafana's SQLite source read it as it is.
--
-- NaN: SQLite has none, it stores NULL in its place.  A metric always has a value, so
-- that NULL in the column value means exactly NaN, and for that alone the column
-- lacks NOT NULL.  Aggregates pass over it.  (The text 'NaN' would count as 0 in sums and
-- as the greatest value in max().)  Infinities are REALs, printed as Inf and -Inf; -0.0
-- is stored as 0.0, its equal.

CREATE TABLE IF NOT EXISTS metrics (
	time        TEXT NOT NULL,
	metric_name TEXT NOT NULL,
	value       REAL
);

-- The newest rows, and everything in a stretch of time.
CREATE INDEX IF NOT EXISTS metrics_time ON metrics (time);
-- One metric's stretch of time.
CREATE INDEX IF NOT EXISTS metrics_name_time ON metrics (metric_name, time);

-- The ledger: a row for each batch, committed together with its metrics.
CREATE TABLE metric_collectord_batches (
	collector TEXT    NOT NULL, -- the UUID of the daemon's spool
	batch     INTEGER NOT NULL, -- its number under that identity
	rows      INTEGER NOT NULL, -- that went to metrics
	bytes     INTEGER NOT NULL, -- of the batch in wire form
	rejected  INTEGER NOT NULL, -- rows that went to metric_collectord_rejected
	min_time  TEXT    NOT NULL,
	max_time  TEXT    NOT NULL,
	stored_at TEXT    NOT NULL,
	PRIMARY KEY (collector, batch)
) WITHOUT ROWID;

-- Metrics that a constraint or trigger of the operator's on metrics refused.
CREATE TABLE metric_collectord_rejected (
	time        TEXT    NOT NULL,
	name        TEXT    NOT NULL,
	value       REAL,             -- NULL: NaN
	reason      TEXT    NOT NULL, -- 'constraint', 'trigger' or 'value'
	sqlstate    TEXT,             -- always NULL: SQLite has none
	error       TEXT    NOT NULL, -- SQLite's message
	collector   TEXT    NOT NULL,
	batch       INTEGER NOT NULL,
	rejected_at TEXT    NOT NULL
);

CREATE TABLE metric_collectord_migrations (
	flavour    TEXT    NOT NULL,
	version    INTEGER NOT NULL,
	name       TEXT    NOT NULL,
	checksum   TEXT    NOT NULL, -- SHA-256 of the file
	applied_at TEXT    NOT NULL,
	PRIMARY KEY (flavour, version)
) WITHOUT ROWID;

-- The last value of each metric: from name to name along the index, and the newest row of each.
CREATE VIEW IF NOT EXISTS metrics_latest AS
WITH RECURSIVE names (metric_name) AS (
	SELECT min(metric_name) FROM metrics
	UNION ALL
	SELECT (SELECT min(m.metric_name) FROM metrics m WHERE m.metric_name > n.metric_name)
	FROM names n WHERE n.metric_name IS NOT NULL
)
SELECT m.time, m.metric_name, m.value
FROM names n JOIN metrics m ON m.rowid = (
	SELECT l.rowid FROM metrics l WHERE l.metric_name = n.metric_name
	ORDER BY l.time DESC LIMIT 1
);
