"""What others may do to a database, and a clock that is wrong: nothing is lost, and what is in the way is named."""
import subprocess
import time

import pytest

import hostile
from disks import shim, shim_library  # noqa: F401 (fixtures)
from waiting import wait_until
from wire import MICROSECONDS, frame, series

DAY = 86400
WRONG = 400 * DAY
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'metrics'::regclass"
PLACES = "SELECT tableoid::regclass::text, count(*) FROM metrics GROUP BY 1 ORDER BY 1"


def ago(seconds):
    return int((time.time() - seconds) * MICROSECONDS)


def midnight(age):
    return ago(age) // DAY // MICROSECONDS * DAY * MICROSECONDS


def day(age):
    return time.strftime("metrics_p%Y%m%d", time.gmtime(time.time() - age))


def partitions(database):
    return {name for (name,) in database.rows(PARTITIONS)}


def next_round(collector, **changes):
    collector.write_conf(**changes)
    mark = collector.mark()
    collector.reload()
    collector.wait_event("maintenance_done", since=mark, timeout=60)
    return mark


def fill(collector, database, *ages):
    """A day's partition for each age."""
    collector.wait_event("maintenance_done", timeout=60)
    before = database.count()
    for age in ages:
        collector.send(series(f"m{age}", 1000, time_us=midnight(age * DAY)))
    database.wait_count(before + 1000 * len(ages))
    next_round(collector, batch__interval=0.3)
    assert {day(age * DAY) for age in ages} <= partitions(database)


# ---- the clock ----


@pytest.mark.parametrize("wrong", [WRONG, -WRONG])
def test_a_wrong_clock_drops_nothing(start_collector, database, shim, wrong):  # noqa: F811
    """Neither partitions nor ledger rows, frames, or the place of what is new; and it is said."""
    collector = start_collector(database)
    fill(collector, database, 20)
    assert collector.stop() == 0
    shim.on("clock", str(wrong))
    collector = start_collector(
        database,
        env=shim.env,
        table__retention="30 days",
        database__ledger_keep="1 hour",
        timestamps__max_age="30 days",
        timestamps__max_future="1 hour",
    )
    differs = collector.wait_event("clock_differs")
    assert differs["level"] == "warning"
    assert abs(differs["seconds"] - wrong) < 3600
    collector.wait_event("maintenance_done", timeout=60)
    batches = database.count("metric_collectord.batches")
    before = database.value("SELECT clock_timestamp()")
    collector.send(frame("now", 1, ago(0)) + frame("old", 1, ago(60 * DAY)))
    database.wait_count(1001)
    next_round(collector, batch__interval=0.4)
    assert not collector.find("partition_dropped")
    assert partitions(database) == {
        "metrics_default", *(day(age * DAY) for age in (20, 0, -1))
    }
    assert database.count("metric_collectord.batches") > batches
    # what was received is complete: neither from the start of the universe nor before it came
    database.wait_value(True, "SELECT metric_collectord.complete_until() > %s", before)
    assert database.value("SELECT max(complete_until) <= now() FROM metric_collectord.batches")
    assert collector.stop() == 0


def test_a_clock_that_is_set_while_it_runs(start_collector, database, shim):  # noqa: F811
    collector = start_collector(database, env=shim.env, table__retention="30 days")
    fill(collector, database, 20)
    assert not collector.find("clock_differs")
    shim.on("clock", str(WRONG))
    next_round(collector, batch__interval=0.5)
    collector.wait_event("clock_differs")
    assert day(20 * DAY) in partitions(database)
    assert collector.stop() == 0


# ---- one object that cannot be worked on ----


def test_a_view_on_the_oldest_partition(start_collector, database):
    """It is named, the others go, and so does it once the view is gone."""
    collector = start_collector(database)
    fill(collector, database, 40, 41, 42)
    oldest = day(42 * DAY)
    database.execute(f"CREATE VIEW in_the_way AS SELECT * FROM {oldest}")
    next_round(collector, table__retention="30 days")
    failed = collector.wait_event("partition_failed")
    assert failed["partition"] == oldest and failed["sqlstate"] == "2BP01"
    assert "in_the_way" in failed["error"] and "metrics_default" not in failed["hint"]
    assert {e["partition"] for e in collector.find("partition_dropped")} == {
        day(40 * DAY), day(41 * DAY)
    }
    database.execute("DROP VIEW in_the_way")
    next_round(collector, batch__interval=0.5)
    assert oldest not in partitions(database)


def test_a_name_that_is_taken(start_collector, database):
    """A crowd whose partition cannot be made stays where it is; the others move."""
    collector = start_collector(database)
    database.wait_value(True, "SELECT to_regclass('metrics_default') IS NOT NULL")
    database.execute(f"CREATE TABLE {day(41 * DAY)} (mine integer)")
    for age in (40, 41, 42):
        collector.send(series(f"m{age}", 1000, time_us=midnight(age * DAY)))
    database.wait_count(3000)
    next_round(collector, batch__interval=0.3)
    assert collector.wait_event("partition_failed")["partition"] == day(41 * DAY)
    assert dict(database.rows(PLACES)) == {
        "metrics_default": 1000, day(40 * DAY): 1000, day(42 * DAY): 1000
    }


