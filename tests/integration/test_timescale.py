"""TimescaleDB: the hypertable, and what happens without it."""
import pytest

from wire import frame, series

HYPERTABLES = (
    "SELECT hypertable_name FROM timescaledb_information.hypertables"
    " WHERE hypertable_schema = 'public'"
)


@pytest.fixture
def timescale_database(timescale_cluster):
    fresh = timescale_cluster.create_database()
    yield fresh
    timescale_cluster.execute(f'DROP DATABASE "{fresh.name}" WITH (FORCE)')


@pytest.mark.parametrize("mode", ["auto", "require"])
def test_hypertable_is_made(start_collector, timescale_database, mode):
    collector = start_collector(timescale_database, database__timescaledb=mode)
    collector.wait_event("hypertable_created", timeout=60)
    assert collector.wait_event("database_connected")["timescaledb_version"]
    collector.send(series("m", 1000))
    timescale_database.wait_count(1000)
    assert timescale_database.rows(HYPERTABLES) == [("metrics",)]
    assert timescale_database.value("SELECT count(*) FROM show_chunks('metrics')") == 1


def test_hypertable_is_made_of_rows_that_are_there(start_collector, timescale_database):
    plain = start_collector(timescale_database, name="plain")
    plain.send(series("m", 5000))
    timescale_database.wait_count(5000)
    assert plain.stop() == 0
    collector = start_collector(timescale_database, name="new", database__timescaledb="auto")
    collector.wait_event("hypertable_created", timeout=60)
    collector.send(series("m", 1000, first=5000))
    timescale_database.wait_count(6000)
    assert timescale_database.rows(HYPERTABLES) == [("metrics",)]
    assert timescale_database.value("SELECT count(DISTINCT value) FROM metrics") == 6000


def test_a_table_that_will_not_do_stays_as_it_is(start_collector, timescale_database):
    timescale_database.execute(
        "CREATE TABLE metrics (time timestamptz NOT NULL, metric_name text, value real)"
    )
    collector = start_collector(timescale_database, database__timescaledb="auto")
    assert "real" in collector.wait_event("database_unavailable", sqlstate="42804")["error"]
    assert not collector.find("hypertable_created")
    assert timescale_database.value("SELECT count(*) FROM pg_extension") == 1
    timescale_database.execute("ALTER TABLE metrics ALTER value TYPE double precision")
    collector.send(frame("m", 1))
    timescale_database.wait_count(1)
    collector.wait_event("hypertable_created")


def test_a_second_start_finds_it(start_collector, timescale_database):
    first = start_collector(timescale_database, database__timescaledb="auto")
    first.wait_event("hypertable_created", timeout=60)
    assert first.stop() == 0
    second = start_collector(timescale_database, database__timescaledb="auto")
    second.send(frame("m", 1))
    timescale_database.wait_count(1)
    assert not second.find("hypertable_created")
    assert not second.find("migration_applied")


def test_a_table_in_its_place_becomes_one_too(start_collector, timescale_database):
    first = start_collector(timescale_database, database__timescaledb="auto")
    first.wait_event("hypertable_created", timeout=60)
    assert first.stop() == 0
    timescale_database.replace_metrics()
    timescale_database.execute("INSERT INTO metrics VALUES (now(), 'old', 0)")
    second = start_collector(timescale_database, database__timescaledb="require")
    second.wait_event("hypertable_created", timeout=60)
    second.send(frame("m", 1))
    timescale_database.wait_count(2)
    assert ("metrics",) in timescale_database.rows(HYPERTABLES)
    for collector in (first, second):  # all migrations of the flavour, each time
        applied = [e["version"] for e in collector.find("migration_applied", flavour="timescaledb")]
        assert applied == timescale_database.migrations("timescaledb")


def test_off_leaves_a_plain_table(start_collector, timescale_database):
    collector = start_collector(timescale_database, database__timescaledb="off")
    collector.send(frame("m", 1))
    timescale_database.wait_count(1)
    assert timescale_database.rows("SELECT extname FROM pg_extension ORDER BY 1") == [("plpgsql",)]


def test_check_constraint_of_a_hypertable(start_collector, timescale_database):
    collector = start_collector(timescale_database, database__timescaledb="auto")
    collector.wait_event("hypertable_created", timeout=60)
    timescale_database.execute("ALTER TABLE metrics ADD CONSTRAINT sane CHECK (value <> 13)")
    collector.send(series("m", 100))
    timescale_database.wait_count(99)
    timescale_database.wait_count(1, "metric_collectord.rejected")


def test_auto_without_timescaledb(start_collector, database):
    """Not installed, or installed and not preloaded: plain PostgreSQL, and one warning."""
    collector = start_collector(database, database__timescaledb="auto")
    collector.send(series("m", 100))
    database.wait_count(100, timeout=60)
    warnings = [e for e in collector.events if e["level"] == "warning"]
    assert len([e for e in warnings if "timescaledb" in str(e).lower()]) == 1
    assert collector.stop() == 0


def test_require_without_timescaledb(start_collector, database):
    """Nothing is stored in a table that is not what was asked for, and nothing is lost."""
    collector = start_collector(database, database__timescaledb="require")
    collector.send(series("m", 100))
    event = collector.wait_event("database_unavailable", timeout=60)
    assert "timescaledb" in (event["error"] + event.get("hint", "")).lower()
    assert collector.statistics()["buffered"] == 100
    collector.write_conf(database__timescaledb="off")
    collector.reload()
    database.wait_count(100)
