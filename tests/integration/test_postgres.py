"""The PostgreSQL store: schema, ledger, and databases that others have prepared."""
import threading

import pytest

from waiting import wait_until
from wire import T0_TEXT, frame, series

FRAME_SIZE = len(frame("m", 0))
BOOKS = "SELECT count(*), sum(rows), sum(rejected) FROM metric_collectord.batches"


@pytest.mark.tidy
def test_rows_and_types(start_collector, database):
    collector = start_collector(database)
    collector.send(frame("cpu.load", 0.5))
    database.wait_count(1)
    assert database.rows("SELECT time::text, metric_name, value FROM metrics") == [
        ("2025-06-15 15:06:40+00", "cpu.load", 0.5)
    ]
    assert database.rows(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = 'metrics' ORDER BY ordinal_position"
    ) == [
        ("time", "timestamp with time zone", "NO"),
        ("metric_name", "text", "NO"),
        ("value", "double precision", "NO"),
    ]


def test_ledger_has_a_row_for_each_batch(start_collector, database):
    collector = start_collector(database, batch__max_rows=1000, batch__interval=3600)
    collector.send(series("m", 10_500))
    collector.flush()
    collector.wait_event("batch_stored", count=11)
    database.wait_count(10_500)
    assert database.rows(BOOKS) == [(11, 10_500, 0)]
    assert database.value("SELECT sum(bytes) FROM metric_collectord.batches") == 10_500 * FRAME_SIZE
    assert database.rows(
        "SELECT min(min_time) = (SELECT min(time) FROM metrics),"
        " max(max_time) = (SELECT max(time) FROM metrics) FROM metric_collectord.batches"
    ) == [(True, True)]
    logged = {e["batch"]: e["rows"] for e in collector.find("batch_stored")}
    assert logged == dict(database.rows("SELECT batch, rows FROM metric_collectord.batches"))
    ready = collector.wait_event("ready")
    assert database.rows("SELECT DISTINCT collector::text FROM metric_collectord.batches") == [
        (ready["collector"],)
    ]


def test_batch_stored_event(start_collector, database):
    collector = start_collector(database)
    collector.send(series("m", 3))
    event = collector.wait_event("batch_stored")
    assert event["rows"] == 3
    assert event["bytes"] == 3 * FRAME_SIZE
    assert event["batch"] >= 1
    assert event["seconds"] >= 0
    connected = collector.wait_event("database_connected")
    assert connected["server_version"]
    assert not connected.get("timescaledb_version")


def test_batches_end_by_bytes(start_collector, database):
    collector = start_collector(database, batch__max_bytes="4K", batch__interval=3600)
    collector.send(series("m", 1000))
    collector.wait_event("batch_stored", count=4)
    for event in collector.find("batch_stored"):
        assert event["bytes"] <= 4096


@pytest.mark.parametrize("scheme", ["key value", "unix socket", "postgres"])
def test_forms_of_the_uri(start_collector, database, scheme):
    cluster = database.cluster
    uri = {
        "key value": f"host=127.0.0.1 port={cluster.port} dbname={database.name} user=postgres",
        "unix socket": f"postgresql:///{database.name}?host={cluster.directory}"
        f"&port={cluster.port}&user=postgres",
        "postgres": database.uri.replace("postgresql://", "postgres://"),
    }[scheme]
    collector = start_collector(database__uri=uri)
    collector.send(frame("m", 1))
    database.wait_count(1)


def test_second_host_of_the_uri(start_collector, database):
    """The first one refuses connections."""
    port = database.cluster.port
    uri = f"postgresql://postgres@127.0.0.1:1,127.0.0.1:{port}/{database.name}"
    collector = start_collector(database__uri=uri)
    collector.send(frame("m", 1))
    database.wait_count(1)


def test_missing_database_is_created(start_collector, cluster):
    database = cluster.database(cluster.unused_name())
    collector = start_collector(database)
    collector.send(frame("m", 1))
    database.wait_count(1)
    applied = collector.find("migration_applied")
    assert [e["version"] for e in applied] == sorted(e["version"] for e in applied)
    assert len(applied) == database.count("metric_collectord.migrations")


def test_a_second_start_migrates_nothing(start_collector, database):
    collector = start_collector(database)
    collector.wait_event("database_connected")
    collector.send(frame("m", 1))
    assert collector.stop() == 0
    again = start_collector(database)
    again.send(frame("m", 2))
    database.wait_count(2)
    assert not again.find("migration_applied")


