"""Errors that a batch meets: is it a row, a part of the batch, a partition, or the table?"""
from contextlib import closing

import pytest

from crowds import ROWS, crowd, crowded_database, leave_locks
from waiting import wait_until
from wire import T0, frame, series

DAY = 86400 * 1_000_000

TABLE = """
    CREATE TABLE metrics (time timestamptz NOT NULL, metric_name text NOT NULL,
        value double precision NOT NULL)
"""


def rule(body, when="BEFORE", returns="RETURN NEW;"):
    """A trigger of the operator's."""
    return f"""
        CREATE OR REPLACE FUNCTION rule() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN {body} {returns} END $$;
        CREATE TRIGGER rule {when} INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION rule()
    """


def rule_against(name, sqlstate):
    return rule(
        f"IF NEW.metric_name = '{name}' THEN"
        f" RAISE EXCEPTION 'no %', NEW.metric_name USING ERRCODE = '{sqlstate}'; END IF;"
    )


def assert_held(collector, database, rows, sqlstate, word):
    """The rows wait, none is rejected, and the hint names what was seen."""
    event = collector.wait_event("batch_held", sqlstate=sqlstate)
    assert word in event["hint"], event
    assert event["level"] == "error"
    collector.wait_statistics(buffered=rows, rejected=0, dropped=0)
    assert database.count("metric_collectord.rejected") == 0


# ---- rows ----


@pytest.mark.parametrize(
    "sqlstate",
    ["P0001", "45000", "MC001", "42501", "40001", "53200", "08006", "57014", "25006", "28000", "XX000"],
)
def test_rule_with_a_sqlstate_of_its_own(start_collector, database, sqlstate):
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    database.execute(rule_against("bad", sqlstate))
    collector.send(series("good", 300) + series("bad", 3) + series("good", 300, first=300))
    collector.flush()
    database.wait_count(600)
    assert database.rows(
        "SELECT name, value, sqlstate, reason, error FROM metric_collectord.rejected ORDER BY value"
    ) == [("bad", float(i), sqlstate, "trigger", "no bad") for i in range(3)]
    # a batch that has no other rows
    collector.send(series("bad", 100))
    collector.flush()
    database.wait_count(103, "metric_collectord.rejected")
    collector.send(series("good", 100, first=600))
    collector.flush()
    database.wait_count(700)
    assert not collector.find("batch_held")
    collector.wait_statistics(stored=700, rejected=103, buffered=0)


def test_constraint_of_values_that_nothing_meets(start_collector, database):
    """A named constraint is about the rows, also when no row of any kind would be taken."""
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute("ALTER TABLE metrics ADD CONSTRAINT none CHECK (value IS NULL)")
    collector.send(series("m", 64))
    database.wait_count(64, "metric_collectord.rejected")


def test_constraint_of_a_column_that_is_not_ours(start_collector, database):
    """It is the table's matter: the rows wait until that is mended."""
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute(
        "ALTER TABLE metrics ADD COLUMN site text;"
        "ALTER TABLE metrics ADD CONSTRAINT somewhere CHECK (site IS NOT NULL) NOT VALID"
    )
    collector.send(series("m", 64))
    assert_held(collector, database, 64, "23514", "somewhere")
    database.execute("ALTER TABLE metrics ALTER COLUMN site SET DEFAULT 'here'")
    database.wait_count(64, timeout=60)


@pytest.mark.parametrize("local", ["SET LOCAL search_path = app", "PERFORM set_config('search_path', 'app', false)"])
def test_trigger_that_changes_the_search_path(start_collector, database, local):
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    database.execute(
        "CREATE SCHEMA app;"
        + rule(f"{local}; IF NEW.metric_name = 'bad' THEN RAISE EXCEPTION 'no' USING ERRCODE = '45000'; END IF;")
    )
    collector.send(series("good", 500) + series("bad", 300) + series("good", 500, first=500))
    collector.flush()
    database.wait_count(1000, timeout=60)
    assert database.rows("SELECT DISTINCT name, sqlstate FROM metric_collectord.rejected") == [
        ("bad", "45000")
    ]
    database.wait_count(300, "metric_collectord.rejected")


def test_refused_rows_are_summed_in_the_log(start_collector, database):
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    database.execute(rule_against("bad", "45000"))
    collector.send(series("bad", 2000) + series("good", 10))
    collector.flush()
    event = collector.wait_event("rows_rejected")
    assert (event["rows"], event["stored"], event["sqlstate"]) == (2000, 10, "45000")
    assert "no bad" in event["error"]
    assert collector.stop() == 0
    assert len(collector.find("row_rejected")) <= 5
    assert len(collector.find("rows_rejected")) == 1


