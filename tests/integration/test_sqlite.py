"""The embedded store."""
import shutil
import sqlite3
import subprocess

import pytest

import wire
from wire import T0, T0_TEXT, frame, series


def test_rows(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    collector.send(frame("cpu.load", 0.5) + frame("m", 2, T0 + 1))
    sqlite_store.wait_count(2)
    assert sqlite_store.rows("SELECT time, metric_name, value FROM metrics ORDER BY time") == [
        (T0_TEXT, "cpu.load", 0.5),
        (T0_TEXT.replace("000000Z", "000001Z"), "m", 2.0),
    ]


def test_order_of_text_is_order_of_time(start_collector, sqlite_store):
    times = [0, 1, 999_999, 1_000_000, T0 - 1, T0, T0 + 1, wire.TIME_MAX]
    collector = start_collector(sqlite_store)
    collector.send(b"".join(frame("m", i, t) for i, t in reversed(list(enumerate(times)))))
    sqlite_store.wait_count(len(times))
    rows = sqlite_store.rows("SELECT time, value FROM metrics ORDER BY time")
    assert [value for _, value in rows] == list(range(len(times)))
    assert {len(time) for time, _ in rows} == {len(T0_TEXT)}
    assert rows[0][0] == "1970-01-01T00:00:00.000000Z"
    assert rows[-1][0] == "9999-12-31T23:59:59.999999Z"


def test_the_readme_query_with_sqlite3(start_collector, sqlite_store):
    if not shutil.which("sqlite3"):
        pytest.skip("skipped: sqlite3 is not installed")
    collector = start_collector(sqlite_store)
    collector.send(series("m", 10))
    sqlite_store.wait_count(10)
    query = "SELECT time, metric_name, value FROM metrics ORDER BY time DESC LIMIT 5"
    result = subprocess.run(
        ["sqlite3", sqlite_store.path, query], capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    assert lines[0] == T0_TEXT.replace("000000Z", "000009Z") + "|m|9.0"
    assert len(lines) == 5


def test_journal_mode_is_wal(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    collector.send(frame("m", 1))
    sqlite_store.wait_count(1)
    assert sqlite_store.value("PRAGMA journal_mode") == "wal"


def test_ledger(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, batch__max_rows=100, batch__interval=3600)
    collector.send(series("m", 1050))
    collector.flush()
    collector.wait_event("batch_stored", count=11)
    assert sqlite_store.count() == 1050
    assert sqlite_store.rows(
        f"SELECT count(*), sum(rows), count(DISTINCT collector) FROM {sqlite_store.ledger}"
    ) == [(11, 1050, 1)]
    logged = {e["batch"]: e["rows"] for e in collector.find("batch_stored")}
    assert logged == dict(sqlite_store.rows(f"SELECT batch, rows FROM {sqlite_store.ledger}"))


def test_a_second_start_goes_on(start_collector, sqlite_store):
    first = start_collector(sqlite_store)
    first.send(series("m", 100))
    assert first.stop() == 0
    second = start_collector(sqlite_store)
    second.send(series("m", 100, first=100))
    assert second.stop() == 0
    assert sqlite_store.rows("SELECT count(*), sum(value) FROM metrics") == [(200, 19900.0)]
    assert sqlite_store.value(f"SELECT sum(rows) FROM {sqlite_store.ledger}") == 200


@pytest.mark.threads
def test_many_rows_with_readers_beside(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, batch__max_rows=5000)
    with collector.sender() as sender:
        for i in range(20):
            sender.send(series("m", 5000, first=5000 * i))
            assert sender.sync(2, i) == 0
            assert sqlite_store.count() == 5000 * (i + 1)
    assert collector.stop() == 0
    assert collector.stopped["stored"] == 100_000


def test_constraint_refuses_single_rows(start_collector, sqlite_store):
    first = start_collector(sqlite_store, name="first")
    first.wait_event("database_connected")
    assert first.stop() == 0
    connection = sqlite3.connect(sqlite_store.path)
    connection.execute(
        "CREATE TRIGGER guard BEFORE INSERT ON metrics WHEN NEW.value % 100 = 13"
        " BEGIN SELECT RAISE(ABORT, 'unlucky'); END"
    )
    connection.commit()
    connection.close()
    collector = start_collector(sqlite_store)
    collector.send(series("m", 1000))
    sqlite_store.wait_count(990)
    assert sqlite_store.rows(
        f"SELECT name, value, reason, error FROM {sqlite_store.rejected} ORDER BY value LIMIT 1"
    ) == [("m", 13.0, "trigger", "unlucky")]
    assert sqlite_store.count(sqlite_store.rejected) == 10
    assert collector.stop() == 0
    assert collector.stopped["rejected"] == 10


def test_a_file_that_cannot_be_made(start_collector, tmp_path):
    """Nothing is lost: a later try finds that the operator has made room."""
    in_the_way = tmp_path / "later"
    in_the_way.write_text("a file where the directory should be", encoding="utf-8")
    collector = start_collector(database__uri=f"sqlite:{in_the_way}/metrics.db")
    collector.send(frame("m", 1))
    event = collector.wait_event("database_unavailable")
    assert str(in_the_way) in event["error"]
    assert collector.statistics()["buffered"] == 1
    in_the_way.unlink()
    collector.wait_event("batch_stored", timeout=60)
