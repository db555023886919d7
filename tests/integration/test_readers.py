"""What readers get: metrics_latest, complete_until()."""
import pytest

from wire import MICROSECONDS, T0, frame, series

COMPLETE = "SELECT metric_collectord.complete_until()"


def test_last_value_of_each_metric(start_collector, store):
    collector = start_collector(store)
    collector.wait_event("database_connected")
    assert store.rows("SELECT * FROM metrics_latest") == []
    names = [f"host{i}.cpu" for i in range(300)]
    for age in (20, 10, 0):
        time_us = T0 - age * MICROSECONDS
        collector.send(b"".join(frame(n, i - age, time_us) for i, n in enumerate(names)))
    store.wait_count(900)
    latest = store.rows("SELECT metric_name, value FROM metrics_latest")
    assert sorted(latest) == sorted((name, float(i)) for i, name in enumerate(names))
    assert store.rows("SELECT DISTINCT time FROM metrics_latest") == store.rows(
        "SELECT max(time) FROM metrics"
    )


def test_odd_names_are_found(start_collector, store):
    """Prefixes of each other, other scripts, blanks: the walk from name to name misses none."""
    names = ["a", "a ", "aa", "A", "\u00e4", "\u4e2d", "~", " ", "a.b", "a-b", "a_b"]
    collector = start_collector(store)
    collector.send(b"".join(frame(n, i) for i, n in enumerate(names)))
    store.wait_count(len(names))
    assert dict(store.rows("SELECT metric_name, value FROM metrics_latest")) == {
        name: float(i) for i, name in enumerate(names)
    }


@pytest.mark.tidy
def test_latest_does_not_hold_the_table(start_collector, database):
    """The table can be altered, renamed and dropped as if there were no view."""
    collector = start_collector(database)
    collector.send(frame("m", 1))
    database.wait_count(1)
    database.execute("ALTER TABLE metrics ALTER value TYPE numeric")
    database.execute("ALTER TABLE metrics ALTER value TYPE double precision")
    assert database.rows("SELECT metric_name, value FROM metrics_latest") == [("m", 1.0)]
    database.execute("DROP TABLE metrics")
    collector.stop_at_once()


def test_complete_until_moves_on_with_batches_and_without(start_collector, database):
    collector = start_collector(database, batch__interval=0.2)
    before = database.value("SELECT clock_timestamp()")
    collector.send(series("m", 100))
    database.wait_count(100)
    # its batch promises the instant at which it was stored, since nothing else waited
    database.wait_value(True, "SELECT metric_collectord.complete_until() > %s", before)
    database.execute("DELETE FROM metric_collectord.batches")
    now = database.value("SELECT clock_timestamp()")
    database.wait_value(True, "SELECT metric_collectord.complete_until() > %s", now)


def test_what_waits_holds_complete_until_back(start_collector, database):
    """Rows in the open batch: no promise goes past the moment they came."""
    collector = start_collector(database, batch__interval=3600)
    collector.send(series("m", 100))
    collector.wait_statistics(buffered=100)
    opened = database.value("SELECT clock_timestamp()")
    seen = "SELECT max(seen_at) > %s FROM metric_collectord.collectors"
    database.wait_value(True, seen, opened)
    assert database.value(COMPLETE) < opened
    collector.flush()
    database.wait_count(100)
    database.wait_value(True, "SELECT metric_collectord.complete_until() > %s", opened)


def test_promise_is_kept_across_a_restart(start_collector, database):
    """The spool knows when what a killed daemon had received came."""
    collector = start_collector(database, batch__interval=3600, buffer__sync="always")
    collector.wait_event("database_connected")
    with collector.sender() as sender:
        sender.send(series("m", 100))
        assert sender.sync(1) == 0
    received = database.value("SELECT clock_timestamp()")
    collector.kill9()
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '55P03'; END$$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON metrics FOR EACH STATEMENT"
        " EXECUTE FUNCTION refuse()"
    )
    again = start_collector(database, buffer__sync="always")
    again.wait_event("batch_held")
    seen = "SELECT max(seen_at) > %s FROM metric_collectord.collectors"
    database.wait_value(True, seen, received)
    assert database.value(COMPLETE) < received
    database.execute("DROP TRIGGER refuse ON metrics")
    database.wait_count(100)
    database.wait_value(True, "SELECT metric_collectord.complete_until() > %s", received)


