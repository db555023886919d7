"""Plain PostgreSQL: metrics partitioned by time, made, filled and dropped by the daemon."""
import time

import pytest

from waiting import wait_until
from wire import MICROSECONDS, SHELL_EXAMPLE_BYTES, frame, series

pytestmark = pytest.mark.usefixtures("same_day")

DAY = 86400
PARTITIONS = (
    "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i"
    " JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'metrics'::regclass ORDER BY 1"
)
PLACES = "SELECT tableoid::regclass::text, count(*) FROM metrics GROUP BY 1 ORDER BY 1"
KIND = "SELECT relkind::text FROM pg_class WHERE oid = 'metrics'::regclass"


def ago(seconds):
    return int((time.time() - seconds) * MICROSECONDS)


def day(offset):
    return time.strftime("metrics_p%Y%m%d", time.gmtime(time.time() + offset * DAY))


def names(database):
    return [name for name, _ in database.rows(PARTITIONS)]


def connected(collector, **changes):
    """What the janitor makes of a changed file."""
    collector.write_conf(**changes)
    mark = collector.mark()
    collector.reload()
    collector.wait_event("maintenance_done", since=mark, timeout=60)
    assert not collector.find("partition_failed", since=mark, sqlstate=lambda s: s != "55P03")
    return mark


def test_partitions_are_made_ahead(start_collector, database):
    collector = start_collector(database)
    today, tomorrow = day(0), day(1)
    collector.send(frame("m", 1, ago(0)))
    database.wait_count(1)
    assert database.value(KIND) == "p"
    assert names(database) == ["metrics_default", today, tomorrow]
    assert database.rows(PLACES) == [(today, 1)]
    assert [e["partition"] for e in collector.find("partition_created")] == [today, tomorrow]


def test_any_time_has_a_place(start_collector, database):
    """The examples of 1970 and 2023 too, and the last microsecond there is."""
    collector = start_collector(database)
    collector.send(SHELL_EXAMPLE_BYTES + frame("m", 1, 0) + frame("m", 2, 253402300799_999999))
    database.wait_count(3)
    assert database.rows(PLACES) == [("metrics_default", 3)]
    assert database.count("metric_collectord.rejected") == 0
    assert len(names(database)) == 3


def test_a_crowd_gets_partitions_of_its_own(start_collector, database):
    """A backfill: its rows move, none is lost or doubled, strays stay where they are."""
    collector = start_collector(database)
    for age in (40, 41, 43):
        collector.send(series(f"m{age}", 1200, time_us=ago(age * DAY) // DAY // MICROSECONDS
                              * DAY * MICROSECONDS))
    collector.send(frame("stray", 1, ago(10 * DAY)) + frame("stray", 2, ago(42 * DAY)))
    database.wait_count(3602)
    connected(collector, batch__interval=0.3)
    counts = dict(database.rows(PLACES))
    assert counts.pop("metrics_default") == 2
    assert sorted(counts.values()) == [1200, 1200, 1200]
    assert database.value("SELECT count(DISTINCT (metric_name, value)) FROM metrics") == 3602
    assert len(collector.find("partition_created")) == 5


def test_a_round_makes_no_more_than_max_new_chunks(start_collector, database):
    collector = start_collector(database, table__max_new_chunks=2)
    for age in range(20, 25):
        collector.send(series(f"m{age}", 1000, time_us=ago(age * DAY) // DAY // MICROSECONDS
                              * DAY * MICROSECONDS))
    database.wait_count(5000)
    connected(collector, batch__interval=0.3)
    assert len(names(database)) == 3 + 2
    connected(collector, batch__interval=0.4)
    assert len(names(database)) == 3 + 4
    assert database.count() == 5000


def test_expired_partitions_and_strays_go(start_collector, database):
    collector = start_collector(database)
    old = ago(40 * DAY) // DAY // MICROSECONDS * DAY * MICROSECONDS
    collector.send(series("old", 1000, time_us=old) + frame("stray", 1, ago(50 * DAY)))
    collector.send(frame("young", 1, ago(20 * DAY)) + frame("now", 1, ago(0)))
    database.wait_count(1003)
    connected(collector, batch__interval=0.3)
    assert len(names(database)) == 4
    mark = connected(collector, table__retention="30 days")
    assert len(collector.find("partition_dropped", since=mark)) == 1
    assert len(names(database)) == 3
    assert database.rows("SELECT metric_name FROM metrics ORDER BY 1") == [("now",), ("young",)]


def test_another_interval_counts_from_now_on(start_collector, database):
    """What is covered stays as it is; partitions never overlap."""
    collector = start_collector(database)
    collector.wait_event("database_connected")
    before = database.rows(PARTITIONS)
    connected(collector, table__chunk_interval="3 days")
    connected(collector, table__chunk_interval="1 hour")
    after = database.rows(PARTITIONS)
    assert set(before) <= set(after)
    collector.send(b"".join(frame("m", i, ago(-i * 3600)) for i in range(48)))
    database.wait_count(48)


def test_intervals_of_minutes(start_collector, database):
    """An hour ahead at least: housekeeping comes round each minute."""
    collector = start_collector(database, table__chunk_interval="10 minutes")
    collector.wait_event("database_connected")
    assert 7 <= len(names(database)) - 1 <= 8
    collector.send(b"".join(frame("m", i, ago(-i * 600)) for i in range(6)))
    database.wait_count(6)
    assert len(database.rows(PLACES)) == 6


