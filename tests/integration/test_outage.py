"""After an outage: fresh metrics do not wait for the backlog; millions of metrics in little memory."""
import threading
import time

import pytest

from faults import settle
from processes import rss_bytes
from programs import is_sanitized
from waiting import wait_until
from wire import T0, series, sync_frame

BATCH_ROWS = 500
BATCHES = 60
ROWS = BATCHES * BATCH_ROWS


@pytest.fixture
def gate(own_cluster):
    """
    While somebody holds advisory lock 1, no batch can be stored: its transaction waits.  The daemon
    comes as a role that may not log in before the lock is held; gate.collector_uri is its way.
    """
    own_cluster.start()
    database = own_cluster.database("postgres")
    database.execute(
        "CREATE TABLE metrics (time timestamptz NOT NULL, metric_name text NOT NULL,"
        " value double precision NOT NULL)"
    )
    database.execute(
        "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$"
    )
    database.execute("CREATE ROLE collector SUPERUSER NOLOGIN")
    database.collector_uri = database.uri_for("collector")
    database.execute(
        "CREATE TRIGGER gate AFTER INSERT ON metrics FOR EACH STATEMENT EXECUTE FUNCTION gate()"
    )
    own_cluster.stop()
    return database


def waits_at_gate(database):
    return database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


@pytest.mark.parametrize("restarted", [False, True], ids=["same daemon", "restarted daemon"])
@pytest.mark.parametrize("how", ["flush", "sync"])
def test_fresh_metrics_pass_the_backlog(new_collector, own_cluster, gate, how, restarted):
    settings = dict(
        database__uri=gate.collector_uri,
        buffer__sync="never",
        batch__interval=3600,
        batch__max_rows=BATCH_ROWS,
        database__connections=1,
    )
    collector = new_collector(**settings).start()
    with collector.sender() as sender:
        sender.send(series("backlog", ROWS))
        assert sender.sync(1) == 0
    assert collector.statistics()["buffered"] == ROWS
    if restarted:
        collector.kill9()
        collector = new_collector(**settings).start()
    own_cluster.start()
    holder = gate.connect()
    with holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(1)")
    gate.execute("ALTER ROLE collector LOGIN")
    wait_until(lambda: waits_at_gate(gate), 30, "the first batch of the backlog is under way")
    with collector.sender() as sender:
        fresh = series("fresh", 1, first=ROWS)
        sender.send(fresh + sync_frame(2, 1) if how == "sync" else fresh)
        collector.wait_statistics(received=ROWS + 1)
        if how == "flush":
            collector.flush()
        collector.wait_statistics(batches_waiting=BATCHES + 1)
        holder.close()
        if how == "sync":
            assert sender.read_answer() == (1, 0)
    settle(collector)
    assert collector.stop() == 0
    rows = [e["rows"] for e in collector.find("batch_stored")]
    assert len(rows) == BATCHES + 1
    assert rows.index(1) <= 4, "behind the one under way, and at most a few of the backlog"
    ledger = gate.rows(f"SELECT rows FROM {gate.ledger} ORDER BY stored_at, batch")
    assert ledger.index((1,)) <= 4
    assert gate.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(ROWS + 1, ROWS + 1)]


@pytest.mark.slow
@pytest.mark.skipif(is_sanitized(), reason="skipped: a sanitizer's memory is not the daemon's")
def test_three_million_metrics_in_32_megabytes(new_collector, own_cluster):
    """They come while the database is away, outlast a kill -9, and arrive once."""
    senders, each = 3, 1_000_000
    limit = (32 + 64) << 20
    database = own_cluster.database("postgres")
    settings = dict(buffer__memory_limit="32M", batch__interval=1)
    collector = new_collector(database, **settings).start()
    largest = []

    def send(number):
        with collector.sender(timeout=120) as sender:
            for first in range(number * each, (number + 1) * each, 50_000):
                sender.send(series(f"m.{number}", 50_000, first=first, time_us=T0 + first))
                largest.append(rss_bytes(collector.pid))
            assert sender.sync(1) == 0
            largest.append(rss_bytes(collector.pid))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collector.statistics()["buffered"] == senders * each
    assert len(largest) == senders * (each // 50_000 + 1)
    assert max(largest) < limit
    collector.kill9()
    collector = new_collector(database, **settings).start()
    assert collector.find("spool_recovered")[0]["rows"] == senders * each
    own_cluster.start()
    wait_until(lambda: drained(collector, largest), 120, "the backlog is stored")
    assert max(largest) < limit
    assert collector.stop() == 0
    assert collector.stopped["stored"] == senders * each
    assert database.rows(
        "SELECT count(*), count(DISTINCT value), min(value), max(value) FROM metrics"
    ) == [(senders * each, senders * each, 0, senders * each - 1)]


def drained(collector, largest):
    largest.append(rss_bytes(collector.pid))
    return collector.statistics()["buffered"] == 0


def test_an_outage_does_not_leave_a_file_for_each_interval(new_collector, own_cluster):
    """A slow stream of metrics, for many intervals: one batch that grows, and is stored at once later."""
    database = own_cluster.database("postgres")
    collector = new_collector(
        database__uri=database.uri, batch__interval=0.05, buffer__sync="never"
    ).start()
    collector.wait_event("database_unavailable")
    with collector.sender() as sender:
        for i in range(40):
            sender.send(series("slow", 1, first=i))
            assert sender.sync(1) == 0
            time.sleep(0.05)  # an interval: what is tried is that nothing comes of it
        statistics = collector.statistics()
        assert statistics["buffered"] == 40
        assert statistics["batches_waiting"] <= 2
        own_cluster.start()
        settle(collector)
    assert database.value("SELECT count(*) FROM metrics") == 40