def test_the_slowest_live_collector_counts_and_stale_ones_do_not(start_collector, database):
    slow = start_collector(database, name="slow", batch__interval=3600)
    slow.send(frame("slow", 1))
    slow.wait_statistics(buffered=1)
    database.wait_count(1, "metric_collectord.collectors")  # it is known to be alive
    held = database.value("SELECT clock_timestamp()")
    quick = start_collector(database, name="quick")
    quick.send(frame("quick", 1))
    database.wait_count(1)
    assert database.value(COMPLETE) < held
    slow.kill9()
    identity = slow.wait_event("ready")["collector"]
    database.execute(
        "UPDATE metric_collectord.collectors SET seen_at = now() - interval '10 minutes'"
        " WHERE collector = %s",
        identity,
    )
    quick.send(frame("quick", 2))
    database.wait_count(2)
    database.wait_value(True, "SELECT metric_collectord.complete_until() > %s", held)
    assert database.value("SELECT metric_collectord.complete_until('1 hour')") < held


def test_a_promise_of_a_clock_that_was_ahead(start_collector, database):
    """It is not believed, and gone with the next promise."""
    collector = start_collector(database)
    collector.send(frame("m", 1))
    database.wait_count(1)
    ahead = "complete_until = now() + interval '1 year'"
    database.execute(f"UPDATE metric_collectord.batches SET {ahead}")
    assert database.value(f"{COMPLETE} <= now()")
    seen = "SELECT count(*) FROM metric_collectord.collectors"
    database.wait_value(1, seen)
    database.execute(f"UPDATE metric_collectord.collectors SET {ahead}")
    assert database.value(f"{COMPLETE} <= now()")
    database.wait_value(1, f"{seen} WHERE complete_until <= now()")


def test_a_promise_is_not_taken_back(start_collector, database):
    """Of two that were made at the same time the lower one may be committed last: the greater holds."""
    collector = start_collector(database)
    collector.send(frame("m", 1))
    database.wait_count(1)
    collector.kill9()
    database.execute(
        "DELETE FROM metric_collectord.collectors;"
        "INSERT INTO metric_collectord.batches SELECT (jsonb_populate_record(b, jsonb_build_object("
        "'batch', b.batch + 1, 'stored_at', b.stored_at + interval '1 s',"
        "'complete_until', b.complete_until - interval '1 hour'))).*"
        " FROM metric_collectord.batches b"
    )
    assert database.value(
        f"SELECT ({COMPLETE}) = max(complete_until) FROM metric_collectord.batches"
    )


def test_a_session_is_never_told_less(start_collector, database):
    """Not by a collector that comes back with what is old, nor since ledger rows are gone."""
    collector = start_collector(database)
    collector.send(frame("m", 1))
    database.wait_count(1)
    connection = database.connect()
    with connection.cursor() as cursor:
        cursor.execute(COMPLETE)
        (told,) = cursor.fetchone()
        cursor.execute(
            "INSERT INTO metric_collectord.collectors VALUES"
            " (gen_random_uuid(), now() - interval '1 hour')"
        )
        cursor.execute(COMPLETE)
        assert cursor.fetchone()[0] >= told
        assert database.value(COMPLETE) < told  # another session starts anew
    connection.close()


def test_nobody_alive(start_collector, database):
    collector = start_collector(database)
    database.wait_count(1, "metric_collectord.collectors")
    assert collector.stop() == 0
    database.execute("DELETE FROM metric_collectord.collectors")
    assert database.value(COMPLETE) is None


def test_a_reader_needs_little(start_collector, database, role):
    collector = start_collector(database)
    collector.send(frame("m", 1))
    database.wait_count(1)
    database.execute(
        f"GRANT USAGE ON SCHEMA metric_collectord TO {role};"
        f"GRANT SELECT ON metrics, metrics_latest TO {role}"
    )
    connection = database.connect()
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {role}")
        cursor.execute("SELECT metric_name, value FROM metrics_latest")
        assert cursor.fetchall() == [("m", 1.0)]
        cursor.execute(COMPLETE)
        assert cursor.fetchone()[0] is not None
    connection.close()


def test_a_role_that_may_not_update_still_stores(start_collector, database, role):
    """Its promises travel with its batches; that it is alive it cannot say, and logs that."""
    start_collector(database, name="admin").wait_event("database_connected")
    database.execute(
        f"GRANT USAGE ON SCHEMA metric_collectord TO {role}; GRANT INSERT ON metrics TO {role};"
        f"GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA metric_collectord TO {role}"
    )
    collector = start_collector(
        name="writer", database__uri=database.uri_for(role), database__migrate=False
    )
    assert collector.wait_event("claim_failed")["sqlstate"] == "42501"
    collector.send(frame("m", 1))
    database.wait_count(1)
    assert database.value("SELECT complete_until IS NOT NULL FROM metric_collectord.batches")
    collector.stop()