def test_a_partition_that_somebody_locks(start_collector, database):
    """Batches go on meanwhile, and so does retention."""
    collector = start_collector(database)
    fill(collector, database, 40, 41)
    connection = database.connect()
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {day(41 * DAY)} IN ACCESS SHARE MODE")
        next_round(collector, table__retention="30 days")
        assert partitions(database) >= {day(41 * DAY)}
        assert day(40 * DAY) not in partitions(database)
    connection.rollback()
    connection.close()
    next_round(collector, batch__interval=0.5)
    assert day(41 * DAY) not in partitions(database)


def test_a_ledger_that_cannot_be_tidied(start_collector, database):
    """It does not keep the table from being looked after."""
    collector = start_collector(database)
    fill(collector, database, 40)
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '42501'; END$$;"
        "CREATE TRIGGER refuse BEFORE DELETE ON metric_collectord.batches FOR EACH STATEMENT"
        " EXECUTE FUNCTION refuse()"
    )
    collector.write_conf(table__retention="30 days")
    collector.reload()
    collector.wait_event("maintenance_failed", error=lambda e: "not this one" in e)
    wait_until(lambda: day(40 * DAY) not in partitions(database), 30, "the partition is dropped")


# ---- publications, columns, names ----


def test_a_publication_for_all_tables(start_collector, cluster, database):
    if hostile.clock() is None:
        database.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    collector = start_collector(database)
    fill(collector, database, 10, 40)
    collector.send(frame("stray", 1, ago(50 * DAY)))
    database.wait_count(2001)
    next_round(collector, table__retention="30 days")
    assert database.count() == 1000
    assert not collector.find("partition_failed")
    for table in ("metrics", "metric_collectord.rejected", "metric_collectord.batches",
                  "metric_collectord.collectors", "metric_collectord.policies"):
        database.execute(f"DELETE FROM {table}")


def test_columns_of_others(start_collector, database):
    """A generated one cannot be given a value, and another one's value moves along."""
    collector = start_collector(database)
    collector.wait_event("maintenance_done")
    database.execute(
        "ALTER TABLE metrics ADD COLUMN IF NOT EXISTS twice float8 GENERATED ALWAYS AS (value * 2) STORED,"
        " ADD COLUMN IF NOT EXISTS note text, ADD COLUMN gone text;"
        "ALTER TABLE metrics DROP COLUMN gone, ALTER COLUMN note SET DEFAULT 'noted'"
    )
    fill(collector, database, 10)
    assert database.rows(
        f"SELECT DISTINCT note, twice = 2 * value FROM {day(10 * DAY)}"
    ) == [("noted", True)]


def test_latest_for_any_reader(start_collector, cluster, database):
    """Whatever his search_path is, through postgres_fdw, and after a restore."""
    collector = start_collector(database)
    collector.send(frame("m", 7))
    database.wait_count(1)
    database.execute("CREATE SCHEMA first; CREATE TABLE first.metrics (metric_name text)")
    for path in ("''", "first, public", "pg_catalog"):
        connection = database.connect()
        with connection.cursor() as cursor:
            cursor.execute(f"SET search_path = {path}")
            cursor.execute("SELECT metric_name, value FROM public.metrics_latest")
            assert cursor.fetchall() == [("m", 7.0)]
        connection.close()
    copy = cluster.create_database()
    copy.execute(
        "CREATE EXTENSION postgres_fdw;"
        "CREATE SERVER origin FOREIGN DATA WRAPPER postgres_fdw"
        f" OPTIONS (host '127.0.0.1', port '{cluster.port}', dbname '{database.name}');"
        "CREATE USER MAPPING FOR postgres SERVER origin OPTIONS (user 'postgres');"
        "CREATE FOREIGN TABLE far (metric_name text, value float8) SERVER origin"
        " OPTIONS (schema_name 'public', table_name 'metrics_latest')"
    )
    assert copy.rows("SELECT * FROM far") == [("m", 7.0)]
    cluster.execute(f'DROP DATABASE "{copy.name}" WITH (FORCE)')


def test_a_dump_can_be_restored(start_collector, cluster, database, tmp_path):
    collector = start_collector(database)
    collector.send(frame("m", 7))
    database.wait_count(1)
    database.execute("CREATE MATERIALIZED VIEW kept AS SELECT metric_name FROM metrics_latest")
    options = ["-h", "127.0.0.1", "-p", str(cluster.port), "-U", "postgres"]
    dump = tmp_path / "dump"
    tool = f"{cluster.bindir}/pg_dump"
    subprocess.run([tool, *options, "-Fc", "-f", dump, database.name], check=True)
    cluster.execute(f'CREATE DATABASE "{database.name}_copy"')
    copy = cluster.database(f"{database.name}_copy")
    tool = f"{cluster.bindir}/pg_restore"
    subprocess.run([tool, *options, "--exit-on-error", "-d", copy.name, dump], check=True)
    assert copy.rows("SELECT metric_name, value FROM metrics_latest") == [("m", 7.0)]
    assert copy.rows("SELECT * FROM kept") == [("m",)]
    cluster.execute(f'DROP DATABASE "{copy.name}" WITH (FORCE)')


