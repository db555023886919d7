"""A table with more partitions than a server with little room has locks for."""
import psycopg2
import pytest

from wire import T0, frame

DAY = 86400 * 1_000_000
PARTITIONS = 200
ROWS = 10 * PARTITIONS


def crowded_database(own_cluster):
    """Starts the cluster; its table is an operator's, with a partition for each of many days."""
    own_cluster.settings.update(max_locks_per_transaction="10", max_connections="20")
    database = own_cluster.start().create_database()
    database.execute(
        """CREATE TABLE metrics (time timestamptz NOT NULL, metric_name text NOT NULL,
            value double precision NOT NULL) PARTITION BY RANGE (time);
        CREATE INDEX ON metrics (time)"""
    )
    database.execute(
        f"""DO $$ BEGIN FOR i IN 0..{PARTITIONS - 1} LOOP EXECUTE format(
            'CREATE TABLE p%s PARTITION OF metrics FOR VALUES FROM (%L) TO (%L)', i,
            timestamptz '2025-06-15Z' + i * interval '1 day',
            timestamptz '2025-06-16Z' + i * interval '1 day'); END LOOP; END $$"""
    )
    return database


def crowd():
    """A batch's frames, for all the partitions."""
    return b"".join(frame("m", i, T0 + (i % PARTITIONS) * DAY + i) for i in range(ROWS))


def leave_locks(connection, free):
    """Takes all room for locks that the server has, but for so many."""
    cursor = connection.cursor()
    taken = 0
    with pytest.raises(psycopg2.errors.OutOfMemory):
        while taken < 100_000:
            cursor.execute(
                "SELECT count(pg_advisory_lock(i)) FROM generate_series(%s, %s) i",
                (taken, taken + 99),
            )
            taken += 100
    cursor.execute("SELECT count(pg_advisory_unlock(i)) FROM generate_series(0, %s) i", (free - 1,))
