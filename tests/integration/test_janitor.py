"""The janitor: what it waits for no batch waits for, once the table is there."""
import threading
import time

import pytest

from waiting import wait_until
from wire import MICROSECONDS, frame, series

pytestmark = pytest.mark.usefixtures("same_day")

DAY = 86400
SET_UP_LOCK = "pg_advisory_lock(7882266284294234996)"
BUSY = {"sqlstate": "55P03", "error": lambda text: "another session changes the tables: pid " in text}
CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'metric-collectord'"
)
PARTITIONS = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'metrics'::regclass"


def midnight(days_ago):
    return (int(time.time()) // DAY - days_ago) * DAY * MICROSECONDS


def ask(collector, data, token):
    """A level-2 answer, and how long it took."""
    with collector.sender(timeout=60) as sender:
        started = time.monotonic()
        sender.send(data)
        assert sender.sync(2, token) == 0
        return time.monotonic() - started


@pytest.fixture
def session(database):
    """An operator's, in a transaction."""
    connection = database.connect()
    connection.autocommit = False
    yield connection.cursor()
    connection.close()


def reload(collector, **changes):
    collector.write_conf(**changes)
    mark = collector.mark()
    collector.reload()
    return mark


def test_set_up_lock_keeps_no_batch_out(start_collector, database, session):
    """Another collector converts a large table, say, and a partition is due here."""
    collector = start_collector(database)
    collector.wait_event("maintenance_done")
    tomorrow = time.strftime("metrics_p%Y%m%d", time.gmtime(time.time() + DAY))
    database.execute(f"DROP TABLE {tomorrow}")
    session.execute(f"SELECT {SET_UP_LOCK}")
    mark = reload(collector, batch__interval=0.1)
    ask(collector, frame("m", 1), 1)
    event = collector.wait_event("maintenance_failed", since=mark, **BUSY)
    assert "user postgres" in event["error"]
    assert "pg_terminate_backend" in event["hint"]
    for token in range(2, 5):
        ask(collector, frame("m", token), token)
    assert database.count() == 4
    assert not collector.find("partition_created", since=mark)
    session.connection.close()
    assert collector.wait_event("partition_created", since=mark)["partition"] == tomorrow


def test_set_up_lock_keeps_no_batch_out_while_policies_are_due(start_collector, timescale_cluster):
    database = timescale_cluster.create_database()
    first = start_collector(database, name="first", database__timescaledb="require")
    first.wait_event("maintenance_done", timeout=60)
    assert first.stop() == 0
    with database.connect() as blocker, blocker.cursor() as cursor:
        cursor.execute(f"SELECT {SET_UP_LOCK}")
        second = start_collector(
            database, name="second", database__timescaledb="require", table__retention="90 days"
        )
        second.wait_event("maintenance_failed", **BUSY)
        for token in range(1, 4):
            ask(second, frame("m", token), token)
        assert not second.find("policy_applied")
    blocker.close()
    second.wait_event("policy_applied", policy="retention")
    second.stop()
    timescale_cluster.execute(f'DROP DATABASE "{database.name}" WITH (FORCE)')


def test_connects_only_while_something_is_due(start_collector, database):
    collector = start_collector(database, database__connections=2)
    collector.wait_event("database_connected", count=2)
    collector.wait_event("maintenance_done")
    database.wait_value(2, CONNECTIONS)
    # and again once it has told readers that the collector is alive
    now = database.value("SELECT clock_timestamp()")
    database.wait_value(True, "SELECT max(seen_at) > %s FROM metric_collectord.collectors", now)
    database.wait_value(2, CONNECTIONS)


def test_batches_go_on_while_a_crowd_moves(start_collector, database, session):
    """A reader keeps the move from its end: neither rows of today nor late ones wait for that."""
    collector = start_collector(database)
    old = midnight(40)
    collector.send(series("late", 5000, time_us=old))
    database.wait_count(5000)
    session.execute("SELECT count(*) FROM metrics_default")
    mark = reload(collector, batch__interval=0.1)
    locking = (
        "SELECT count(*) FROM pg_locks WHERE relation = 'metrics_default'::regclass"
        " AND mode = 'AccessExclusiveLock' AND NOT granted"
    )
    database.wait_value(1, locking)
    for token in range(1, 5):
        ask(collector, frame("today", token, midnight(0)), token)
        ask(collector, series("later", 10, first=token * 10, time_us=old + DAY // 2 * MICROSECONDS), token)
    assert not collector.find("partition_created", since=mark)
    # readers see all of them meanwhile, in their old place
    assert database.value("SELECT count(*) FROM metrics_default") == 5040
    assert database.count() == 5044
    session.connection.rollback()
    made = collector.wait_event("partition_created", since=mark, timeout=60)["partition"]
    assert database.value(f"SELECT count(*) FROM {made}") == 5040
    assert database.value("SELECT count(*) FROM metrics_default") == 0
    assert database.value("SELECT count(DISTINCT (metric_name, value)) FROM metrics") == 5044
    assert database.value(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'", made
    ) == 0


@pytest.mark.slow
def test_a_large_crowd_moves(start_collector, database):
    """1.5 million late rows: answers go on coming, for rows of today and for late ones."""
    collector = start_collector(database, batch__interval=0.1)
    collector.wait_event("maintenance_done")
    database.execute(
        "INSERT INTO metrics SELECT date_trunc('day', now() - interval '40 days', 'UTC')"
        " + i * interval '50 ms', 'late.' || i % 200, i FROM generate_series(1, 1500000) i"
    )
    longest = {"today": 0, "late": 0}
    answers = dict.fromkeys(longest, 0)
    done = threading.Event()

    def send(name, time_us):
        while not done.is_set():
            took = ask(collector, frame(name, answers[name], time_us), 1)
            longest[name] = max(longest[name], took)
            answers[name] += 1

    mark = reload(collector, batch__interval=0.2)
    threads = [
        threading.Thread(target=send, args=("today", midnight(0))),
        threading.Thread(target=send, args=("late", midnight(40) + 1)),
    ]
    for thread in threads:
        thread.start()
    try:
        collector.wait_event("partition_created", since=mark, timeout=300)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    print(f"longest answers: {longest}, answers: {answers}")
    assert min(answers.values()) >= 5
    assert longest["today"] < 5
    assert longest["late"] < 15
    database.wait_count(1500000 + sum(answers.values()))
    assert database.value("SELECT count(*) FROM metrics_default") == 0


def test_tables_that_were_dropped_are_made_anew(start_collector, database):
    """A restore that went wrong, say.  Nobody has to restart the collector."""
    collector = start_collector(database)
    ask(collector, frame("m", 1), 1)
    database.execute("DROP SCHEMA metric_collectord CASCADE; DROP TABLE metrics")
    mark = collector.mark()
    ask(collector, frame("m", 2), 1)
    versions = [event["version"] for event in collector.find("migration_applied", since=mark)]
    assert versions and versions == sorted(set(versions))
    assert database.rows("SELECT value FROM metrics") == [(2.0,)]


def test_nothing_is_promised_before_kept_batches_are_compared(start_collector, database, role):
    """A batch is stored, but does not say that all before it is: the ledger cannot be read yet."""
    start_collector(database, name="admin").wait_event("maintenance_done")
    database.execute(
        f"GRANT USAGE ON SCHEMA metric_collectord TO {role}; GRANT INSERT ON metrics TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA metric_collectord TO {role};"
        f"REVOKE SELECT ON metric_collectord.batches FROM {role}"
    )
    collector = start_collector(
        name="kept",
        database__uri=database.uri_for(role),
        database__migrate=False,
        buffer__keep="10 minutes",
    )
    assert collector.wait_event("maintenance_failed")["sqlstate"] == "42501"
    ask(collector, frame("m", 1), 1)
    promised = "SELECT complete_until IS NOT NULL FROM metric_collectord.batches WHERE batch = %s"
    first = collector.wait_event("batch_stored")["batch"]
    assert database.value(promised, first) is False
    database.execute(f"GRANT SELECT ON metric_collectord.batches TO {role}")

    def promises():
        mark = collector.mark()
        ask(collector, frame("m", 2), 1)
        return database.value(promised, collector.wait_event("batch_stored", since=mark)["batch"])

    wait_until(promises, 30)
    collector.stop()