def test_many_refused_rows_delay_nobody(start_collector, database):
    rows = 100_000
    collector = start_collector(
        database, batch__interval=3600, batch__max_rows=rows, database__connections=2
    )
    collector.wait_event("database_connected")
    database.execute("CREATE UNIQUE INDEX one_each ON metrics (time, metric_name)")
    collector.send(series("m", rows))
    collector.wait_event("batch_stored", timeout=60)
    # the same once more: each row is a duplicate
    collector.send(series("m", rows))
    wait_until(lambda: collector.statistics()["received"] == 2 * rows, 60)
    with collector.sender(timeout=60) as other:
        other.send(frame("other", 1))
        assert other.sync(2) == 0
    assert database.count("metric_collectord.rejected") == 0, "the other one waited for the first"
    collector.wait_event("batch_stored", timeout=120, rejected=rows)
    assert database.count("metric_collectord.rejected") == rows
    assert database.count() == rows + 1


def test_a_refused_row_does_not_speak_for_the_others(start_collector, database):
    """A duplicate is refused, and a trigger of the table's is broken for all."""
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    collector.send(series("m", 1))
    collector.flush()
    database.wait_count(1)
    database.execute(
        "CREATE UNIQUE INDEX one_each ON metrics (time, metric_name);"
        + rule("INSERT INTO gone VALUES (1);", when="AFTER", returns="RETURN NULL;")
    )
    collector.send(series("m", 50))
    collector.flush()
    assert_held(collector, database, 50, "42P01", "rule")
    database.execute("DROP TRIGGER rule ON metrics")
    database.wait_count(50, timeout=60)
    database.wait_count(1, "metric_collectord.rejected")


def test_notices_are_not_read(start_collector, database):
    """A trigger that has much to say, for each row."""
    rows = 60_000
    collector = start_collector(database, batch__interval=3600, batch__max_rows=rows)
    collector.wait_event("database_connected")
    database.execute(rule("RAISE NOTICE '%', repeat('x', 600);"))
    collector.send(series("m", rows))
    database.wait_count(rows, timeout=60)
    assert not collector.find("database_unavailable")


def test_role_without_temporary_tables(start_collector, cluster, database, role):
    """Then rows are found by halving, as before."""
    start_collector(database, name="admin").wait_event("database_connected")
    database.execute(
        f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC;"
        f"GRANT USAGE ON SCHEMA metric_collectord TO {role}; GRANT INSERT ON metrics TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA metric_collectord TO {role}"
    )
    collector = start_collector(
        name="bound", database__uri=database.uri_for(role), database__migrate=False
    )
    database.execute(rule_against("bad", "MC001"))
    collector.send(series("good", 500) + series("bad", 20))
    database.wait_count(500)
    assert database.rows(
        "SELECT DISTINCT name, sqlstate, reason FROM metric_collectord.rejected"
    ) == [("bad", "MC001", "trigger")]
    assert database.count("metric_collectord.rejected") == 20
    collector.send(series("bad", 20))
    database.wait_count(40, "metric_collectord.rejected")
    collector.stop()


def test_rule_that_insert_would_follow(start_collector, database):
    """COPY does not: rows are found by COPY then, too."""
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    database.execute("CREATE RULE away AS ON INSERT TO metrics DO INSTEAD NOTHING")
    database.execute("ALTER TABLE metrics ADD CHECK (value <> 13)")
    collector.send(series("m", 100))
    collector.flush()
    database.wait_count(99)
    assert database.count("metric_collectord.rejected") == 1


# ---- the table ----


def test_column_that_gets_no_value(start_collector, database):
    collector = start_collector(database)
    collector.wait_event("database_connected")
    collector.send(series("m", 10))
    database.wait_count(10)
    database.execute("ALTER TABLE metrics ADD site text; UPDATE metrics SET site = '';"
                     "ALTER TABLE metrics ALTER site SET NOT NULL")
    collector.send(series("m", 20000, first=10))
    assert_held(collector, database, 20000, "23502", "site")
    database.execute("ALTER TABLE metrics ALTER site SET DEFAULT 'here'")
    database.wait_count(20010, timeout=60)
    assert database.count("metric_collectord.rejected") == 0


@pytest.mark.parametrize("first, last", [("2020-01-01", "2020-02-01"), ("2026-01-01", "2200-01-01")])
def test_no_partition(start_collector, database, first, last):
    """Neither where the present has one, nor where it has none."""
    database.execute(TABLE + " PARTITION BY RANGE (time)")
    database.execute(f"CREATE TABLE p1 PARTITION OF metrics FOR VALUES FROM ('{first}') TO ('{last}')")
    collector = start_collector(database)
    collector.send(series("m", 20000))
    assert_held(collector, database, 20000, "23514", "partition")
    database.execute(
        "CREATE TABLE p2 PARTITION OF metrics FOR VALUES FROM ('2025-06-01') TO ('2025-07-01')"
    )
    database.wait_count(20000, timeout=60)
    assert database.count("metric_collectord.rejected") == 0