def test_existing_table_is_taken_as_it_is(start_collector, database):
    """With rows, with the columns in another order, and with one of its own."""
    database.execute(
        "CREATE TABLE metrics (id bigserial PRIMARY KEY, value double precision NOT NULL,"
        " metric_name text NOT NULL, time timestamptz NOT NULL)"
    )
    database.execute(
        "INSERT INTO metrics (time, metric_name, value)"
        " SELECT now() - n * interval '1 hour', 'old', n FROM generate_series(1, 1000) n"
    )
    collector = start_collector(database)
    collector.send(series("new", 1000))
    database.wait_count(2000)
    assert database.value("SELECT sum(value) FROM metrics WHERE metric_name = 'old'") == 500500
    assert database.value("SELECT count(DISTINCT id) FROM metrics") == 2000


@pytest.mark.threads
def test_six_collectors_start_at_once_on_an_empty_server(new_collector, own_cluster):
    own_cluster.start()
    database = own_cluster.database("not_there_yet")
    collectors = [new_collector(database, name=f"collector{i}") for i in range(6)]
    for collector in collectors:
        collector.start(wait=None)
    for i, collector in enumerate(collectors):
        collector.wait_event("ready")
        collector.send(series(f"m{i}", 1000))
    database.wait_count(6000, timeout=60)
    for collector in collectors:
        assert collector.stop() == 0
        assert collector.stopped["stored"] == 1000
    assert database.rows(
        "SELECT count(DISTINCT collector), sum(rows) FROM metric_collectord.batches"
    ) == [(6, 6000)]
    applied = [e for collector in collectors for e in collector.find("migration_applied")]
    assert len(applied) == database.count("metric_collectord.migrations")
    assert database.value("SELECT count(DISTINCT metric_name) FROM metrics") == 6


# ---- roles ----


def test_owner_of_the_database_is_enough(start_collector, cluster, database, role):
    cluster.execute(f"ALTER DATABASE {database.name} OWNER TO {role}")
    collector = start_collector(database__uri=database.uri_for(role))
    collector.send(frame("m", 1))
    database.wait_count(1)
    collector.stop()
    cluster.execute(f"ALTER DATABASE {database.name} OWNER TO postgres")


def test_role_that_may_only_write(start_collector, database, role):
    """An administrator's collector has made the tables."""
    start_collector(database, name="admin").wait_event("database_connected")
    database.execute(f"GRANT USAGE ON SCHEMA metric_collectord TO {role}")
    database.execute(f"GRANT INSERT ON metrics TO {role}")
    database.execute(
        f"GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA metric_collectord TO {role}"
    )
    collector = start_collector(database__uri=database.uri_for(role), database__migrate=False)
    collector.send(frame("m", 1))
    database.wait_count(1)
    collector.stop()


def test_role_without_any_right_is_told_and_loses_nothing(
    start_collector, cluster, database, role
):
    database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    collector = start_collector(database__uri=database.uri_for(role))
    collector.send(series("m", 100))
    event = wait_until(
        lambda: (collector.find("database_unavailable") + collector.find("batch_held") or [0])[0]
    )
    assert event["sqlstate"] == "42501"
    assert "permission denied" in event["error"]
    assert event["level"] == "error"
    assert collector.statistics()["buffered"] == 100
    cluster.execute(f"ALTER DATABASE {database.name} OWNER TO {role}")
    database.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
    database.wait_count(100, timeout=60)
    assert collector.stop() == 0
    cluster.execute(f"ALTER DATABASE {database.name} OWNER TO postgres")


# ---- several connections ----


@pytest.mark.threads
def test_several_connections_share_the_load(start_collector, database):
    collector = start_collector(database, database__connections=4, batch__max_rows=500)
    senders = 4
    threads = [
        threading.Thread(target=collector.send, args=(series(f"m{i}", 10_000),))
        for i in range(senders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.wait_count(senders * 10_000, timeout=60)
    assert database.value("SELECT sum(rows) FROM metric_collectord.batches") == senders * 10_000
    assert len(collector.find("database_connected")) == 4
    assert database.value(
        "SELECT count(*) FROM (SELECT DISTINCT metric_name, value FROM metrics) d"
    ) == (senders * 10_000)


def test_time_of_the_daemon_is_not_the_metrics(start_collector, database):
    """TimeZone and DateStyle of the role do not matter."""
    database.execute(
        f"ALTER DATABASE {database.name} SET timezone = 'Asia/Kathmandu';"
        f"ALTER DATABASE {database.name} SET datestyle = 'German'"
    )
    collector = start_collector(database)
    collector.send(frame("m", 1))
    database.wait_value(
        True, "SELECT count(*) = 1 AND bool_and(time = %s::timestamptz) FROM metrics", T0_TEXT
    )
