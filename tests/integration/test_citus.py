"""Citus: metrics on two workers, the ledger on the coordinator, and a batch in one transaction."""
import time

import pytest

from faults import Load, Proxy, assert_all_there_once, lose_commit_answers, settle
from wire import frame, series

DAY_US = 86_400_000_000
DISTRIBUTED = (
    "SELECT table_name::text, citus_table_type::text, distribution_column FROM citus_tables"
    " WHERE table_name = 'metrics'::regclass"
)
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'metrics'::regclass"


@pytest.fixture
def citus_database(citus_cluster):
    fresh = citus_cluster.create_database()
    yield fresh
    citus_cluster.drop_database(fresh)


def local_rows(database, table="metrics"):
    """Rows that are on the coordinator itself."""
    return database.value(f"SELECT pg_relation_size('{table}')")


@pytest.mark.parametrize("mode", ["auto", "require"])
def test_metrics_is_distributed(start_collector, citus_database, mode):
    collector = start_collector(citus_database, database__citus=mode)
    made = collector.wait_event("table_distributed", timeout=60)
    assert made["column"] == "metric_name"
    assert collector.wait_event("database_connected")["citus_version"]
    for name in "abcdefgh":
        collector.send(series(f"metric.{name}", 500))
    citus_database.wait_count(4000)
    assert citus_database.rows(DISTRIBUTED) == [("metrics", "distributed", "metric_name")]
    assert citus_database.rows(PARTITIONS) == [], "without retention none is needed"
    nodes = "SELECT count(DISTINCT (nodename, nodeport)) FROM citus_shards"
    assert citus_database.value(nodes + " WHERE table_name = 'metrics'::regclass") == 2
    assert citus_database.value("SELECT sum(rows) FROM metric_collectord.batches") == 4000
    assert collector.stop() == 0
    second = start_collector(citus_database, name="second", database__citus=mode)
    second.send(frame("m", 1))
    citus_database.wait_count(4001)
    assert not second.find("table_distributed") and not second.find("migration_applied")


def test_rows_that_are_there_move_to_the_nodes(start_collector, citus_database):
    plain = start_collector(citus_database, name="plain")
    plain.send(series("m", 5000))
    citus_database.wait_count(5000)
    assert plain.stop() == 0
    collector = start_collector(citus_database, name="new", database__citus="require")
    collector.wait_event("table_distributed", timeout=60)
    collector.send(series("m", 1000, first=5000))
    citus_database.wait_count(6000)
    assert citus_database.value("SELECT count(DISTINCT value) FROM metrics") == 6000
    assert local_rows(citus_database) == 0


def test_a_table_of_others_is_distributed(start_collector, citus_database):
    citus_database.execute(
        "CREATE TABLE metrics (metric_name text NOT NULL, value float8, time timestamptz, x int)"
    )
    citus_database.execute(
        "INSERT INTO metrics SELECT 'old', i, now(), 7 FROM generate_series(0, 99) i"
    )
    collector = start_collector(citus_database, database__citus="auto")
    collector.wait_event("table_distributed", timeout=60)
    collector.send(series("m", 100, first=100))
    citus_database.wait_count(200)
    assert citus_database.value("SELECT count(DISTINCT value) FROM metrics") == 200
    assert local_rows(citus_database) == 0


def test_a_table_in_its_place_is_distributed_too(start_collector, citus_database):
    first = start_collector(citus_database, database__citus="require")
    first.wait_event("table_distributed", timeout=60)
    assert first.stop() == 0
    citus_database.replace_metrics()
    second = start_collector(citus_database, database__citus="require")
    second.wait_event("table_distributed", timeout=60)
    second.send(series("m", 100))
    citus_database.wait_count(100)
    assert local_rows(citus_database) == 0
    for collector in (first, second):  # all migrations of the flavour, each time
        applied = [e["version"] for e in collector.find("migration_applied", flavour="citus")]
        assert applied == citus_database.migrations("citus")


def test_a_distribution_of_others_is_left_alone(start_collector, citus_database):
    citus_database.execute(
        "CREATE TABLE metrics (host int NOT NULL DEFAULT 1, time timestamptz NOT NULL,"
        " metric_name text NOT NULL, value float8 NOT NULL)"
    )
    citus_database.rows("SELECT create_distributed_table('metrics', 'host')")
    collector = start_collector(citus_database, database__citus="auto")
    differs = collector.wait_event("table_differs", timeout=60, what="distribution")
    assert (differs["wanted"], differs["found"]) == ("metric_name", "host")
    collector.send(series("m", 100))
    citus_database.wait_count(100)


def test_auto_copes_with_a_table_that_cannot_be_distributed(start_collector, citus_database):
    """A key without metric_name: the rows stay on the coordinator, and that is said."""
    citus_database.execute(
        "CREATE TABLE metrics (id bigserial PRIMARY KEY, time timestamptz NOT NULL,"
        " metric_name text NOT NULL, value float8 NOT NULL)"
    )
    collector = start_collector(citus_database, database__citus="auto")
    absent = collector.wait_event("citus_absent", timeout=60)
    assert absent["sqlstate"]
    collector.send(series("m", 100))
    citus_database.wait_count(100)
    assert citus_database.rows(DISTRIBUTED) == []