def test_rule_that_is_broken(start_collector, database):
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute(rule("PERFORM missing(NEW.value);"))
    collector.send(series("m", 500))
    assert_held(collector, database, 500, "42883", "rule()")
    database.execute("CREATE FUNCTION missing(float8) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    database.wait_count(500, timeout=60)
    assert database.count("metric_collectord.rejected") == 0


def test_rule_against_everything(start_collector, database):
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute(rule("RAISE EXCEPTION 'maintenance';"))
    collector.send(series("m", 500))
    assert_held(collector, database, 500, "P0001", "rule()")
    database.execute("DROP TRIGGER rule ON metrics")
    database.wait_count(500, timeout=60)


# ---- a partition ----


def test_one_partition_that_refuses(start_collector, database):
    """Batches of other times are stored meanwhile; its own come back."""
    database.execute(TABLE + " PARTITION BY RANGE (time)")
    database.execute(
        "CREATE TABLE p1 PARTITION OF metrics FOR VALUES FROM ('2025-06-01') TO ('2025-06-16');"
        "CREATE TABLE p2 PARTITION OF metrics FOR VALUES FROM ('2025-06-16') TO ('2200-01-01');"
        "CREATE FUNCTION full_up() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM 1 / (NEW.value - NEW.value); RETURN NEW; END$$;"
        "CREATE TRIGGER full_up BEFORE INSERT ON p1 FOR EACH ROW EXECUTE FUNCTION full_up()"
    )
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    collector.send(series("m", 100))
    collector.flush()
    event = collector.wait_event("batch_held")
    assert event["sqlstate"] == "22012"
    assert "chunk" in event["hint"] and "full_up()" in event["hint"], event
    collector.send(series("m", 100, time_us=T0 + DAY))
    collector.flush()
    database.wait_count(100, "p2")
    database.execute("DROP TRIGGER full_up ON p1")
    database.wait_count(200, timeout=60)
    assert database.count("metric_collectord.rejected") == 0


# ---- a batch that is too large ----


def test_more_partitions_than_locks(start_collector, own_cluster):
    """Parts of the batch are transactions of their own, and each row is stored once."""
    database = crowded_database(own_cluster)
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("maintenance_done")
    collector.wait_event("database_connected")
    with closing(database.connect()) as connection:
        leave_locks(connection, 300)
        collector.send(crowd())
        collector.flush()
        assert collector.wait_event("batch_divided")["sqlstate"] == "53200"
        collector.wait_statistics(timeout=60, stored=ROWS, rejected=0, buffered=0)
    assert database.rows(
        "SELECT rows, rejected, bytes > 0, complete_until IS NOT NULL"
        " FROM metric_collectord.batches"
    ) == [(ROWS, 0, True, True)]
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(ROWS, ROWS)]


# ---- TimescaleDB ----


@pytest.fixture
def timescale_database(timescale_cluster):
    fresh = timescale_cluster.create_database()
    yield fresh
    timescale_cluster.execute(f'DROP DATABASE "{fresh.name}" WITH (FORCE)')


def test_one_chunk_that_refuses(start_collector, timescale_database):
    """A frozen one: its rows alone are held; among others, these are not kept waiting for them."""
    collector = start_collector(
        timescale_database, batch__interval=3600, database__timescaledb="require"
    )
    collector.wait_event("database_connected", timeout=60)
    collector.send(series("m", 100))
    collector.flush()
    timescale_database.wait_count(100)
    freeze = "SELECT _timescaledb_functions.{}_chunk(c) FROM show_chunks('metrics') c"
    timescale_database.execute(freeze.format("freeze"))
    collector.send(series("m", 100, first=100))
    collector.flush()
    assert "chunk" in collector.wait_event("batch_held")["hint"]
    collector.send(series("n", 100, time_us=T0 + DAY) + series("n", 10))
    collector.flush()
    timescale_database.wait_count(200)
    timescale_database.wait_count(10, "metric_collectord.rejected")
    assert timescale_database.value("SELECT DISTINCT reason FROM metric_collectord.rejected") == "other"
    timescale_database.execute(freeze.format("unfreeze") + " LIMIT 1")
    timescale_database.wait_count(300, timeout=60)
    collector.wait_statistics(stored=300, rejected=10, buffered=0)


def test_rule_on_a_hypertable(start_collector, timescale_database):
    """Also in chunks that do not exist, and that no row will make."""
    collector = start_collector(
        timescale_database, batch__interval=3600, database__timescaledb="require"
    )
    collector.wait_event("database_connected", timeout=60)
    timescale_database.execute(rule_against("bad", "MC001"))
    collector.send(series("bad", 300) + series("good", 300, time_us=T0 + DAY))
    collector.flush()
    timescale_database.wait_count(300)
    assert timescale_database.count("metric_collectord.rejected") == 300
    assert not collector.find("batch_held")
