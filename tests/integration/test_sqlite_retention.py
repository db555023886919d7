"""table.retention in the embedded store, beside batches and readers, and by clocks that are wrong."""
import os
import signal
import sqlite3
import time

import pytest

from disks import shim, shim_library  # noqa: F401 (fixtures)
from waiting import seconds, wait_until
from wire import MICROSECONDS, frame

DAY = 86400


def now_us(days=0):
    return int((time.time() + days * DAY) * MICROSECONDS)


def send_old(collector, days=40, count=1000):
    at = now_us(-days)
    collector.send(b"".join(frame("old", i, at + i) for i in range(count)))


def count(store, name):
    return store.value("SELECT count(*) FROM metrics WHERE metric_name = ?", name)


def fill(path, rows):
    """Old rows of many names, as they come in: each slice touches the index all over."""
    connection = sqlite3.connect(path)
    connection.execute(
        "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < ?)"
        " INSERT INTO metrics SELECT strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-40 days',"
        " (n / 100.0) || ' seconds'), 'name.' || (n % 500), n FROM n",
        (rows,),
    )
    connection.commit()
    connection.close()


@pytest.fixture
def filled(start_collector, sqlite_store):
    """A file that a collector without retention has made and stored fresh metrics in."""
    first = start_collector(sqlite_store, name="first")
    first.send(frame("fresh", 1, now_us()))
    sqlite_store.wait_count(1)
    assert first.stop() == 0
    return sqlite_store


def test_old_rows_go_and_fresh_ones_stay(start_collector, filled):
    fill(filled.path, 20_000)
    collector = start_collector(filled, table__retention="30 days")
    wait_until(lambda: filled.count() == 1, 60, "the old rows")
    event = collector.wait_event("rows_deleted")
    assert event["rows"] == 20_000
    assert not collector.find("clock_differs")


def test_a_reload_begins_it(start_collector, filled):
    fill(filled.path, 100)
    collector = start_collector(filled)
    collector.wait_event("maintenance_done")
    assert filled.count() == 101
    collector.write_conf(table__retention="30 days")
    collector.reload()
    collector.wait_event("rows_deleted")
    assert filled.count() == 1


@pytest.mark.slow
def test_batches_do_not_wait_and_the_file_shrinks(start_collector, filled):
    fill(filled.path, 150_000)
    before = os.path.getsize(filled.path)
    collector = start_collector(filled, table__retention="30 days")
    with collector.sender() as sender:
        while not collector.find("rows_deleted"):
            sender.send(frame("live", 1, now_us()))
            assert sender.sync(2) == 0
    collector.wait_event("maintenance_done", timeout=120)
    wait_until(lambda: os.path.getsize(filled.path) < before / 2, 30, "a smaller file")
    assert count(filled, "fresh") == 1
    assert filled.value("PRAGMA integrity_check") == "ok"


@pytest.mark.slow
def test_the_wal_stays_small_beside_a_reader(start_collector, filled):
    fill(filled.path, 300_000)
    reader = sqlite3.connect(filled.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM metrics").fetchone()
    collector = start_collector(filled, table__retention="30 days", batch__max_rows=1000)
    event = collector.wait_event("wal_kept", timeout=120)
    assert "fuser" in event["hint"]
    collector.wait_event("maintenance_done", timeout=60)
    assert os.path.getsize(filled.path + "-wal") < 128 << 20
    with collector.sender() as sender:  # batches go on
        sender.send(frame("live", 1, now_us()))
        assert sender.sync(2) == 0
    assert reader.execute("SELECT count(*) FROM metrics").fetchone() == (300_001,)
    reader.close()


# ---- clocks ----


def test_a_start_with_a_clock_that_is_ahead(start_collector, sqlite_store, shim):
    first = start_collector(sqlite_store, name="first", table__retention="30 days")
    first.send(frame("fresh", 1, now_us()))
    sqlite_store.wait_count(1)
    assert first.stop() == 0
    shim.on("clock", str(400 * DAY))
    collector = start_collector(sqlite_store, table__retention="30 days", env=shim.env)
    event = collector.wait_event("clock_differs")
    assert abs(event["seconds"] - 400 * DAY) < seconds(60)
    collector.wait_event("maintenance_done")
    collector.send(frame("late", 1, now_us()))
    sqlite_store.wait_count(2)
    assert collector.stop() == 0
    shim.off("clock")
    again = start_collector(sqlite_store, table__retention="30 days")
    assert again.wait_event("clock_differs")["seconds"] < -399 * DAY
    again.wait_event("maintenance_done")
    assert sqlite_store.count() == 2


def test_a_clock_that_goes_ahead_and_back(start_collector, sqlite_store, shim):
    shim.on("clock", "0")
    collector = start_collector(sqlite_store, table__retention="30 days", env=shim.env)
    collector.send(frame("fresh", 1, now_us()))
    sqlite_store.wait_count(1)
    collector.wait_event("maintenance_done")
    for offset in (400 * DAY, -400 * DAY):
        mark = collector.mark()
        shim.on("clock", str(offset))
        collector.write_conf(table__retention=f"{30 + offset // DAY % 7} days")  # a new janitor
        collector.reload()
        collector.wait_event("clock_differs", since=mark)
        collector.wait_event("maintenance_done", since=mark)
        assert sqlite_store.count() == 1
    assert not collector.find("rows_deleted")


def test_a_pause_is_told_at_each_start(start_collector, filled):
    fill(filled.path, 100)
    connection = sqlite3.connect(filled.path)
    connection.execute("UPDATE metric_collectord_clock SET pause_ms = 3600000")
    connection.commit()
    connection.close()
    collector = start_collector(filled, table__retention="30 days")
    assert 3000 < collector.wait_event("deletion_paused")["seconds"] <= 3600
    collector.wait_event("maintenance_done")
    assert filled.count() == 101


def test_a_clock_that_was_never_right(start_collector, sqlite_store, shim):
    """What comes is always 400 days old by it: nothing is deleted for a day."""
    shim.on("clock", str(400 * DAY))
    collector = start_collector(sqlite_store, table__retention="30 days", env=shim.env)
    send_old(collector, days=0)
    sqlite_store.wait_count(1000)
    collector.write_conf(table__retention="31 days")
    collector.reload()
    event = collector.wait_event("clock_differs")
    assert event["compared_with"] == "the newest row"
    collector.wait_event("maintenance_done", count=2)
    assert sqlite_store.count() == 1000


# ---- a file that is none ----


@pytest.mark.parametrize("content", [b"", b"x" * 4096, b"SQLite format 3\0" + b"\0" * 30])
def test_nothing_is_lost_beside_a_bad_file(start_collector, sqlite_store, content):
    with open(sqlite_store.path, "wb") as file:
        file.write(content)
    collector = start_collector(sqlite_store)
    collector.send(frame("m", 1, now_us()))
    if content:
        event = collector.wait_event("database_unavailable", level="error")
        assert "mv FILE FILE.old" in event["hint"]
        assert collector.statistics()["buffered"] == 1
        os.rename(sqlite_store.path, sqlite_store.path + ".old")
        collector.send_signal(signal.SIGUSR1)  # tries at once
    collector.wait_event("batch_stored", timeout=60)
    assert sqlite_store.count() == 1