@pytest.mark.usefixtures("same_day")
def test_retention_partitions_it(start_collector, citus_database):
    """Made ahead, late crowds out of the default one, expired ones dropped; all of it distributed."""
    now_us = time.time_ns() // 1000
    collector = start_collector(
        citus_database, database__citus="require", table__retention="10 days"
    )
    collector.wait_event("table_distributed", timeout=60)
    collector.wait_event("partition_created", count=2)
    collector.send(
        series("late", 2000, time_us=now_us - 3 * DAY_US)
        + series("expired", 2000, first=2000, time_us=now_us - 30 * DAY_US)
        + series("now", 100, first=4000, time_us=now_us)
    )
    citus_database.wait_count(4100)
    assert collector.stop() == 0
    collector = start_collector(
        citus_database, database__citus="require", table__retention="10 days"
    )
    collector.wait_event("partition_created", timeout=60)
    collector.wait_event("database_connected", timeout=60)
    citus_database.wait_count(2100)
    assert citus_database.value("SELECT count(*) FROM metrics_default") == 0
    partitions = [name for (name,) in citus_database.rows(PARTITIONS)]
    assert len(partitions) == 4  # today, tomorrow, the late one, default
    for name in partitions:
        assert local_rows(citus_database, name) == 0
    distributed = "SELECT count(*) FROM pg_dist_partition WHERE logicalrelid = '{}'::regclass"
    for name in partitions:
        assert citus_database.value(distributed.format(name)) == 1
    assert collector.stop() == 0
    collector = start_collector(
        citus_database, database__citus="require", table__retention="1 day"
    )
    collector.wait_event("partition_dropped", timeout=60)
    citus_database.wait_count(100)


def test_refused_rows_are_isolated(start_collector, citus_database):
    collector = start_collector(citus_database, database__citus="auto")
    collector.wait_event("table_distributed", timeout=60)
    citus_database.execute("ALTER TABLE metrics ADD CONSTRAINT sane CHECK (value NOT IN (13, 700))")
    collector.send(series("m", 1000))
    citus_database.wait_count(998)
    refused = citus_database.rows(
        "SELECT name, value, sqlstate FROM metric_collectord.rejected ORDER BY value"
    )
    assert refused == [("m", 13, "23514"), ("m", 700, "23514")]
    collector.wait_statistics(rejected=2, stored=998, buffered=0)


def test_views_for_readers(start_collector, citus_database):
    collector = start_collector(citus_database, database__citus="auto")
    collector.wait_event("table_distributed", timeout=60)
    collector.send(b"".join(series(f"m{i}", 10, first=i) for i in range(50)))
    odd = frame('q"\\%1$s', float("nan")) + frame("inf", float("-inf"))
    collector.send(odd)
    citus_database.wait_count(502)
    latest = dict(citus_database.rows("SELECT metric_name, value FROM metrics_latest"))
    assert len(latest) == 52
    assert latest["m7"] == 16
    assert latest["inf"] == float("-inf")
    assert latest['q"\\%1$s'] != latest['q"\\%1$s']
    newest = "SELECT time, metric_name, value FROM metrics ORDER BY time DESC LIMIT 5"
    assert len(citus_database.rows(newest)) == 5
    assert citus_database.value("SELECT metric_collectord.complete_until() IS NOT NULL")


def test_auto_without_a_cluster(start_collector, citus_cluster, database):
    """No extension, or no node: a plain table, and one warning."""
    collector = start_collector(database, database__citus="auto")
    collector.send(series("m", 100))
    database.wait_count(100, timeout=60)
    absent = collector.find("citus_absent")
    assert len(absent) == 1 and "not in this database" in absent[0]["error"]
    lonely = citus_cluster.create_database(workers=False)
    lonely_collector = start_collector(lonely, name="lonely", database__citus="auto")
    lonely_collector.send(series("m", 100))
    lonely.wait_count(100, timeout=60)
    assert "no node" in lonely_collector.find("citus_absent")[0]["error"]
    assert lonely_collector.stop() == 0
    citus_cluster.drop_database(lonely)


def test_require_without_a_cluster(start_collector, database):
    collector = start_collector(database, database__citus="require")
    collector.send(series("m", 100))
    event = collector.wait_event("database_unavailable", timeout=60)
    assert "citus" in event["error"] and "citus_add_node" in event["hint"]
    assert collector.statistics()["buffered"] == 100
    collector.write_conf(database__citus="off")
    collector.reload()
    database.wait_count(100)


def test_require_on_a_worker(start_collector, citus_cluster, citus_database):
    worker = citus_cluster.workers[0].database(citus_database.name)
    collector = start_collector(worker, database__citus="require")
    event = collector.wait_event("database_unavailable", timeout=60)
    assert "not the coordinator" in event["error"]


def test_answer_to_the_commit_is_lost(start_collector, citus_database):
    """As in test_faults_cut.py, with the rows on two workers."""
    proxy = Proxy(citus_database.cluster.port)
    away = citus_database.uri.replace(
        f":{citus_database.cluster.port}/", f":{proxy.port}/"
    )
    try:
        collector = start_collector(
            citus_database,
            database__uri=away + "?sslmode=disable",
            database__citus="require",
            batch__interval=3600,
        )
        collector.wait_event("database_connected", timeout=60)
        lose_commit_answers(collector, proxy, citus_database)
    finally:
        proxy.close()


def test_a_worker_is_killed_in_mid_copy(start_collector, citus_cluster, citus_database):
    collector = start_collector(
        citus_database, database__citus="require", batch__interval=0.1, database__connections=2
    )
    collector.wait_event("table_distributed", timeout=60)
    worker = citus_cluster.workers[1]
    with Load(collector.address, senders=4) as load:
        load.wait_more(20)
        for _ in range(3):
            mark = collector.mark()
            worker.kill9()
            collector.wait_event("database_unavailable", since=mark, timeout=60)
            load.wait_more(10)  # level 1: the spool has them
            worker.start()
            collector.wait_event("batch_stored", since=collector.mark(), timeout=60)
            load.wait_more(10)
    settle(collector)
    assert collector.stop() == 0
    # what was prepared when the worker died is committed by Citus itself
    total = collector.stopped["stored"]
    citus_database.wait_count(total, timeout=60)
    assert_all_there_once(citus_database, load)