@pytest.mark.parametrize("schema", ["o'clock", 'a "b" $c', "Metrics"])
def test_a_schema_of_any_name(start_collector, database, schema):
    quoted = '"' + schema.replace('"', '""') + '"'
    uri = database.uri + "?options=-csearch_path%3D" + "".join(
        f"%{byte:02X}" for byte in quoted.replace(" ", "\\ ").encode()
    )
    database.execute(f"CREATE SCHEMA {quoted}")
    collector = start_collector(database__uri=uri)
    collector.send(series("m", 1000, time_us=midnight(10 * DAY)))
    database.wait_count(1000, f"{quoted}.metrics")
    next_round(collector, batch__interval=0.3)
    assert not collector.find("partition_failed")
    assert database.count(f"ONLY {quoted}.{day(10 * DAY)}") == 1000
    assert database.rows(f"SELECT value FROM {quoted}.metrics_latest") == [(999.0,)]
    assert collector.stop() == 0
    # from now on it is there, whatever search_path says
    collector = start_collector(database)
    collector.send(frame("m", 1, ago(0)))
    database.wait_count(1001, f"{quoted}.metrics")


def test_rollups_in_a_schema_of_any_name(start_collector, timescale_cluster):
    database = timescale_cluster.create_database()
    database.execute("CREATE SCHEMA \"o'clock\"")
    settings = dict(
        database__uri=database.uri + "?options=-csearch_path%3D%22o%27clock%22,public",
        database__timescaledb="require",
        table__retention="30 days",
    )
    collector = start_collector(table__rollups=["1 hour"], **settings)
    collector.wait_event("maintenance_done", timeout=60)
    next_round(collector, table__rollups=["1 minute"])
    assert not collector.find("policy_failed")
    assert database.rows(
        "SELECT view_schema, view_name FROM timescaledb_information.continuous_aggregates ORDER BY 2"
    ) == [("o'clock", "metrics_1h"), ("o'clock", "metrics_1m")]
    assert collector.stop() == 0
    timescale_cluster.execute(f'DROP DATABASE "{database.name}" WITH (FORCE)')


# ---- what is gone ----


def test_a_table_that_was_dropped(start_collector, database):
    """Nobody makes it anew by himself; the hint has the command by which it is."""
    collector = start_collector(database)
    collector.send(frame("m", 1, ago(0)))
    database.wait_count(1)
    database.execute("DROP TABLE metrics CASCADE")
    collector.send(frame("m", 2, ago(0)))
    held = collector.wait_event("database_unavailable", sqlstate="42P01", timeout=60)
    command = held["hint"].rpartition(": ")[2]
    assert command == "DELETE FROM metric_collectord.migrations"
    database.execute(command)
    collector.flush()
    database.wait_value(1, "SELECT count(*) FROM metrics", timeout=60)
    assert database.rows("SELECT value FROM metrics_latest") == [(2.0,)]
    assert day(0) in partitions(database)


def test_collectors_that_are_gone(start_collector, database):
    """Their rows go after senders.keep, by the clock of the database; nothing of one that lives does."""
    collector = start_collector(database, senders__keep="30 days")
    collector.send(frame("m", 1))
    database.wait_count(1)
    database.wait_count(1, "metric_collectord.collectors")
    template = (
        "INSERT INTO metric_collectord.batches (collector, batch, rows, bytes, min_time, max_time, stored_at)"
        " SELECT '{0}', n, 1, 1, now(), now(), now() - interval '{1}' FROM generate_series(1, 3) n;"
    )
    gone, idle, lives = (f"00000000-0000-4000-8000-00000000000{i}" for i in range(3))
    database.execute(
        template.format(gone, "31 days")
        + template.format(idle, "31 days")
        + template.format(lives, "29 days")
        + "INSERT INTO metric_collectord.collectors VALUES"
        f" ('{gone}', now(), now() - interval '31 days'), ('{idle}', now(), now() - interval '29 days')"
    )
    next_round(collector, batch__interval=0.3)
    seen = "SELECT DISTINCT collector::text FROM metric_collectord.{} ORDER BY 1"
    own = collector.wait_event("ready")["collector"]
    assert database.rows(seen.format("batches")) == sorted([(own,), (idle,), (lives,)])
    assert database.rows(seen.format("collectors")) == sorted([(own,), (idle,)])
    assert collector.wait_event("collectors_forgotten")["batches"] == 3