@pytest.mark.threads
def test_six_collectors_at_once(new_collector, database):
    collectors = [
        new_collector(database, name=f"c{i}", database__connections=2, table__chunk_interval="1 hour")
        for i in range(6)
    ]
    for collector in collectors:
        collector.start(wait=None)
    for i, collector in enumerate(collectors):
        collector.wait_event("ready")
        collector.send(frame(f"m{i}", i, ago(0)))
    database.wait_count(6, timeout=60)
    assert not [e for c in collectors for e in c.find("partition_failed")]
    made = [e["partition"] for c in collectors for e in c.find("partition_created")]
    assert sorted(made) == [name for name in names(database) if name != "metrics_default"]


def test_role_that_may_not_make_partitions(start_collector, database, role):
    """Its rows go to the default partition, and it says why."""
    admin = start_collector(database, name="admin")
    admin.wait_event("maintenance_done")
    admin.stop()  # or it could make them again
    database.execute(
        f"GRANT USAGE ON SCHEMA metric_collectord TO {role};"
        f"GRANT INSERT ON metrics TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA metric_collectord TO {role};"
        f"DROP TABLE {day(0)}, {day(1)}"
    )
    collector = start_collector(name="writer", database__uri=database.uri_for(role))
    assert collector.wait_event("partition_failed")["sqlstate"] == "42501"
    collector.send(frame("m", 1, ago(0)))
    database.wait_count(1)
    assert database.rows(PLACES) == [("metrics_default", 1)]
    collector.stop()


def test_a_table_that_was_there_is_left_alone(start_collector, database):
    database.execute(
        "CREATE TABLE metrics (time timestamptz NOT NULL, metric_name text NOT NULL,"
        " value double precision NOT NULL)"
    )
    collector = start_collector(
        database, table__retention="30 days", database__connections=2
    )
    collector.send(frame("m", 1, ago(40 * DAY)))
    database.wait_count(1)
    collector.wait_event("database_connected", count=2)
    assert database.value(KIND) == "r"
    assert len(collector.find("table_differs", what="partitions")) == 1


def test_partitions_of_others_are_left_alone(start_collector, database):
    database.execute(
        "CREATE TABLE metrics (time timestamptz NOT NULL, metric_name text NOT NULL,"
        " value double precision NOT NULL) PARTITION BY RANGE (time);"
        "CREATE TABLE all_of_them PARTITION OF metrics FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
    )
    collector = start_collector(database, table__retention="30 days")
    collector.send(frame("m", 1, ago(40 * DAY)))
    database.wait_count(1)
    assert names(database) == ["all_of_them"]


def test_rows_that_may_not_be_deleted(start_collector, database):
    """They are named, and the others of the default partition go."""
    collector = start_collector(database)
    old = ago(40 * DAY)
    collector.send(series("kept", 2, time_us=old) + series("gone", 300, time_us=old))
    database.wait_count(302)
    database.execute(
        """CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.metric_name = 'kept' THEN RAISE EXCEPTION 'this one stays'; END IF;
            RETURN OLD; END $$;
        CREATE TRIGGER keep BEFORE DELETE ON metrics_default
            FOR EACH ROW EXECUTE FUNCTION keep()"""
    )
    collector.write_conf(table__retention="30 days")
    collector.reload()
    event = collector.wait_event("partition_failed", partition="metrics_default")
    assert "this one stays" in event["error"] and "may not be deleted" in event["hint"]
    database.wait_count(2)
    assert database.rows("SELECT DISTINCT metric_name FROM metrics") == [("kept",)]


def test_a_reader_that_holds_the_default_partition(start_collector, database):
    """No writer waits behind it: the round gives up, metrics are stored, the next one succeeds."""
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute(f"DROP TABLE {day(1)}")
    connection = database.connect()
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metrics")
        connected(collector, batch__interval=0.3)
        assert collector.wait_event("partition_failed")["sqlstate"] == "55P03"
        collector.send(frame("m", 1, ago(0)))
        database.wait_count(1)
    connection.rollback()
    connection.close()
    connected(collector, batch__interval=0.4)
    assert day(1) in names(database)


def test_timescaledb_comes_later(start_collector, timescale_cluster):
    """The partitioned table becomes a hypertable with its rows, indexes and rights."""
    database = timescale_cluster.create_database()
    timescale_cluster.execute(f"CREATE ROLE reader_{database.name}")
    plain = start_collector(database, name="plain")
    plain.send(series("old", 1500, time_us=ago(3 * DAY)) + frame("now", 1, ago(0)))
    database.wait_count(1501)
    database.execute(
        f"GRANT SELECT ON metrics TO reader_{database.name};"
        "CREATE INDEX by_value ON metrics (value)"
    )
    assert plain.stop() == 0
    collector = start_collector(database, name="new", database__timescaledb="require")
    collector.wait_event("hypertable_created", timeout=60)
    collector.send(frame("new", 1, ago(0)))
    database.wait_count(1502)
    assert database.value(KIND) == "r"
    assert database.value(
        f"SELECT has_table_privilege('reader_{database.name}', 'metrics', 'SELECT')"
    )
    assert database.rows(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'metrics' ORDER BY 1"
    ) == [("metrics_metric_name_time_idx",), ("metrics_time_idx",), ("metrics_value_idx",)]
    assert database.value("SELECT to_regclass('metrics_before')") is None
    assert database.rows("SELECT metric_name FROM metrics_latest") == [("new",), ("now",), ("old",)]
    collector.stop()
    timescale_cluster.execute(f'DROP DATABASE "{database.name}" WITH (FORCE)')
    timescale_cluster.execute(f"DROP ROLE reader_{database.name}")
