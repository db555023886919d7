"""How batches reach TimescaleDB: straight into the columnstore, and not into thousands of chunks."""
import time

import pytest

from faults import Load, assert_all_there_once, settle
from wire import MICROSECONDS, frame, series

DAY = 86400 * MICROSECONDS
COMPRESSED = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed"


@pytest.fixture
def start(start_collector, timescale_cluster):
    """Starts a collector on a database of its own, which is its attribute "store"."""
    fresh = timescale_cluster.create_database()

    def start_on_it(**settings):
        settings = {"database__timescaledb": "require", "batch__interval": 3600, **settings}
        collector = start_collector(fresh, **settings)
        collector.wait_event("maintenance_done", timeout=60)
        collector.store = fresh
        return collector

    yield start_on_it
    timescale_cluster.execute(f'DROP DATABASE "{fresh.name}" WITH (FORCE)')


def send(collector, data):
    """Sends frames, and returns once they are committed."""
    with collector.sender() as sender:
        sender.send(data)
        assert sender.sync(2) == 0


# ---- straight into the columnstore ----


def test_many_rows_a_metric(start):
    collector = start(table__direct_compress="auto")
    assert collector.wait_event("direct_compress")["usable"]
    send(collector, series("a", 1000) + series("b", 1000, first=1000))
    assert collector.wait_event("batch_stored")["direct_compress"]
    assert collector.store.value(COMPRESSED) == 1
    assert collector.store.rows(
        "SELECT metric_name, count(*), sum(value) FROM metrics GROUP BY 1 ORDER BY 1"
    ) == [("a", 1000, sum(range(1000))), ("b", 1000, sum(range(1000, 2000)))]


def test_few_rows_a_metric(start):
    collector = start(table__direct_compress="auto")
    send(collector, b"".join(frame(f"m{i}", i) for i in range(1000)))
    assert "direct_compress" not in collector.wait_event("batch_stored")
    assert collector.store.value(COMPRESSED) == 0
    assert collector.store.count() == 1000


def test_off_is_the_default(start):
    collector = start()
    send(collector, series("a", 10000))
    assert "direct_compress" not in collector.wait_event("batch_stored")
    assert not collector.find("direct_compress")
    assert collector.store.value(COMPRESSED) == 0


def test_unique_index_is_told(start):
    collector = start()
    assert collector.stop() == 0
    collector.store.execute("CREATE UNIQUE INDEX ON metrics (time, metric_name, value)")
    collector = start(name="second", table__direct_compress="auto")
    event = collector.wait_event("direct_compress")
    assert not event["usable"]
    assert "unique index" in event["reason"]
    assert event["level"] == "notice"
    send(collector, series("a", 1000))
    assert "direct_compress" not in collector.wait_event("batch_stored")


def test_exclusion_constraint_that_comes_later_counts(start):
    # a job that compresses rows takes them out of the reach of the constraint
    collector = start(table__direct_compress="auto", table__compress_after="")
    send(collector, series("m", 1000))
    store = collector.store
    store.execute("CREATE EXTENSION btree_gist")
    store.execute("ALTER TABLE metrics ADD EXCLUDE USING gist (metric_name WITH =, time WITH =)")
    send(collector, series("x", 1000))
    send(collector, series("x", 1000))
    assert store.value("SELECT count(*) FROM metrics WHERE metric_name = 'x'") == 1000
    assert store.count("metric_collectord.rejected") == 1000


def test_plain_table_is_told(start_collector, database):
    collector = start_collector(database, table__direct_compress="auto")
    event = collector.wait_event("direct_compress")
    assert not event["usable"]
    assert event["reason"] == "database.timescaledb is off"


def test_batches_that_overlap(start):
    """The newest rows come first, whichever COPY brought them."""
    collector = start(table__direct_compress="auto")
    for first in (0, 500, 250):
        send(collector, series("m", 1000, first=first))
    collector.wait_event("batch_stored", count=3, direct_compress=True)
    newest = collector.store.rows(
        "SELECT value FROM metrics WHERE metric_name = 'm' ORDER BY time DESC LIMIT 252"
    )
    assert [v for (v,) in newest] == [
        *range(1499, 1249, -1),
        *(1249, 1249),
    ]


def test_rollup_sees_rows_that_came_late(start):
    """Rows go into the columnstore under a continuous aggregate that was refreshed before."""
    collector = start(table__direct_compress="auto", table__rollups=["1 minute"])
    now = (int(time.time()) - 7200) // 60 * 60 * MICROSECONDS
    for count in (1, 2):
        send(collector, series("m", 1000, time_us=now))
        collector.store.execute("CALL refresh_continuous_aggregate('metrics_1m', NULL, NULL)")
        assert collector.store.value("SELECT sum(count) FROM metrics_1m") == 1000 * count
    collector.wait_event("batch_stored", count=2, direct_compress=True)


def test_parallel_writers_under_faults(start):
    collector = start(
        table__direct_compress="auto",
        database__connections=4,
        buffer__sync="never",
        batch__interval=0.2,
        batch__max_rows=5000,
    )
    with Load(collector.address, senders=4) as load:
        for _ in range(6):
            load.wait_more(20)
            collector.store.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'metric-collectord'"
            )
        load.wait_more(20)
    settle(collector)
    assert collector.stop() == 0
    assert collector.find("batch_stored", direct_compress=True)
    assert_all_there_once(collector.store, load)


# ---- chunks ----


def test_chunk_limit(start):
    collector = start(table__max_new_chunks=5)
    today = int(time.time()) * MICROSECONDS
    send(collector, b"".join(frame("m", i, today - i * 365 * DAY) for i in range(20)))
    event = collector.wait_event("chunk_limit")
    assert (event["rows"], event["kept"], event["level"]) == (15, 5, "warning")
    assert "clock" in event["hint"]
    store = collector.store
    assert [v for (v,) in store.rows("SELECT value FROM metrics ORDER BY 1")] == [*range(5)]
    assert store.rows(
        "SELECT DISTINCT reason, collector = (SELECT collector FROM metric_collectord.batches)"
        " FROM metric_collectord.rejected"
    ) == [("chunk_limit", True)]
    assert store.rows("SELECT rows, rejected FROM metric_collectord.batches") == [(5, 15)]
    assert collector.stop() == 0
    assert (collector.stopped["stored"], collector.stopped["rejected"]) == (5, 15)


@pytest.mark.parametrize("unit, per_second", [("milliseconds", 1000), ("seconds", 1)])
def test_wrong_unit_is_named(start, unit, per_second):
    """Microseconds were meant."""
    collector = start(table__chunk_interval="1 min", table__max_new_chunks=2)
    now = int(time.time()) * per_second
    step = 60 * MICROSECONDS  # of what is taken for microseconds
    late = b"".join(frame("wrong", i, now - i * step) for i in range(8))
    send(collector, late + frame("right", 1, int(time.time()) * MICROSECONDS))
    event = collector.wait_event("chunk_limit")
    assert unit in event["hint"]
    assert (event["rows"], event["kept"]) == (7, 2)
    assert collector.store.value("SELECT value FROM metrics WHERE metric_name = 'right'") == 1


def test_late_rows_of_compressed_chunks(start):
    collector = start(table__direct_compress="auto")
    send(collector, series("m", 1000))
    assert collector.store.value(COMPRESSED) == 1
    send(collector, series("m", 10, first=2000) + series("late", 10, time_us=1_749_990_000 * 10**6))
    assert "direct_compress" not in collector.wait_event("batch_stored", count=2)
    assert collector.store.count() == 1020
